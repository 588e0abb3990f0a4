"""DICOM slides: VL Whole Slide Microscopy (PS3.3 A.32.8) through wsidicom, one or more files per level."""

from __future__ import annotations

import filecmp
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray as Array

from medvit.errors import DataError, NotAnImageError, UnreadableError, UnsupportedError
from medvit.files.guard import refusal
from medvit.records import Identity, Item, Refusal, patients_of
from medvit.wsi.pyramid import PyramidLevel

PREAMBLE = 128
WHOLE_SLIDE = b"1.2.840.10008.5.1.4.1.1.77.1.6"
CACHE_BYTES = 2**24
"""Size of the cache for the decoded tiles of one slide, and of the cache for its encoded tiles."""
MODALITY = "SM"
IDENTIFYING = (
    "PatientID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "IssuerOfPatientID",
    "InstitutionName",
    "StudyDate",
)
"""Elements of an `Identity`, in the order of its fields."""
READ = (
    *IDENTIFYING,
    "SOPClassUID",
    "ImageType",
    "Modality",
    "SOPInstanceUID",
    "PyramidUID",
)
PARTS = ("optical_paths", "focal_planes")
"""Attributes of a level in wsidicom whose entries show the same positions in different ways."""
PICTURES = ("LABEL", "OVERVIEW", "LOCALIZER")
"""Third values of (0008,0008) ImageType of images that are not levels: label and overview often show names."""


def claims(head: bytes) -> bool:
    """Return whether the first bytes of a file are DICOM with an SOP class of whole slide microscopy."""
    if head[PREAMBLE : PREAMBLE + 4] != b"DICM" or WHOLE_SLIDE not in head:
        return False
    return head.partition(WHOLE_SLIDE)[2][:1] in (b"\0", b"\2", b"")  # the UID ends there: excludes annotations


@dataclass(frozen=True)
class _Header:
    file: Path
    kind: str
    identity: Identity
    instance: str
    pyramid: str


def series(files: Sequence[Path], reader: str) -> Iterator[Item | Refusal]:
    """Yield the slides in DICOM files, one per series, and the refused files; labels and overviews are excluded."""
    groups: dict[tuple[object, ...], list[_Header]] = {}
    seen = [_header(file) for file in files]
    known = [header for header in seen if isinstance(header, _Header)]
    patients = dict(zip(map(id, known), patients_of(header.identity for header in known), strict=True))
    for file, header in zip(files, seen, strict=True):
        if isinstance(header, Refusal):
            yield header
        elif header.kind in PICTURES:
            yield Refusal(
                (file,), NotAnImageError.code, f"the {header.kind.lower()} picture of a slide, which may show names"
            )
        else:
            who, what = patients[id(header)], header.identity  # two patients may share a series UID
            key = (who, what.study, what.series) if what.series else (str(file),)
            groups.setdefault(key, []).append(header)
    for group in groups.values():
        pyramids = {header.pyramid for header in group if header.pyramid}
        if len(pyramids) > 1:
            yield refusal([header.file for header in group], _several(f"{len(pyramids)} pyramids"))
            continue
        parts, copies = _apart(group)
        yield from (Refusal((copy,), "duplicate", "a second copy of a file of its slide") for copy in copies)
        yield Item(reader, parts, "slide", modality=MODALITY, identity=group[0].identity)


