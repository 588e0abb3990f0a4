"""Slides that are DICOM: VL Whole Slide Microscopy (PS3.3 A.32.8) through wsidicom, a file a level and more."""

from __future__ import annotations

import filecmp
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray as Array

from medvit.errors import DataError, NotAnImageError, UnreadableError, UnsupportedError
from medvit.records import Identity, Item, Refusal
from medvit.wsi.pyramid import PyramidLevel

PREAMBLE = 128
WHOLE_SLIDE = b"1.2.840.10008.5.1.4.1.1.77.1.6"
CACHE_BYTES = 2**24
"""Decoded tiles of one slide kept at most, and as much again of coded ones."""
MODALITY = "SM"
READ = ("SOPClassUID", "ImageType", "SeriesInstanceUID", "StudyInstanceUID", "PatientID", "Modality", "SOPInstanceUID")
PICTURES = ("LABEL", "OVERVIEW", "LOCALIZER")
"""Third value of (0008,0008) ImageType of what is no level: the label and the whole glass often show names."""


def claims(head: bytes) -> bool:
    """Whether the first bytes of a file are those of DICOM and name whole slide microscopy as the class."""
    if head[PREAMBLE : PREAMBLE + 4] != b"DICM" or WHOLE_SLIDE not in head:
        return False
    return head.partition(WHOLE_SLIDE)[2][:1] in (b"\0", b"\2", b"")  # the UID ends there: no annotations


@dataclass(frozen=True)
class _Header:
    file: Path
    kind: str
    identity: Identity
    instance: str


def series(files: Sequence[Path], reader: str) -> Iterator[Item | Refusal]:
    """The slides in DICOM files, one a series, and the files that are none: labels and overviews are left out."""
    groups: dict[str, list[_Header]] = {}
    for file in files:
        header = _header(file)
        if isinstance(header, Refusal):
            yield header
        elif header.kind in PICTURES:
            yield Refusal(
                (file,), NotAnImageError.code, f"the {header.kind.lower()} picture of a slide, which may show names"
            )
        else:
            groups.setdefault(header.identity.series or str(file), []).append(header)
    for group in groups.values():
        parts, copies = _apart(group)
        yield from (Refusal((copy,), "duplicate", "a second copy of a file of its slide") for copy in copies)
        yield Item(reader, parts, "slide", modality=MODALITY, identity=group[0].identity)


def _apart(group: Sequence[_Header]) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """The files of a slide without second copies, and these; files of one UID that differ keep it from being opened."""
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
    texts = (str(dataset.get(key) or "") for key in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID"))
    instance = str(dataset.get("SOPInstanceUID") or "")
    return _Header(file, words[2] if len(words) > 2 else "", Identity(*texts), instance)


class DicomPyramid:
    """The levels of one DICOM series, read through wsidicom."""

    def __init__(self, files: Sequence[Path]) -> None:
        from wsidicom import Settings, WsiDicom
        from wsidicom.errors import WsiDicomError, WsiDicomUidDuplicateError

        logging.getLogger("wsidicom").setLevel(logging.ERROR)  # its warnings quote headers
        settings = Settings(
            strict_tile_size_check=False,
            decoded_frame_cache_size=CACHE_BYTES,
            encoded_frame_cache_size=CACHE_BYTES,
        )
        try:
            self._slide = WsiDicom.open(list(files), settings=settings)
            found = list(self._slide.pyramids[0])
        except WsiDicomUidDuplicateError:
            raise UnreadableError(
                f"two of the {len(files)} DICOM files of the slide have one (0008,0018) SOPInstanceUID and "
                "differ; which is right cannot be told: remove the wrong one"
            ) from None
        except WsiDicomError:
            raise UnreadableError(
                f"the {len(files)} DICOM files of the slide make no pyramid; expected VL Whole Slide Microscopy, "
                "tiled, with one volume picture a level"
            ) from None
        self._numbers = [level.level for level in found]
        height, width = found[0].size.height, found[0].size.width
        self.levels = tuple(
            PyramidLevel(
                (level.size.height, level.size.width), math.sqrt(height / level.size.height * width / level.size.width)
            )
            for level in found
        )
        self.mpp = _mpp(found[0])
        self.tile_side = int(found[0].tile_size.width)

    def region(self, level: int, x: int, y: int, width: int, height: int) -> UInt8[Array, "h w 3"]:
        """Pixels of a region of a level."""
        found = self._slide.read_region((x, y), self._numbers[level], (width, height), as_array=True)
        pixels = np.asarray(found)
        if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
            raise UnsupportedError(f"a DICOM slide of {pixels.dtype} pixels; expected 8 bits a channel")
        return np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels[..., :3]

    def close(self) -> None:
        """Lets go of the files."""
        self._slide.close()


def _mpp(level: object) -> float | None:
    from wsidicom.errors import WsiDicomNoResolutionError

    try:
        size = level.mpp  # type: ignore[attr-defined]
    except WsiDicomNoResolutionError:
        return None
    return math.sqrt(size.width * size.height) or None


def siblings(file: Path) -> tuple[Path, ...]:
    """The files of the same slide in the folder of one of them.

    Raises:
        DataError: If the file is no level of a slide.
    """
    files = [other for other in sorted(file.parent.iterdir()) if other.is_file() and _claims(other)]
    for found in series(files, ""):
        if isinstance(found, Item) and file in found.files:
            return found.files
    raise DataError("the DICOM file is no level of a slide; expected VL Whole Slide Microscopy")


def _claims(file: Path) -> bool:
    with file.open("rb") as stream:
        return claims(stream.read(512))
