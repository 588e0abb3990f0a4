"""Layout of the pixels of a DICOM instance: the Image Pixel module (PS3.3 C.7.6.3), validated before use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from medvit.errors import UnreadableError, UnsupportedError

if TYPE_CHECKING:
    from pydicom import Dataset

PIXEL_KEYWORDS = {"PixelData": None, "FloatPixelData": 32, "DoubleFloatPixelData": 64}
"""The elements that may contain pixels, with the only (0028,0100) BitsAllocated they may have (PS3.3 C.7.6.24, 25)."""

ALLOCATED = (1, 8, 16, 32)
"""Allowed bits per integer sample."""

_ELEMENTS = {
    "Rows": "(0028,0010) Rows",
    "Columns": "(0028,0011) Columns",
    "SamplesPerPixel": "(0028,0002) SamplesPerPixel",
    "NumberOfFrames": "(0028,0008) NumberOfFrames",
    "BitsAllocated": "(0028,0100) BitsAllocated",
    "BitsStored": "(0028,0101) BitsStored",
    "HighBit": "(0028,0102) HighBit",
    "PixelRepresentation": "(0028,0103) PixelRepresentation",
    "PlanarConfiguration": "(0028,0006) PlanarConfiguration",
}


@dataclass(frozen=True)
class PixelLayout:
    """Pixel layout that the header declares; `keyword` names the element with the pixels.

    `high_bit` is the position of the most significant of the `bits_stored` bits within the `bits_allocated` bits; the
    remaining bits may contain overlays and are ignored.
    """

    keyword: str
    rows: int
    columns: int
    samples: int
    frames: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    is_signed: bool
    photometric: str
    planar: int

    @property
    def is_float(self) -> bool:
        """Return whether samples are floating-point numbers."""
        return self.keyword != "PixelData"

    @property
    def frame_bits(self) -> int:
        """Number of bits of one uncompressed frame."""
        samples = self.rows * self.columns * self.samples * self.bits_allocated
        # Two pixels share their chroma samples (PS3.3 C.7.6.3.1.2).
        return samples * 2 // 3 if self.photometric == "YBR_FULL_422" else samples


def layout(dataset: Dataset) -> PixelLayout:
    """Return the pixel layout of an instance.

    Raises:
        UnreadableError: If pixels or an element that describes them is missing or contradicts another.
        UnsupportedError: If the number of bits per sample is not one of `ALLOCATED`.
    """
    keyword = _keyword(dataset)
    allocated = _count(dataset, "BitsAllocated")
    bits = PIXEL_KEYWORDS[keyword]
    if allocated not in (ALLOCATED if bits is None else (bits,)):
        expected = ", ".join(map(str, ALLOCATED if bits is None else (bits,)))
        raise UnsupportedError(f"(0028,0100) BitsAllocated is {allocated}; expected {expected}")
    stored = _count(dataset, "BitsStored", allocated if bits is None else bits)
    found = PixelLayout(
        keyword=keyword,
        rows=_count(dataset, "Rows"),
        columns=_count(dataset, "Columns"),
        samples=_count(dataset, "SamplesPerPixel", 1),
        frames=_count(dataset, "NumberOfFrames", 1) or 1,
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=_count(dataset, "HighBit", stored - 1),
        is_signed=bool(_count(dataset, "PixelRepresentation", 0)),
        photometric=str(dataset.get("PhotometricInterpretation") or "").strip().upper(),
        planar=_count(dataset, "PlanarConfiguration", 0),
    )
    _check(found)
    return found


def _keyword(dataset: Dataset) -> str:
    held = [keyword for keyword in PIXEL_KEYWORDS if dataset.get(keyword)]
    if not held:
        raise UnreadableError("the header declares an image, but the file ends without (7FE0,0010) PixelData")
    if len(held) > 1:
        raise UnreadableError(f"both {' and '.join(held)} are present; expected pixels in only one of them")
    return held[0]


def _check(found: PixelLayout) -> None:
    if found.rows < 1 or found.columns < 1:
        raise UnreadableError(f"an image of {found.rows} rows and {found.columns} columns; expected at least one pixel")
    if found.samples not in (1, 3):
        raise UnsupportedError(f"(0028,0002) SamplesPerPixel is {found.samples}; expected 1 (gray) or 3 (color)")
    if found.planar not in (0, 1):
        raise UnreadableError(f"(0028,0006) PlanarConfiguration is {found.planar}; expected 0 or 1")
    if not found.is_float and not 1 <= found.bits_stored <= found.high_bit + 1 <= found.bits_allocated:
        raise UnreadableError(
            f"(0028,0101) BitsStored {found.bits_stored} up to (0028,0102) HighBit {found.high_bit} are not within "
            f"(0028,0100) BitsAllocated {found.bits_allocated}"
        )
    if not found.photometric:
        raise UnreadableError("no (0028,0004) PhotometricInterpretation; it is needed to distinguish gray from color")


def _count(dataset: Dataset, keyword: str, default: int | None = None) -> int:
    value = dataset.get(keyword)
    if value is None or value == "":
        if default is None:
            raise UnreadableError(f"the header has no {_ELEMENTS[keyword]}, which is required to read pixels")
        return default
    try:
        number = int(value)
    except (TypeError, ValueError):
        raise UnreadableError(f"{_ELEMENTS[keyword]} is not a whole number") from None
    if number < 0:
        raise UnreadableError(f"{_ELEMENTS[keyword]} is {number}; expected 0 or more")
    return number
