"""Empty frames of binary segmentations, by which bit-packed pixels end on a boundary of 16 bits.

DICOM packs the pixels of all frames one after the other, one bit each, and pads the end to 16 bits (PS3.5 8.2). The
loader of OHIF (@cornerstonejs/adapters 5.14, `getBitmapFramesFromDataset`) infers from the number of bytes whether each
frame begins on a new byte. If the pixels of a frame are not a multiple of 8, padding can make it infer wrongly or
refuse the file. Without padding, the packing is unambiguous for every reader.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

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


def with_empty_frames(
    used: Sequence[tuple[int, int]], frame_pixels: int, num_segments: int, num_planes: int
) -> tuple[list[tuple[int, int]], bool]:
    """Return frames with the empty ones that make their packing unambiguous, and whether it is.

    A frame is given by the number of its segment, from 1, and of its plane, from 0. Planes that have frames of other
    segments come first.
    """
    if frame_pixels * len(used) % WORD_BITS == 0:
        return list(used), True
    others = _others(used, num_segments, num_planes)
    num_empty = num_to_keep(frame_pixels, len(used), len(others))
    return [*used, *others[: num_empty or 0]], num_empty is not None


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
