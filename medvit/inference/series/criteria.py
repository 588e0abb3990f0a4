"""Criteria by which the series of a study are taken, and what a DICOM series is according to its headers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, get_args

import numpy as np

from medvit.dicom.header import read_elements
from medvit.errors import MedvitError
from medvit.files.guard import decoding
from medvit.readers.dicom import source_affine
from medvit.records import Item
from medvit.types import Orientation

if TYPE_CHECKING:
    from medvit.models.image import AppliesTo

DICOM = "dicom"
"""Name of the DICOM reader. Only its images state what they are; the user is responsible for the choice of others."""
TAGS = (0x0018_0015, 0x0018_0010, 0x0018_0012)
KEYWORDS = ("BodyPartExamined", "ContrastBolusAgent", "ContrastBolusAgentSequence")
AXES: tuple[Orientation, ...] = get_args(Orientation)
"""Names of planes, by the axis (R, A, S) along which they follow one another."""
OBLIQUE_COSINE = 0.8
"""Cosine of the angle to the nearest axis below which planes have no name: about 37 degrees."""


@dataclass(frozen=True)
class SeriesFacts:
    """Facts about a DICOM series, each read from its headers when it is asked for."""

    item: Item

    @property
    def num_slices(self) -> int:
        """Number of slices; 1 for a single image."""
        return len(self.item.frames or self.item.files)

    @property
    def orientation(self) -> str:
        """Direction of the planes of a volume: sagittal, coronal, axial, or oblique; empty if it is unknown."""
        if self._step_mm is None:
            return ""
        cosines = np.abs(self._step_mm) / np.linalg.norm(self._step_mm)
        return AXES[int(cosines.argmax())] if cosines.max() >= OBLIQUE_COSINE else "oblique"

    @property
    def spacing_mm(self) -> float | None:
        """Distance between neighboring slices of a volume."""
        return None if self._step_mm is None else float(np.linalg.norm(self._step_mm))

    @cached_property
    def body_part(self) -> str:
        """BodyPartExamined (0018,0015)."""
        return self._texts[0]

    @cached_property
    def has_contrast(self) -> bool:
        """Whether the header states a contrast agent (0018,0010) or (0018,0012)."""
        return any(self._texts[1:])

    @cached_property
    def _step_mm(self) -> np.ndarray | None:
        """Step from one slice to the next in RAS+."""
        if self.item.kind != "volume":
            return None
        try:
            return np.asarray(source_affine(self.item).matrix[:3, 2])
        except MedvitError:  # planes that reading resamples to a grid
            return None

    @cached_property
    def _texts(self) -> tuple[str, ...]:
        try:
            with decoding("the DICOM header"):
                found = read_elements(self.item.files[0], TAGS)
                return tuple(str(found.get(keyword) or "").strip() for keyword in KEYWORDS)
        except MedvitError:  # it is reported when the series is read
            return ("",) * len(KEYWORDS)


def misfits(item: Item, rule: AppliesTo) -> Iterator[str]:
    """Yield the reasons why a series does not meet a rule, if any. Free text of the series is not quoted."""
    part = item.parts[0]
    if item.kind != rule.kind:
        yield f"it is {_kind(item.kind)}, not {_kind(rule.kind)}"
    elif part.reader == DICOM:
        if not is_of_modality(item.modality, rule):
            yield f"its modality is {item.modality or 'unknown'}, not {rule.modality}"
        if not is_described(item.description, rule):
            yield f"its description does not match {rule.description!r}"
        yield from _of_geometry(SeriesFacts(part), rule)
        yield from _of_examination(SeriesFacts(part), rule)


def _of_geometry(facts: SeriesFacts, rule: AppliesTo) -> Iterator[str]:
    if rule.num_slices is not None and not _within(facts.num_slices, rule.num_slices):
        yield f"it has {facts.num_slices} slices, not {_range(rule.num_slices)}"
    if rule.orientation is not None and facts.orientation != rule.orientation:
        yield f"its planes are {facts.orientation or 'of unknown direction'}, not {rule.orientation}"
    if rule.spacing_mm is not None:
        found = facts.spacing_mm
        if found is None or not _within(round(found, 3), rule.spacing_mm):
            text = "unknown" if found is None else f"{found:.3g} mm"
            yield f"the distance of its slices is {text}, not {_range(rule.spacing_mm)} mm"


def _of_examination(facts: SeriesFacts, rule: AppliesTo) -> Iterator[str]:
    if rule.body_part is not None and not re.search(rule.body_part, facts.body_part, re.IGNORECASE):
        yield f"its BodyPartExamined does not match {rule.body_part!r}"
    if rule.contrast is not None and facts.has_contrast != rule.contrast:
        yield f"its header states {'a' if facts.has_contrast else 'no'} contrast agent"


def is_of_modality(modality: str, rule: AppliesTo) -> bool:
    """Return whether a modality meets a rule."""
    return not rule.modality or modality.upper() == rule.modality.upper()


def is_described(description: str, rule: AppliesTo) -> bool:
    """Return whether a SeriesDescription meets a rule."""
    return not rule.description or re.search(rule.description, description, re.IGNORECASE) is not None


def _kind(kind: str) -> str:
    return f"an {kind}" if kind == "image" else f"a {kind}"


def _within(value: float, limits: tuple[float, float]) -> bool:
    return limits[0] <= value <= limits[1]


def _range(limits: tuple[float, float]) -> str:
    return f"{limits[0]:g} to {limits[1]:g}"
