"""Single-page TIFF images read through tifffile: bits, sign, channels, polarity and orientation from the header.

tifffile returns values as they are stored. This module applies their meaning (photometric interpretation, planar
configuration, extra samples, orientation: TIFF 6.0, section 8) to every layout in the same way, and refuses unsupported
images.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange
from jaxtyping import Num
from numpy import ndarray as Array

from medvit.errors import UnreadableError, UnsupportedError
from medvit.files.limits import check_stored, check_volume
from medvit.wsi.tiff_backend import opened

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
"""Codes of (262) PhotometricInterpretation."""
IN_INKS = "a {} in inks (CMYK), whose colors depend on a printer's profile; expected gray or RGB: convert it"
COLORS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3}
"""Number of channels of each photometric interpretation; additional channels are extra samples."""
UNCOMPRESSED, OLD_JPEG, JPEG, WEBP = 1, 6, 7, 50001
TO_RGB = (JPEG, WEBP)
"""Codes of (259) Compression whose decoder converts YCbCr to RGB itself."""
TRANSPARENCY = (1, 2)
"""Codes of (338) ExtraSamples that are an alpha channel."""
SPREAD = {1: 255, 2: 85, 4: 17}
"""Factor that scales gray of fewer bits to 8, as PNG decoders do."""


@dataclass(frozen=True)
class TiffHeader:
    """Tags of a TIFF page that define the meaning of its values."""

    width: int
    height: int
    samples: int
    bits: int
    photometric: int
    compression: int
    orientation: int
    is_for_pillow: bool
    """Whether the page has 8 bits in a coding that Pillow, but not tifffile, converts to RGB or gray."""


def read_header(path: Path) -> TiffHeader:
    """Read and check the tags of an image.

    Raises:
        UnsupportedError: If the image has several pages or planes, or an unsupported property, which the message names.
        UnreadableError: If the file does not contain all pixels.
    """
    with _page(path) as page:
        return _header(page, path.stat().st_size)


def tiff_values(path: Path) -> Num[Array, "h w c"]:
    """Read the stored values, rotated upright: palette indices, gray or RGB, and extra samples.

    Polarity is not applied.

    Raises:
        UnreadableError: If the size or type of the values contradicts the header.
    """
    with _page(path) as page:
        header = _header(page, path.stat().st_size)
        values = rearrange(page.asarray(squeeze=False), "s 1 h w c -> h w (s c)")
        promised = (header.height, header.width, header.samples)
        if values.shape != promised or values.dtype != page.dtype:
            raise UnreadableError(
                f"the picture has {'x'.join(map(str, values.shape))} values of {values.dtype}, "
                f"its header states {'x'.join(map(str, promised))} of {page.dtype}"
            )
        values = without_extra(values, COLORS[header.photometric], tuple(map(int, page.extrasamples)))
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
        return upright(values, header.orientation)


def tiff_pixels(path: Path) -> Num[Array, "h w c"]:
    """Read gray or RGB values, upright, with low values dark.

    Gray values of 1, 2 and 4 bits are scaled to 8 bits; a palette is converted to colors.
    """
    header, values = read_header(path), tiff_values(path)
    if header.photometric == PALETTE:
        colors = _colormap(path)[values[..., 0]]
        return colors[..., :1] if is_gray(colors) else colors
    if header.photometric == WHITE_IS_ZERO:
        values = ~values if values.dtype == bool else values.dtype.type(2**header.bits - 1) - values
    if values.shape[-1] == 1 and header.bits in SPREAD:
        return values.astype(np.uint8) * np.uint8(SPREAD[header.bits])
    return values


def tiff_labels(path: Path) -> Num[Array, "h w c"]:
    """Read class numbers as stored: gray levels, or the indices of a color palette.

    Raises:
        UnsupportedError: If zero means white in values of more than one bit, so that gray levels run backwards.
    """
    header = read_header(path)
    if header.photometric == PALETTE and is_gray(_colormap(path)):
        return tiff_pixels(path)
    if header.photometric != WHITE_IS_ZERO:
        return tiff_values(path)
    if header.bits > 1:
        raise UnsupportedError(
            "in the label map white is zero, so that class numbers and gray levels run in opposite directions; "
            "save it with black as zero"
        )
    return ~tiff_values(path).astype(bool)


def without_extra(values: Num[Array, "h w s"], num_colors: int, meanings: tuple[int, ...] = ()) -> Num[Array, "h w c"]:
    """Return only the color channels, if every extra channel is constant and thus does not carry information.

    `meanings` lists the ExtraSamples codes of the extra channels; the meaning of a channel without a code is unknown.

    Raises:
        UnsupportedError: If an extra channel is not constant; the message states whether the channel is transparency or
            unknown.
    """
    for number in range(num_colors, values.shape[-1]):
        extra = values[..., number]
        if not (extra != extra.flat[0]).any():
            continue
        if (*meanings, *(0,) * number)[number - num_colors] in TRANSPARENCY:
            raise UnsupportedError(
                "some pixels are transparent, so their colors are undefined; save the image without an alpha channel"
            )
        raise UnsupportedError(
            f"{values.shape[-1]} channels, of which {num_colors} {'is' if num_colors == 1 else 'are'} gray or color; "
            "expected only gray or RGB: save each channel as a separate file"
        )
    return values[..., :num_colors]


def upright(values: Num[Array, "h w *c"], orientation: int) -> Num[Array, "a b *c"]:
    """Rotate and mirror an image as its Orientation tag (274) requires (TIFF 6.0, section 8; EXIF)."""
    if orientation >= 5:
        values = values.swapaxes(0, 1)
    rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
    columns = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return values[rows, columns]


def is_gray(colors: Num[Array, "*s 3"]) -> bool:
    """Return whether red, green and blue are equal everywhere."""
    return bool((colors == colors[..., :1]).all())


@contextmanager
def _page(path: Path) -> Iterator[Any]:
    with opened(path) as file:
        num_pages = len(file.pages)
        if file.is_imagej:  # one page may describe a stack that follows it
            num_pages = max(num_pages, int((file.imagej_metadata or {}).get("images", 1)))
        if num_pages != 1:
            raise UnsupportedError(
                f"{num_pages} pages in one file; expected one image: save each page as a separate file"
            )
        yield file.pages.first


def _header(page: Any, held_bytes: int) -> TiffHeader:
    if isinstance(page.bitspersample, tuple) or page.imagedepth > 1:
        raise UnsupportedError(
            "a TIFF of several planes, or of channels with different numbers of bits; expected one ordinary image"
        )
    orientation = page.tags.valueof(274, 1)
    header = TiffHeader(
        page.imagewidth,
        page.imagelength,
        page.samplesperpixel,
        page.bitspersample,
        int(page.photometric),
        int(page.compression),
        orientation if orientation in range(1, 9) else 1,
        is_for_pillow=_is_for_pillow(page),
    )
    _check_kind(header, page)
    _check_bytes(header, page, held_bytes)
    return header


def _is_for_pillow(page: Any) -> bool:
    photometric, compression = int(page.photometric), int(page.compression)
    is_foreign = (photometric == YCBCR and compression not in TO_RGB) or compression == OLD_JPEG
    return page.bitspersample <= 8 and (is_foreign or not _has_decoder(compression))


def _check_kind(header: TiffHeader, page: Any) -> None:
    if header.photometric not in COLORS:
        raise UnsupportedError(f"a TIFF in {_name(page.photometric)}; expected gray, RGB or a palette")
    if header.photometric == CMYK:
        raise UnsupportedError(IN_INKS.format("TIFF"))
    if header.is_for_pillow:
        return
    if header.photometric == YCBCR and header.compression not in TO_RGB:
        raise UnsupportedError(f"a TIFF in {_name(page.photometric)} of {header.bits} bits; expected gray or RGB")
    if not _has_decoder(header.compression):
        raise UnsupportedError(f"a TIFF compressed by {_name(page.compression)}; no installed decoder supports it")
    if page.dtype is None or page.dtype.kind not in "biuf":
        raise UnsupportedError(
            f"a TIFF of {header.bits} bits in sample format {_name(page.sampleformat)}; expected real numbers"
        )
    if header.samples < COLORS[header.photometric]:
        raise UnreadableError(f"{_name(page.photometric)} in {header.samples} channels; the header contradicts itself")
    if header.samples > 1 and header.bits < 8:
        raise UnsupportedError(
            f"{header.samples} channels of {header.bits} bits each; expected at least 8 bits per channel"
        )
    if header.photometric == WHITE_IS_ZERO and page.dtype.kind not in "bu":
        raise UnsupportedError(
            f"white is zero in values of {page.dtype}, where the value of black is undefined; "
            "save it with black as zero"
        )


def _check_bytes(header: TiffHeader, page: Any, held_bytes: int) -> None:
    """Refuse an image with missing strips or tiles, which a decoder would fill with a constant."""
    places = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    if any(offset + num_bytes > held_bytes for offset, num_bytes in places):
        raise UnreadableError("a strip or tile of the image extends past the end of the file; the file is truncated")
    if not places or not all(offset and num_bytes for offset, num_bytes in places):
        raise UnreadableError(
            "a strip or tile of the image is not in the file; the file is truncated or was never completed"
        )
    claimed = header.height * -(-header.width * header.samples * header.bits // 8)
    if header.compression == UNCOMPRESSED and not header.is_for_pillow:
        check_stored(claimed, sum(num_bytes for _, num_bytes in places))
    check_volume(claimed, held_bytes)


def _has_decoder(compression: int) -> bool:
    from tifffile import TIFF

    try:
        return compression == UNCOMPRESSED or TIFF.DECOMPRESSORS[compression] is not None
    except KeyError:
        return False


def _name(code: Any) -> str:
    return str(getattr(code, "name", code))


def _colormap(path: Path) -> Num[Array, "colors 3"]:
    with _page(path) as page:
        if page.colormap is None:
            raise UnreadableError("a TIFF of palette colors lacks its palette (tag 320 ColorMap)")
        colors = np.asarray(page.colormap).T
    # Colors have 16 bits; some writers use 8.
    return (colors // 256 if colors.max(initial=0) > 255 else colors).astype(np.uint8)