def _apart(group: Sequence[_Header]) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Return the files of a slide without identical copies, and the copies.

    If different files have the same UID, all of them are returned; opening the slide then fails.
    """
    first: dict[str, Path] = {}
    parts, copies = list[Path](), list[Path]()
    for header in group:
        named = first.setdefault(header.instance or str(header.file), header.file)
        is_copy = named != header.file and filecmp.cmp(named, header.file, shallow=False)
        (copies if is_copy else parts).append(header.file)
    return tuple(parts), tuple(copies)


def _header(file: Path) -> _Header | Refusal:
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    try:
        dataset = dcmread(file, stop_before_pixels=True, specific_tags=list(READ))
    except (InvalidDicomError, OSError, ValueError, KeyError, EOFError):
        return Refusal((file,), UnreadableError.code, "the header of the DICOM slide cannot be read; it is damaged")
    words = [str(word) for word in dataset.get("ImageType") or ()]
    texts = (str(dataset.get(key) or "") for key in IDENTIFYING)
    instance = str(dataset.get("SOPInstanceUID") or "")
    pyramid = str(dataset.get("PyramidUID") or "")
    return _Header(file, words[2] if len(words) > 2 else "", Identity(*texts), instance, pyramid)


class DicomPyramid:
    """Levels of one DICOM series, read through wsidicom."""

    def __init__(self, files: Sequence[Path]) -> None:
        from wsidicom import Settings, WsiDicom
        from wsidicom.config import use_settings
        from wsidicom.errors import WsiDicomError, WsiDicomUidDuplicateError
        from wsidicom.file import WsiDicomFileSource

        logging.getLogger("wsidicom").setLevel(logging.ERROR)  # its warnings quote headers
        settings = Settings(
            strict_tile_size_check=False,
            decoded_frame_cache_size=CACHE_BYTES,
            encoded_frame_cache_size=CACHE_BYTES,
        )
        try:
            with use_settings(settings):
                source = WsiDicomFileSource.open(list(files))
                _require_all(source, files)
                self.pixel_um = _pixel_um(source)
                self._slide = WsiDicom(source, True, settings=settings)
            found = _levels(self._slide, source)
        except WsiDicomUidDuplicateError:
            raise UnreadableError(
                f"two of the {len(files)} DICOM files of the slide have the same (0008,0018) SOPInstanceUID but "
                "differ; it is unknown which is right: remove the wrong one"
            ) from None
        except WsiDicomError:
            raise UnreadableError(
                f"the {len(files)} DICOM files of the slide do not form a pyramid; expected VL Whole Slide "
                "Microscopy, tiled, with one VOLUME image per level"
            ) from None
        self._numbers = [level.level for level in found]
        height, width = found[0].size.height, found[0].size.width
        self.levels = tuple(
            PyramidLevel(
                (level.size.height, level.size.width), math.sqrt(height / level.size.height * width / level.size.width)
            )
            for level in found
        )
        self.tile_side = int(found[0].tile_size.width)

    def region(self, level: int, x: int, y: int, width: int, height: int) -> UInt8[Array, "h w 3"]:
        """Read the pixels of a region of a level."""
        found = self._slide.read_region((x, y), self._numbers[level], (width, height), as_array=True)
        pixels = np.asarray(found)
        if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
            raise UnsupportedError(f"a DICOM slide of {pixels.dtype} pixels; expected 8 bits per channel")
        return np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels[..., :3]

    def close(self) -> None:
        """Close the files."""
        self._slide.close()


def _require_all(source: Any, files: Sequence[Path]) -> None:
    """Check that every file was opened, because wsidicom silently skips files that it cannot read."""
    instances = (*source.level_instances, *source.thumbnail_instances, *source.overview_instances)
    missing = len(files) - sum(len(one.datasets) for one in (*instances, *source.label_instances))
    if missing > 0:
        raise UnreadableError(
            f"{missing} of the {len(files)} DICOM files of the slide cannot be opened as its levels; expected VL "
            "Whole Slide Microscopy, tiled, of one slide: copy them again, or remove files of other slides"
        )


def _pixel_um(source: Any) -> tuple[float, float] | None:
    """Return the pixel width and height of the largest level in microns; None without (0028,0030) PixelSpacing.

    wsidicom cannot open a level without spacing and extent. Such levels are given values derived from their sizes in
    pixels, in arbitrary units; these give the ratios of the levels, while the scale remains unknown.
    """
    from wsidicom.geometry import SizeMm

    levels = sorted(source.level_instances, key=lambda level: level.size.width, reverse=True)
    if not levels:
        return None
    base, known = levels[0].size.width, levels[0].pixel_spacing
    side = known or SizeMm(1.0, 1.0)
    for level in levels:
        spacing = side * (base / level.size.width)
        for dataset in level.datasets:
            dataset.pixel_spacing = dataset.pixel_spacing or spacing
            dataset.mm_size = dataset.mm_size or SizeMm(spacing.width * level.size.width, 1.0)
    return None if known is None else (known.width * 1000.0, known.height * 1000.0)


def _several(found: str) -> UnsupportedError:
    return UnsupportedError(
        f"a DICOM slide of {found} in one series; expected one of each: export each as a series of its own"
    )


def _levels(slide: Any, source: Any) -> list[Any]:
    """Return the levels of the single pyramid of one optical path and focal plane.

    Raises:
        UnsupportedError: If the files contain several pyramids, optical paths or focal planes, and none is marked as
            primary.
    """
    pyramids = list(slide.pyramids)
    levels = list(pyramids[0])
    paths, planes = ({one for level in levels for one in getattr(level, name)} for name in PARTS)
    same = max(len(level.instances) for level in levels)
    counts = {"pyramids": len(pyramids), "optical paths": len(paths), "focal planes": len(planes)}
    if max(counts.values()) == 1:
        # wsidicom keeps one level per scale: the last of several.
        lost = sum(len(one.datasets) for one in source.level_instances) - sum(len(level.datasets) for level in levels)
        counts = {"pictures of one size": same, "pictures of one scale": lost + 1}
    if max(counts.values()) > 1:
        found = ", ".join(f"{count} {name}" for name, count in counts.items() if count > 1)
        slide.close()
        raise _several(found)
    return levels


def siblings(file: Path) -> tuple[Path, ...]:
    """Return all files of the slide to which a DICOM file belongs; they are in the folder of the file.

    Raises:
        DataError: If the file is not a level of a slide.
    """
    files = [other for other in sorted(file.parent.iterdir()) if other.is_file() and _claims(other)]
    for found in series(files, ""):
        if isinstance(found, Item) and file in found.files:
            return found.files
        if isinstance(found, Refusal) and file in found.files and found.code == UnsupportedError.code:
            raise UnsupportedError(found.reason)
    raise DataError("the DICOM file is not a level of a slide; expected VL Whole Slide Microscopy")


def _claims(file: Path) -> bool:
    with file.open("rb") as stream:
        return claims(stream.read(512))
