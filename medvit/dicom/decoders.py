"""Decoding of one frame to stored values, for every transfer syntax that an installed decoder supports.

pydicom decodes uncompressed pixels, RLE, JPEG 2000 (OpenJPEG) and 8-bit JPEG (Pillow). imagecodecs decodes JPEG-LS
(CharLS), JPEG XL (libjxl), and JPEG that is lossless, has 12 bits or uses retired processes (libjpeg-turbo). The size
that a stream declares is compared with the header before decoding.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from einops import rearrange
from jaxtyping import Num
from numpy import ndarray as Array

from medvit.dicom.codestream import Codestream, jpeg_xl_size, read_codestream
from medvit.dicom.direct.fast_dataset import FastDataset
from medvit.dicom.direct.fast_parser import ITEM
from medvit.dicom.native_pixels import native
from medvit.dicom.pixel_layout import PixelLayout
from medvit.errors import UnreadableError, UnsupportedError

if TYPE_CHECKING:
    from pydicom import Dataset

EXPLICIT, IMPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
ENCAPSULATED = "1.2.840.10008.1.2.1.98"
FRAME_DEFLATED = "1.2.840.10008.1.2.8.1"
RLE = "1.2.840.10008.1.2.5"
JPEG = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (*range(50, 59), 70))
"""Non-hierarchical JPEG processes (PS3.5 8.2.1), most of them retired."""

NATIVE = (EXPLICIT, IMPLICIT, BIG_ENDIAN, DEFLATED)
"""Transfer syntaxes with uncompressed pixels, stored frame after frame (PS3.5 A.1 to A.3, A.5)."""

NEW_NAMES = {
    "1.2.840.10008.1.2.4.110": "JPEG XL Lossless",
    "1.2.840.10008.1.2.4.111": "JPEG XL JPEG Recompression",
    "1.2.840.10008.1.2.4.112": "JPEG XL",
    FRAME_DEFLATED: "Deflated Image Frame Compression",
}
"""Names of transfer syntaxes newer than the installed dictionary (PS3.6 A)."""

JPEG_LS = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (80, 81))
JPEG_2000 = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (90, 91, 201, 202, 203))
JPEG_XL = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (110, 111, 112))
LOSSY = (*JPEG[:7], JPEG_LS[1], JPEG_2000[1], JPEG_2000[4])
"""Transfer syntaxes whose values may exceed the range of BitsStored: the codec overshoots at edges."""
END_OF_IMAGE, PADDING_BYTES = b"\xff\xd9", 16
"""End-of-image marker of JPEG (ISO 10918-1, B.1.1.3), and how far before the end of a padded frame it may be."""

PLUGINS = {RLE: "pydicom"} | dict.fromkeys(JPEG[:2], "pillow") | dict.fromkeys(JPEG_2000, "pylibjpeg")
"""pydicom plugin of each transfer syntax, chosen for robustness to damaged streams: GDCM aborts the process on them, as
do imagecodecs and pylibjpeg-rle on damaged RLE.
"""

COLORS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
"""Color codings that are converted to RGB (PS3.3 C.7.6.3.1.2)."""


def syntax_name(uid: str) -> str:
    """Return the name of a transfer syntax, or its UID if it has no name."""
    from pydicom.uid import UID

    return NEW_NAMES.get(uid) or str(UID(uid).name) or "no transfer syntax"


def stored_values(dataset: Dataset | FastDataset, layout: PixelLayout, index: int) -> Num[Array, "h w *c"]:
    """Return one frame in its stored type, native byte order: gray or palette indices (H, W), or RGB (H, W, 3).

    Unused bits are cleared, or set to the sign bit if values are signed. Only this frame is decoded.

    Raises:
        UnreadableError: If the frame does not exist, or its bytes contradict the header.
        UnsupportedError: If no installed decoder supports the transfer syntax or the color coding; both are named.
    """
    if not 0 <= index < layout.frames:
        raise UnreadableError(f"frame {index + 1} was requested, but the instance has {layout.frames} frames")
    _check_color(layout)
    uid = str(dataset.file_meta.get("TransferSyntaxUID"))
    as_it_lies = native(dataset) if uid in NATIVE and layout.high_bit == layout.bits_stored - 1 else None
    if as_it_lies is not None:
        return as_it_lies
    is_whole = isinstance(dataset, FastDataset)  # other files may end within their last element
    dataset = dataset.dataset() if isinstance(dataset, FastDataset) else dataset
    if uid in NATIVE:
        return _native(dataset, layout, index, uid, is_whole=is_whole)
    encoded = _encoded(dataset, layout, index, uid)
    if uid in (ENCAPSULATED, FRAME_DEFLATED):
        plain = encoded if uid == ENCAPSULATED else _inflated(encoded, -(-layout.frame_bits // 8))
        return _trimmed(*_decoded(plain, layout, EXPLICIT), layout)
    if layout.bits_allocated == 1 and uid == RLE:
        packed = replace(
            layout, rows=1, columns=-(-layout.frame_bits // 8), bits_allocated=8, bits_stored=8, high_bit=7
        )
        bits = np.unpackbits(_decompressed(encoded, packed, uid), bitorder="little", count=layout.frame_bits)
        return rearrange(bits, "(h w) -> h w", h=layout.rows)
    return _decompressed(encoded, layout, uid)


def _check_color(layout: PixelLayout) -> None:
    if layout.samples > 1 and layout.photometric not in (*COLORS, "XYB"):  # XYB: JPEG XL only
        raise UnsupportedError(f"colors coded as {layout.photometric[:16]}; expected one of {', '.join(COLORS)}")
    is_shared = layout.photometric.startswith("YBR_FULL")
    if layout.samples > 1 and is_shared and layout.bits_allocated != 8:
        raise UnsupportedError(f"{layout.photometric} of {layout.bits_allocated} bits; expected 8 bits per sample")


def _native(dataset: Dataset, layout: PixelLayout, index: int, uid: str, *, is_whole: bool) -> Num[Array, "h w *c"]:
    from pydicom.pixels import get_decoder

    held, promised = len(dataset[layout.keyword].value), -(-layout.frame_bits * layout.frames // 8)
    if held < promised:
        why = "size, bits or transfer syntax contradict the header"
        if bytes(dataset[layout.keyword].value[:4]) == ITEM:
            why = f"in compressed fragments, though the transfer syntax is {syntax_name(uid)}"
        elif not is_whole:
            why = f"it is cut short, or {why}"
        raise UnreadableError(
            f"the header declares {promised} bytes of pixels, but {layout.keyword} contains {held}; {why}"
        )
    _check_no_more(held, promised, layout)
    values, meaning = get_decoder(uid).as_array(dataset, index=index, **_options(layout), correct_unused_bits=False)
    return _trimmed(values, str(meaning["photometric_interpretation"]), layout)


def _check_no_more(held: int, promised: int, layout: PixelLayout) -> None:
    """Check that an element does not contain more frames than the header declares.

    `held` and `promised` are the numbers of bytes in the element and according to the header. Extra bytes of less than
    a frame are accepted as padding. YBR_FULL_422 is not checked, because it is often stored without subsampling.
    """
    if layout.photometric != "YBR_FULL_422" and held - promised >= max(-(-layout.frame_bits // 8), 2):
        raise UnreadableError(
            f"{layout.keyword} contains {held} bytes, the header declares {promised} for {layout.frames} frames; "
            "there is at least one extra frame, or the rows, columns or bits in the header are wrong"
        )


def _encoded(dataset: Dataset, layout: PixelLayout, index: int, uid: str) -> bytes:
    from pydicom.encaps import get_frame

    offsets, lengths = dataset.get("ExtendedOffsetTable"), dataset.get("ExtendedOffsetTableLengths")
    try:
        return get_frame(
            dataset[layout.keyword].value,
            index,
            extended_offsets=(offsets, lengths) if offsets and lengths else None,
            number_of_frames=layout.frames,
        )
    except (ValueError, StopIteration):
        raise UnreadableError(
            f"frame {index + 1} of {layout.frames} is missing from the pixel fragments ({syntax_name(uid)}); the file "
            "is truncated"
        ) from None


def _inflated(encoded: bytes, num_bytes: int) -> bytes:
    try:
        plain = zlib.decompressobj(-zlib.MAX_WBITS).decompress(encoded, num_bytes)
    except zlib.error:
        raise UnreadableError("a deflated frame cannot be inflated; the file is damaged") from None
    if len(plain) < num_bytes:
        raise UnreadableError(
            f"a deflated frame contains {len(plain)} of the expected {num_bytes} bytes; the file is truncated"
        )
    return plain


def _check_stream(encoded: bytes, layout: PixelLayout, uid: str) -> Codestream:
    """Return the size and bits that a stream declares, after comparing them with the header.

    A stream may declare fewer bits than the header.
    """
    claimed = read_codestream(encoded)
    if claimed is None:
        return Codestream(layout.rows, layout.columns, layout.samples, layout.bits_stored)
    size, promised = (claimed.rows, claimed.columns, claimed.samples), (layout.rows, layout.columns, layout.samples)
    if size != promised:
        raise UnreadableError(
            f"the pixel stream ({syntax_name(uid)}) has (rows, columns, samples) {size}, but the header declares "
            f"{promised}"
        )
    if claimed.bits > max(layout.bits_allocated, 8):
        raise UnreadableError(
            f"the pixel stream ({syntax_name(uid)}) has {claimed.bits} bits per sample, but the header allocates "
            f"{layout.bits_allocated}"
        )
    return claimed


def _decompressed(encoded: bytes, layout: PixelLayout, uid: str) -> Num[Array, "h w *c"]:
    stream = _check_stream(encoded, layout, uid)
    # In an unsigned stream, the bits above those stored may be the sign of a negative value.
    is_clipped = uid in LOSSY and stream.is_signed == layout.is_signed
    if uid in PLUGINS:
        try:
            values, photometric = _decoded(encoded, layout, uid)
            return _trimmed(_clipped(values, layout) if is_clipped else values, photometric, layout)
        except RuntimeError:  # the plugin has failed
            if uid not in JPEG:
                raise _undecodable(uid) from None
    if uid in JPEG:
        values, photometric = _components(_jpeg, encoded, layout, uid)
        return _trimmed(_clipped(values, layout) if is_clipped else values, photometric, layout)
    if uid in JPEG_XL:
        return _by_jpeg_xl(encoded, layout, uid)
    if uid in JPEG_LS:
        # The stream is unsigned: its own highest bit is the sign, whatever number of bits the header declares.
        bits = min(stream.bits, layout.bits_stored)
        narrow = replace(layout, bits_stored=bits, high_bit=bits - 1)
        values, photometric = _components(_jpeg_ls, encoded, layout, uid)
        values = _clipped(values, layout) if is_clipped else values
        return _trimmed(values, photometric, narrow if layout.is_signed else layout)
    raise UnsupportedError(
        f"no installed decoder supports the transfer syntax {syntax_name(uid)}; convert it to another"
    )


def _decoded(encoded: bytes, layout: PixelLayout, uid: str) -> tuple[Num[Array, "h w *c"], str]:
    """Return a frame decoded by pydicom, and the color space of the result."""
    from pydicom.encaps import encapsulate
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID

    options = {**_options(layout), "number_of_frames": 1, "decoding_plugin": PLUGINS.get(uid, "")}
    if uid in (EXPLICIT, *JPEG, RLE):
        options["correct_unused_bits"] = False
    source = encoded if uid == EXPLICIT else encapsulate([encoded], has_bot=False)
    values, meaning = get_decoder(UID(uid)).as_array(source, index=0, **options)
    return values, str(meaning["photometric_interpretation"])


def _options(layout: PixelLayout) -> dict[str, Any]:
    """Return the layout as options of pydicom's decoder.

    With them, every decoder uses the same defaults for missing elements.
    """
    return {
        "rows": layout.rows,
        "columns": layout.columns,
        "samples_per_pixel": layout.samples,
        "number_of_frames": layout.frames,
        "bits_allocated": layout.bits_allocated,
        "bits_stored": layout.bits_stored,
        "pixel_representation": int(layout.is_signed),
        "photometric_interpretation": layout.photometric,
        "planar_configuration": layout.planar,
        "pixel_keyword": layout.keyword,
    }


def _components(
    decoder: Callable[[bytes, PixelLayout], Num[Array, "*any"]], encoded: bytes, layout: PixelLayout, uid: str
) -> tuple[Num[Array, "h w *c"], str]:
    """Return a frame decoded by imagecodecs in the stored type, and the color space of the result."""
    from pydicom.pixels import convert_color_space

    shape = (layout.rows, layout.columns, layout.samples)[: 2 if layout.samples == 1 else 3]
    try:
        values = decoder(encoded, layout).reshape(shape)
    except (RuntimeError, ValueError):  # all errors of imagecodecs are of the first type
        raise _undecodable(uid) from None
    photometric = layout.photometric
    if layout.samples > 1 and photometric.startswith("YBR_FULL"):
        values, photometric = convert_color_space(values, "YBR_FULL", "RGB"), "RGB"
    stored = values.astype(f"u{layout.bits_allocated // 8}")
    return (stored.view(f"i{layout.bits_allocated // 8}") if layout.is_signed else stored), photometric


def _jpeg(encoded: bytes, layout: PixelLayout) -> Num[Array, "h w *c"]:
    from imagecodecs import jpeg_decode

    # Colors are unchanged: lossless streams cannot be converted to others.
    space = "GRAYSCALE" if layout.samples == 1 else "RGB" if layout.photometric == "RGB" else "YCBCR"
    return jpeg_decode(encoded, colorspace=space, outcolorspace=space)


def _jpeg_ls(encoded: bytes, layout: PixelLayout) -> Num[Array, "h w *c"]:
    from imagecodecs import jpegls_decode

    # CharLS requires the marker too, but takes seconds to search for it in a truncated stream.
    if END_OF_IMAGE not in encoded[-PADDING_BYTES:]:
        raise ValueError("no end of image")
    return jpegls_decode(encoded)


def _by_jpeg_xl(encoded: bytes, layout: PixelLayout, uid: str) -> Num[Array, "h w *c"]:
    size = jpeg_xl_size(encoded)
    if size != (layout.rows, layout.columns):
        raise UnreadableError(
            f"the pixel stream ({syntax_name(uid)}) has (rows, columns) {size}, but the header declares "
            f"{(layout.rows, layout.columns)}"
        )
    in_rgb = replace(layout, photometric="RGB") if layout.samples > 1 else layout
    values, photometric = _components(_jpeg_xl, encoded, in_rgb, uid)
    is_clipped = uid != JPEG_XL[0] and not layout.is_signed
    return _trimmed(_clipped(values, layout) if is_clipped else values, photometric, layout)


def _jpeg_xl(encoded: bytes, layout: PixelLayout) -> Num[Array, "h w *c"]:
    from imagecodecs import jpegxl_decode

    return jpegxl_decode(encoded)


def _undecodable(uid: str) -> UnreadableError:
    return UnreadableError(
        f"no installed decoder supports these pixels ({syntax_name(uid)}); they are damaged, or must be converted first"
    )


def _clipped(values: Num[Array, "h w *c"], layout: PixelLayout) -> Num[Array, "h w *c"]:
    """Clip values of a lossy stream to the range of BitsStored.

    Clearing the upper bits of values outside the range would turn white into black.
    """
    if layout.high_bit != layout.bits_stored - 1 or layout.bits_stored >= 8 * values.dtype.itemsize:
        return values
    low = -(2 ** (layout.bits_stored - 1)) if layout.is_signed else 0
    return np.clip(values, low, low + 2**layout.bits_stored - 1)


def _trimmed(values: Num[Array, "h w *c"], photometric: str, layout: PixelLayout) -> Num[Array, "h w *c"]:
    """Clear the bits above BitsStored (PS3.5 8.1.1), which may contain overlays (retired)."""
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    above, below = layout.bits_allocated - 1 - layout.high_bit, layout.high_bit + 1 - layout.bits_stored
    if not layout.is_float and layout.bits_allocated > 1 and above + below > 0:
        # A right shift repeats the sign of signed types and fills unsigned ones with zeros.
        values = np.right_shift(np.left_shift(values, above), above + below)
    if layout.samples > 1 and photometric != "RGB":
        raise UnsupportedError(f"colors coded as {photometric[:16]} in this transfer syntax; expected RGB or YBR_FULL")
    return values
