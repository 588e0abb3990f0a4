"""Empty frames of binary segmentations, by which bit-packed pixels end on a boundary of 16 bits.

DICOM packs the pixels of all frames one after the other, one bit each, and pads the end to 16 bits (PS3.5 8.2). The
loader of OHIF (@cornerstonejs/adapters 5.14, `getBitmapFramesFromDataset`) infers from the number of bytes whether each
frame begins on a new byte. If the pixels of a frame are not a multiple of 8, padding can make it infer wrongly or
refuse the file. Without padding, the packing is unambiguous for every reader.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableSequence, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from medvit.writers.dicom_parts.source_instances import Sources

if TYPE_CHECKING:
    from pydicom import Dataset

WORD_BITS = 16


def num_bytes(frame_pixels: int, num_frames: int) -> int:
    """Return the length of bit-packed pixels, padded to 16 bits."""
    return 2 * math.ceil(frame_pixels * num_frames / WORD_BITS)


def is_unambiguous(frame_pixels: int, num_frames: int) -> bool:
    """Return whether OHIF reads this number of frames right."""
    length = num_bytes(frame_pixels, num_frames)
    if length == frame_pixels * num_frames:  # taken for one byte a pixel
        return False
    if length == math.ceil(frame_pixels / 8) * num_frames:  # taken for frames that begin on a byte
        return num_frames == 1 or frame_pixels % 8 == 0
    return length == math.ceil(frame_pixels * num_frames / 8)


def num_to_keep(frame_pixels: int, num_frames: int, num_available: int) -> int | None:
    """Return the number of empty frames to add to `num_frames`, of which there are `num_available`.

    It is the lowest that makes the bits a multiple of 16 or, if there are too few, the lowest that OHIF reads right;
    None, if there is neither.
    """
    step = WORD_BITS // math.gcd(frame_pixels, WORD_BITS)
    needed = -num_frames % step
    if needed <= num_available:
        return needed
    return next((n for n in range(num_available + 1) if is_unambiguous(frame_pixels, num_frames + n)), None)


def pack_unambiguously(segmentation: Dataset, sources: Sources) -> bool:
    """Append empty frames to a binary segmentation until its packing is unambiguous; return whether it is.

    Planes that have frames of other segments come first. Frames of planes that had none change the index of planes.
    """
    groups = segmentation.PerFrameFunctionalGroupsSequence
    pixels, used = int(segmentation.Rows) * int(segmentation.Columns), len(groups)
    if pixels * used % WORD_BITS == 0:
        return True
    numbers = {header.SOPInstanceUID: number for number, header in enumerate(sources.headers)}
    present = [(_segment(group), _plane(group, sources, numbers)) for group in groups]
    others = _others(present, len(segmentation.SegmentSequence), len(sources.frames or sources.headers))
    num_empty = num_to_keep(pixels, used, len(others))
    for segment, plane in others[: num_empty or 0]:
        groups.append(_empty_frame(groups[0], segment, plane, sources))
        present.append((segment, plane))
    if num_empty and sources.affine is not None:
        _number_planes(groups, [plane for _, plane in present])
    segmentation.NumberOfFrames = len(groups)
    packed = bytes(segmentation.PixelData)[: math.ceil(pixels * used / 8)]
    segmentation.PixelData = packed.ljust(num_bytes(pixels, len(groups)), b"\0")
    return num_empty is not None


def set_frames(segmentation: Dataset, frames: Sequence[tuple[int, int]], sources: Sources) -> None:
    """Replace the frames of a segmentation by others, each given by the number of its segment and of its plane.

    PixelData remain to be set.
    """
    (like, *_) = segmentation.PerFrameFunctionalGroupsSequence
    groups = [_empty_frame(like, segment, plane, sources) for segment, plane in frames]
    if sources.affine is not None:
        _number_planes(groups, [plane for _, plane in frames])
    segmentation.PerFrameFunctionalGroupsSequence = groups
    segmentation.NumberOfFrames = len(groups)


def pad_pixels(segmentation: Dataset) -> None:
    """Pad pixels of 8 or 16 bits to an even length with a zero byte; highdicom pads with the character 0."""
    shape = (segmentation.Rows, segmentation.Columns, segmentation.NumberOfFrames, segmentation.BitsAllocated // 8)
    length = math.prod(map(int, shape))
    segmentation.PixelData = bytes(segmentation.PixelData)[:length].ljust(length + length % 2, b"\0")


def _others(present: Sequence[tuple[int, int]], num_segments: int, num_planes: int) -> list[tuple[int, int]]:
    """Return the segments and planes without a frame, those in planes with other frames first."""
    planes = dict.fromkeys([*(plane for _, plane in present), *range(num_planes)])
    taken = set(present)
    every = ((segment, plane) for plane in planes for segment in range(1, num_segments + 1))
    return [pair for pair in every if pair not in taken]


def _segment(group: Dataset) -> int:
    """Return the segment of a frame: if there is only one, it is shared by all frames."""
    found = group.get("SegmentIdentificationSequence")
    return int(found[0].ReferencedSegmentNumber) if found else 1


def _plane(group: Dataset, sources: Sources, numbers: Mapping[str, int]) -> int:
    """Return the number of the plane that a frame refers to, from 0; `numbers` are those of instances."""
    source = group.DerivationImageSequence[0].SourceImageSequence[0]
    return int(source.ReferencedFrameNumber) - 1 if sources.frames else numbers[source.ReferencedSOPInstanceUID]


def _empty_frame(like: Dataset, segment: int, plane: int, sources: Sources) -> Dataset:
    """Return the functional groups of a frame, made from those of another frame."""
    group = deepcopy(like)
    source = group.DerivationImageSequence[0].SourceImageSequence[0]
    if sources.frames:
        source.ReferencedFrameNumber = plane + 1
    else:
        source.ReferencedSOPInstanceUID = sources.headers[plane].SOPInstanceUID
    if "PlanePositionSequence" in group:
        group.PlanePositionSequence[0].ImagePositionPatient = _position(sources, plane)
    if "SegmentIdentificationSequence" in group:
        group.SegmentIdentificationSequence[0].ReferencedSegmentNumber = segment
        content = group.FrameContentSequence[0]
        content.DimensionIndexValues = [segment, *_values(content.DimensionIndexValues)[1:]]
    return group


def _position(sources: Sources, plane: int) -> list[float]:
    """Return ImagePositionPatient of a plane of the source, in mm, LPS."""
    header = sources.headers[0 if sources.frames else plane]
    if sources.frames:
        header = header.PerFrameFunctionalGroupsSequence[plane].PlanePositionSequence[0]
    return list(header.ImagePositionPatient)


def _number_planes(groups: Sequence[Dataset], planes: Sequence[int]) -> None:
    """Set the index of each frame's plane (PS3.3 C.7.6.17), counted in the order of the slices of the source."""
    numbers = {plane: number for number, plane in enumerate(sorted(set(planes)), start=1)}
    for group, plane in zip(groups, planes, strict=True):
        content = group.FrameContentSequence[0]
        content.DimensionIndexValues = [*_values(content.DimensionIndexValues)[:-1], numbers[plane]]


def _values(element: Any) -> list[int]:
    return list(element) if isinstance(element, MutableSequence) else [element]
