"""Burned-in text: which images are checked for it, and what happens to images that seem to have it.

(0028,0301) BurnedInAnnotation is often absent and sometimes wrong. Therefore the value YES is trusted, and NO only for
images that rarely have burned-in text. Ultrasound, endoscopy, photographs, secondary captures and screen saves are
always checked (`medvit.deidentification.text_detector`).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from einops import rearrange
from jaxtyping import Num
from numpy import ndarray as Array
from pydantic import Field, model_validator

from medvit.config import Config
from medvit.deidentification.pixels import frames_of
from medvit.deidentification.text_detector import TextLine, blanked, find_lines, marks_beside, suspicion
from medvit.dicom.element_values import MODALITY
from medvit.dicom.file import open_elements
from medvit.dicom.header import load
from medvit.errors import DataError, GeometryError
from medvit.files.guard import decoding
from medvit.geometry import like, to_ras
from medvit.readers.dicom import source_affine
from medvit.records import Item
from medvit.types import Image

log = logging.getLogger("medvit")

Fate = Literal["", "masked", "kept"]
"""Treatment of an image that seems to have burned-in text; empty if none was found."""
FATES: tuple[Fate, ...] = ("", "kept", "masked")

RISKY_CLASSES = (
    "1.2.840.10008.5.1.4.1.1.3",
    "1.2.840.10008.5.1.4.1.1.6",
    "1.2.840.10008.5.1.4.1.1.7",
    "1.2.840.10008.5.1.4.1.1.77.1.1",
    "1.2.840.10008.5.1.4.1.1.77.1.4",
)
"""UID roots of ultrasound, secondary capture, endoscopy and photography (PS3.4 B.5), old and new."""
RISKY_MODALITIES = frozenset(("US", "IVUS", "ES", "XC", "SC", "OT", "DOC", "GM"))
RISKY_TYPES = ("SCREEN", "CAPTURE", "DOSE", "REPORT", "PROTOCOL", "SUMMARY", "TABLE", "PASTED")
"""Values of (0008,0008) ImageType that indicate a screen capture."""
_TAGS = ("BurnedInAnnotation", "SOPClassUID", "ImageType", "Modality", "ConversionType")


class BurnedInError(DataError):
    """Error for an image that is excluded because its pixels seem to contain text."""

    code = "burned_in"


class BurnedInConfig(Config):
    """Handling of burned-in text; `burned_in=mask` is short for `burned_in.policy=mask`."""

    policy: Literal["quarantine", "mask", "keep"] = "quarantine"
    """Handling of images with burned-in text. quarantine: exclude and list them. mask: blank the text (in volumes, in
    all slices). keep: store them unchanged. The number of such images is reported.
    """
    look_at: Literal["risky", "all"] = "risky"
    """Images to check for burned-in text. risky: kinds that often have it, such as ultrasound and screen captures. all:
    every image.
    """
    threshold: float = Field(default=0.4, gt=0.0, lt=1.0)
    """Suspicion score, from 0 to 1, above which an image counts as having text. A lower threshold finds more text, but
    has more false positives.
    """

    SHORT: ClassVar[str] = "policy"

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {cls.SHORT: value}
        if isinstance(value, dict) and isinstance(value.get("name"), str):
            return {cls.SHORT: value["name"], **{key: given for key, given in value.items() if key != "name"}}
        return value


@dataclass(frozen=True)
class Risk:
    """Reasons to check an image for burned-in text.

    `declares` states whether the header of the image declares burned-in text. `is_risky` states whether images of this
    type often have burned-in text.
    """

    declares: bool = False
    is_risky: bool = False


def risk(item: Item, modality: str = "") -> Risk:
    """Return the risk of burned-in text in an image, from its header.

    `modality` is used if the file does not state one.
    """
    if item.reader != "dicom":
        return Risk(is_risky=(item.modality or modality).upper() in RISKY_MODALITIES)
    with decoding("the DICOM header"):
        header = open_elements(item.files[0], stop_before_pixels=True, specific_tags=_TAGS)
        declared = str(header.get("BurnedInAnnotation") or "").strip().upper()
        sop_class = str(header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID") or "")
        kinds = " ".join(header.get("ImageType") or ()).upper()
        return Risk(
            declares=declared == "YES",
            is_risky=any(sop_class == root or sop_class.startswith(f"{root}.") for root in RISKY_CLASSES)
            or MODALITY.of(str(header.get("Modality") or modality)) in RISKY_MODALITIES
            or any(word in kinds for word in RISKY_TYPES)
            or bool(header.get("ConversionType")),
        )


def checked(image: Image, item: Item, config: BurnedInConfig, modality: str = "") -> tuple[Image, Fate]:
    """Check an image for burned-in text and apply the policy; return the image and its treatment.

    The treatment is `masked` or `kept`, or empty if no text was found.

    Raises:
        BurnedInError: If the image seems to have burned-in text and the policy is to exclude it, or the text cannot be
            masked.
    """
    found = risk(item, modality)
    if not found.declares and not found.is_risky and config.look_at == "risky":
        return image, ""
    lines = [find_lines(plane) for plane in _drawn(image, item)]
    if not found.declares and suspicion(chain.from_iterable(lines)) < config.threshold:
        return image, ""
    if config.policy == "keep":
        return image, "kept"
    if config.policy == "quarantine":
        raise BurnedInError(_why(found) + "; taking.burned_in=mask blanks it, taking.burned_in=keep keeps it")
    chosen = to_mask(zip(_drawn(image, item), lines, strict=True))
    if not chosen:
        raise BurnedInError(
            _why(found) + ", but the detector found no text line to mask; check the image and exclude it"
        )
    pixels = _masked(image.pixels, chosen) if image.kind == "image" else _masked_volume(image, item, chosen)
    if any(suspicion(find_lines(plane)) >= config.threshold for plane in _planes(pixels, image, item)):
        raise BurnedInError(_why(found) + ", and masking did not remove all of it")
    return replace(image, pixels=pixels), "masked"


def report(fates: Iterable[str], codes: Iterable[str]) -> None:
    """Log how many images seem to have burned-in text, and how they were treated."""
    counts = Counter([*(fate for fate in fates if fate), *(code for code in codes if code == BurnedInError.code)])
    if counts:
        shown = ", ".join(
            f"{number} {'excluded' if fate == BurnedInError.code else fate}" for fate, number in sorted(counts.items())
        )
        log.warning("burned-in text in %d images: %s", counts.total(), shown)


def to_mask(planes: Iterable[tuple[Num[Array, "h w *c"], Sequence[TextLine]]]) -> list[TextLine]:
    """Return the text lines to blank in planes that are known to have text, given the lines found in each plane.

    Lines with a high score are widened. The letters at the ends of a line, its commas and its accents are often too
    small or too close together to be detected as letters, and an initial or a two-digit number is not detected as a
    separate line.
    """
    chosen: set[TextLine] = set()
    for plane, found in planes:
        lines = [line for line in found if line.score >= MASK_FROM]
        strong = [line for line in lines if line.score >= STRONG]
        chosen.update(lines, (line.widened(SURROUNDINGS) for line in strong), marks_beside(plane, lines))
    return list(chosen)


MASK_FROM, STRONG = 0.1, 0.3
"""Minimum score of a text line to be blanked in an image that is masked, and minimum score to blank its surroundings
too.
"""
SURROUNDINGS = 2.0
"""Margin blanked at the ends of a line, in line heights; an eighth of it above and below."""


def _why(found: Risk) -> str:
    if found.declares:
        return "(0028,0301) BurnedInAnnotation declares burned-in text"
    return "the pixels seem to contain text"


def frames_in(files: Iterable[Path]) -> Iterator[Num[Array, "h w *c"]]:
    """Yield the frames of DICOM files as stored.

    Raises:
        UnreadableError: If pixels cannot be decoded.
    """
    for file in files:
        with decoding("the pixels"):
            frames = frames_of(load(file))
        yield from frames


def _drawn(image: Image, item: Item) -> Iterator[Num[Array, "h w *c"]]:
    """Yield the planes of an image to search for text. For a volume, these are the planes of its DICOM files."""
    if image.kind == "image":
        yield _flat(image.pixels)
    elif item.reader == "dicom":
        yield from frames_in(item.files)


def _flat(pixels: Num[Array, "c h w"]) -> Num[Array, "h w *c"]:
    return pixels[0] if len(pixels) == 1 else rearrange(pixels, "c h w -> h w c")


def _masked(pixels: Num[Array, "c h w"], lines: Iterable[TextLine]) -> Num[Array, "c h w"]:
    flat = blanked(_flat(pixels), lines, pixels.min())
    return flat[None] if flat.ndim == 2 else np.ascontiguousarray(rearrange(flat, "h w c -> c h w"))


def _masked_volume(image: Image, item: Item, lines: Iterable[TextLine]) -> Num[Array, "c i j k"]:
    """Return the voxels with text blanked: a line that was found in one plane is blanked in all planes.

    The other planes may contain the same text, but too faint to be found.
    """
    stored = _as_stored(image, item)
    masked = blanked(rearrange(stored, "c w h p -> h w p c"), lines, stored.min())
    turned, _ = to_ras(rearrange(masked, "h w p c -> c w h p"), source_affine(item))
    return np.ascontiguousarray(turned)


def _planes(pixels: Num[Array, "c *s"], image: Image, item: Item) -> Iterator[Num[Array, "h w *c"]]:
    if image.kind == "image":
        yield _flat(pixels)
    else:
        yield from rearrange(_as_stored(replace(image, pixels=pixels), item), "1 w h p -> p h w")


def _as_stored(image: Image, item: Item) -> Num[Array, "c w h p"]:
    """Return the voxels on the grid of the files: columns, rows and planes.

    Raises:
        BurnedInError: If the planes of the volume are not the planes of the files, for example after resampling.
    """
    try:
        if image.affine is None or item.is_resampled:
            raise GeometryError("the planes are not those of the files")
        return like(image.pixels, image.affine, source_affine(item))
    except GeometryError:
        raise BurnedInError(
            "a volume has burned-in text, but its planes are not the planes of its files, as in a mosaic or a "
            "resampled series, so the text cannot be masked; exclude the volume"
        ) from None
