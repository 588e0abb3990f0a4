"""Anatomical axes and units of MetaImage and NRRD, which ITK interprets only in part.

ITK interprets every space as LPS in mm, except the NRRD spaces RAS and LAS, regardless of the other fields.
"""

from __future__ import annotations

import re

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.errors import GeometryError
from medvit.readers.itk_header import TextHeader

ANATOMICAL = re.compile(
    r"(right-anterior-superior|left-anterior-superior|left-posterior-superior)(-time)?|(ras|las|lps)t?", re.IGNORECASE
)
"""NRRD spaces with anatomical directions."""
IDENTITY = "RAI"
"""MetaIO's code for axes to the left, back and head: each letter is where an axis starts."""
FROM = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "I": (0, 0, 1), "S": (0, 0, -1)}
"""Side at which an axis starts -> direction (LPS) of this axis."""
LEAST_COSINE = 0.1
"""Minimum cosine between an axis and the direction that its letter names; small, to allow for oblique axes."""
MM_PER_UNIT = {
    **dict.fromkeys(("mm", "millimeter", "millimeters"), 1.0),
    **dict.fromkeys(("m", "meter", "meters"), 1000.0),
    **dict.fromkeys(("cm", "centimeter", "centimeters"), 10.0),
    **dict.fromkeys(("um", "\N{MICRO SIGN}m", "\N{GREEK SMALL LETTER MU}m", "micron", "microns", "micrometer"), 1e-3),
}


def names_axes(header: TextHeader) -> bool:
    """Return whether the header of a volume states its anatomical axes."""
    if header.is_nrrd:
        return bool(ANATOMICAL.fullmatch(header.get("space"))) and bool(header.get("spacedirections"))
    return bool(_matrix(header)) or _code(header) == IDENTITY


def lacks_directions(header: TextHeader) -> bool:
    """Return whether a NRRD lacks the directions of its axes in space."""
    return header.is_nrrd and not header.get("spacedirections")


def what_lacks(header: TextHeader) -> str:
    """Return a text that describes which anatomical axes the header lacks."""
    if not header.is_nrrd:
        code = _code(header)
        if not code:
            return "a MetaImage without TransformMatrix and AnatomicalOrientation, so left and right are unknown"
        return f"a MetaImage with AnatomicalOrientation {code} and no TransformMatrix, which programs read in two ways"
    if not header.get("space"):
        return "the NRRD has no field 'space', so left and right are unknown"
    if not lacks_directions(header):
        return "the field 'space' of the NRRD does not name sides of a patient, so left and right are unknown"
    return "the NRRD has no 'space directions', so the directions of its axes are unknown"


def check_axes(header: TextHeader, directions: Float[Array, "3 3"]) -> None:
    """Compare the axis directions (LPS, one column per axis) with AnatomicalOrientation, if both are given.

    Raises:
        GeometryError: If an axis contradicts its letter.
    """
    code = _code(header)
    if header.is_nrrd or not code or not _matrix(header):
        return
    cosines = [np.dot(directions[:, axis], FROM[letter]) for axis, letter in enumerate(code)]
    if min(cosines) < LEAST_COSINE:
        raise GeometryError(
            f"AnatomicalOrientation {code} contradicts TransformMatrix, and it is unknown which is right; "
            "remove the field that is wrong from the header"
        )


def mm_per_unit(header: TextHeader) -> float:
    """Return the number of millimeters per unit of length in a file.

    Raises:
        GeometryError: If the unit of length is unknown, or differs between axes.
    """
    units = re.findall(r'"([^"]*)"', header.get("spaceunits")) if header.is_nrrd else [header.get("distanceunits")]
    known = {MM_PER_UNIT.get(unit.strip().lower()) for unit in units if unit.strip()}
    if None in known or len(known) > 1:
        raise GeometryError("the unit of length is unknown or differs between axes; expected mm, cm, m or um")
    return known.pop() or 1.0 if known else 1.0


def _matrix(header: TextHeader) -> str:
    return header.get("transformmatrix", "rotation", "orientation")


def _code(header: TextHeader) -> str:
    """Return the three letters of AnatomicalOrientation; empty if the field is missing."""
    code = header.get("anatomicalorientation").upper()[:3]
    return code if len(code) == 3 and all(letter in FROM for letter in code) else ""
