"""Frames of a segmentation: their functional groups, encoded directly, and their bit-packed pixels.

The classes of highdicom and pydicom take milliseconds for each frame, which is most of the time of a study. Therefore,
highdicom builds a segmentation with one frame, and the functional groups of all frames are encoded like those of this
frame. The file is equal to the one that they would write.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt
from numpy import ndarray as Array

from medvit.files.atomic import write_bytes
from medvit.series.frames import PER_FRAME
from medvit.writers.dicom_parts.source_instances import Sources

if TYPE_CHECKING:
    from pydicom import Dataset

ITEM = struct.pack("<HH", 0xFFFE, 0xE000)
"""Tag of an item of a sequence (PS3.5 7.5)."""
PER_FRAME_TAG = 0x5200_9230
LONG_HEADER = 12
"""Bytes of tag, value representation and length of an element whose length has 32 bits (PS3.5 7.1.2)."""
DECIMAL_CHARACTERS = 16
SOURCE_KEYWORDS = ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID", "ReferencedFrameNumber")
"""Elements of a reference to a source image that differ between frames, in the order of their tags."""


def write_with_frames(
    path: Path, segmentation: Dataset, frames: Sequence[tuple[int, int]], pixels: bytes, sources: Sources
) -> None:
    """Write a segmentation that has one frame as a file with other frames and pixels.

    Each frame is given by the number of its segment, from 1, and of its plane in the source, from 0.
    """
    groups = _FrameGroups(segmentation[PER_FRAME].value[0], sources)
    planes = {plane: number for number, plane in enumerate(sorted({plane for _, plane in frames}), start=1)}
    encoded = [groups.encoded(segment, plane, planes[plane]) for segment, plane in frames]
    del segmentation[PER_FRAME]
    segmentation.NumberOfFrames = len(frames)
    segmentation.PixelData = pixels + bytes(len(pixels) % 2)
    buffer = BytesIO()
    segmentation.save_as(buffer)
    content = buffer.getvalue()
    end = len(content) - LONG_HEADER - len(segmentation.PixelData)  # pixels are the last element
    write_bytes(path, content[:end] + _sequence(PER_FRAME_TAG, encoded) + content[end:])


def packed(frames: UInt[Array, "n h w"], found: Sequence[tuple[int, int]]) -> bytes:
    """Return the pixels of the frames of segments as bits, one frame after the other, padded to 16 bits."""
    bits = [frames[plane] == segment for segment, plane in found]
    if frames[0].size % 8:
        joined = np.packbits(np.concatenate([one.ravel() for one in bits]), bitorder="little").tobytes()
    else:
        joined = b"".join(np.packbits(one, bitorder="little").tobytes() for one in bits)
    return joined + bytes(len(joined) % 2)


@dataclass(frozen=True)
class _FrameGroups:
    """Encoder of the functional groups of frames, which are like those of an existing frame."""

    like: Dataset
    sources: Sources

    def encoded(self, segment: int, plane: int, number: int) -> bytes:
        """Return the functional groups of a frame; `number` is the index of its plane among those of all frames."""
        if plane not in self._of_planes:
            self._of_planes[plane] = (self._derivation(plane), self._position(plane))
        derivation, position = self._of_planes[plane]
        return derivation + self._content(segment, number) + position + self._identification(segment)

    @cached_property
    def _of_planes(self) -> dict[int, tuple[bytes, bytes]]:
        return {}

    @cached_property
    def _static(self) -> tuple[bytes, bytes, str]:
        """Elements of derivation and source image that all frames have, and the SOP class of the source."""
        derivation = self.like.DerivationImageSequence[0]
        source = derivation.SourceImageSequence[0]
        own = _plain({one.keyword: one.value for one in derivation if one.keyword != "SourceImageSequence"})
        rest = _plain({one.keyword: one.value for one in source if one.keyword not in SOURCE_KEYWORDS})
        return own, rest, str(source.ReferencedSOPClassUID)

    def _derivation(self, plane: int) -> bytes:
        if "DerivationImageSequence" not in self.like:
            return b""
        own, rest, sop_class = self._static
        source = _short(0x0008_1150, "UI", sop_class)
        source += _short(
            0x0008_1155, "UI", str(self.sources.headers[0 if self.sources.frames else plane].SOPInstanceUID)
        )
        if self.sources.frames:
            source += _short(0x0008_1160, "IS", str(self.sources.frames[plane] + 1))
        return _sequence(0x0008_9124, [_sequence(0x0008_2112, [source + rest]) + own])

    def _position(self, plane: int) -> bytes:
        if "PlanePositionSequence" not in self.like:
            return b""
        header = self.sources.headers[0 if self.sources.frames else plane]
        if self.sources.frames:
            header = header[PER_FRAME].value[plane].PlanePositionSequence[0]
        text = "\\".join(map(_decimal, header.ImagePositionPatient))
        return _sequence(0x0020_9113, [_short(0x0020_0032, "DS", text)])

    def _content(self, segment: int, number: int) -> bytes:
        own = self.like.FrameContentSequence[0]
        first = own.DimensionIndexValues
        num_dimensions = len(first) if not isinstance(first, int) else 1
        values = [segment, number] if num_dimensions == 2 else [number if self._has_position else segment]
        content = _element(0x0020_9157, "UL", struct.pack(f"<{len(values)}I", *values))
        return _sequence(0x0020_9111, [content])

    @property
    def _has_position(self) -> bool:
        return "PlanePositionSequence" in self.like

    def _identification(self, segment: int) -> bytes:
        if "SegmentIdentificationSequence" not in self.like:  # the only segment is shared by all frames
            return b""
        return _sequence(0x0062_000A, [_element(0x0062_000B, "US", struct.pack("<H", segment))])


def _decimal(value: Any) -> str:
    """Return a number as the source has it or, if that is too long, in the 16 characters of a decimal string."""
    from pydicom.valuerep import format_number_as_ds

    return str(value) if len(str(value)) <= DECIMAL_CHARACTERS else format_number_as_ds(float(value))


def _plain(elements: dict[str, Any]) -> bytes:
    """Return elements as pydicom encodes them, in explicit little endian."""
    from pydicom import Dataset
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_dataset

    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, dataset)
    return buffer.getvalue()


def _short(tag: int, representation: str, text: str) -> bytes:
    """Return an element with a text, padded to an even length (PS3.5 6.2)."""
    padding = b"\0" if representation == "UI" else b" "
    value = text.encode("ascii")
    return _element(tag, representation, value + padding * (len(value) % 2))


def _element(tag: int, representation: str, value: bytes) -> bytes:
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, representation.encode("ascii"), len(value)) + value


def _sequence(tag: int, items: Sequence[bytes]) -> bytes:
    """Return a sequence with items of explicit length."""
    content = b"".join(ITEM + struct.pack("<I", len(one)) + one for one in items)
    return struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, b"SQ", 0, len(content)) + content
