"""Acceptance checks on headers: which DICOM instances are images that can be ingested."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

from medvit.dicom.direct.fast_parser import ITEM
from medvit.dicom.direct.fast_values import class_name
from medvit.dicom.file import open_elements
from medvit.dicom.header import Header
from medvit.dicom.pixel_layout import PIXEL_KEYWORDS
from medvit.errors import MedvitError, NotAnImageError, UnreadableError, UnsupportedError
from medvit.files.limits import check_compressed, check_stored, is_uncompressed

DERIVED: Mapping[str, str] = {
    "1.2.840.10008.5.1.4.1.1.66.4": "segmentation",
    "1.2.840.10008.5.1.4.1.1.66.7": "label map segmentation",
    "1.2.840.10008.5.1.4.1.1.30": "parametric map",
    "1.2.840.10008.5.1.4.1.1.481.2": "radiotherapy dose",
}
"""SOP classes whose pixels were computed from other images (PS3.4 B.5)."""
WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"


def check(header: Header) -> None:
    """Check that an instance is an image, of one frame or several.

    Raises:
        NotAnImageError: If the instance has no pixels, or was computed from images.
        UnsupportedError: If the instance contains the tiles of a slide.
        UnreadableError: If an instance of an image class lacks its size, declares more pixels than its file can
            hold, or its NumberOfFrames is not a positive number.
    """
    if header.sop_class in DERIVED:
        raise NotAnImageError(f"a DICOM {DERIVED[header.sop_class]}, derived from images; give those images instead")
    if header.rows < 1 or header.columns < 1:
        _refuse_without_size(header)
    if header.sop_class == WHOLE_SLIDE:
        raise UnsupportedError(f"a DICOM whole slide of {header.frames} tiles; expected single-frame images")
    if header.frames < 1:
        raise UnreadableError("(0028,0008) NumberOfFrames is not a number above 0")
    _check_size(header)


def _refuse_without_size(header: Header) -> NoReturn:
    name = class_name(header.sop_class)
    if name.endswith(" Image Storage"):
        raise UnreadableError(
            f"{name} without (0028,0010) Rows or (0028,0011) Columns above 0; it is damaged, or its pixels were removed"
        )
    raise NotAnImageError(f"the file is a DICOM {name}, which contains no pixels")


def _check_size(header: Header) -> None:
    if header.frames > 8 * header.num_bytes:  # a frame takes at least one bit
        raise UnreadableError(
            f"(0028,0008) NumberOfFrames is {header.frames} in a file of {header.num_bytes} bytes, "
            "which cannot hold them"
        )
    samples = 2 if header.photometric == "YBR_FULL_422" else header.samples
    # A damaged header may declare billions of frames of zero bits: each still needs some memory.
    claimed = header.frames * header.rows * header.columns * max(samples, 1) * max(header.bits, 1) // 8
    if is_uncompressed(header.transfer_syntax):
        if claimed > header.num_bytes:
            _refuse_without_pixels(header)
        check_stored(claimed, header.num_bytes)
    else:
        check_compressed(claimed, header.num_bytes)


def _refuse_without_pixels(header: Header) -> None:
    """Refuse a complete file whose pixels are missing or are smaller than declared. A truncated file is accepted here.

    Raises:
        UnreadableError: If the file is complete, but its pixels are missing or wrongly declared.
    """
    try:
        elements = open_elements(header.file, specific_tags=tuple(PIXEL_KEYWORDS))
    except MedvitError:
        return
    held = next((elements.get(keyword) for keyword in PIXEL_KEYWORDS if keyword in elements), None)
    if held is None:
        raise UnreadableError(
            "the header declares an image, but the complete file has no (7FE0,0010) PixelData: its pixels were removed"
        )
    if bytes(held[:4]) == ITEM:
        raise UnreadableError(
            "the pixels are in compressed fragments, but (0002,0010) TransferSyntaxUID names an uncompressed encoding"
        )
