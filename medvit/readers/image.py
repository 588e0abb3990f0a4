"""Reader of 2D images: TIFF by tifffile, 16-bit color PNG by imagecodecs, other PNG, JPEG, GIF and BMP by Pillow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from einops import rearrange
from jaxtyping import Num
from numpy import ndarray as Array

from medvit.dicom.codestream import read_codestream
from medvit.errors import MedvitError, UnreadableError, UnsupportedError
from medvit.files.guard import decoding, refusal
from medvit.files.limits import check_allowed
from medvit.measured import narrowed
from medvit.readers import tiff_page
from medvit.readers.label_maps import LabelMap, label_image
from medvit.readers.picture_texts import picture_texts
from medvit.records import Extent, FileText, Item, Refusal
from medvit.types import Image

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"GIF87a", b"GIF89a")
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".gif", ".bmp")

FORMATS = ("PNG", "JPEG", "TIFF", "GIF", "BMP")
"""Pillow decoders that may open a file."""

MAX_PIXELS = 200_000_000
"""Largest image accepted, in pixels: anything larger is a slide, or has a false header."""

ORIENTATION = 0x0112
"""EXIF tag of the orientation of an image."""

GRAY_16 = ("I;16", "I;16L", "I;16B", "I;16N")


class Pictures:
    """Reader of images (C, H, W) with C = 1 or 3, as uint8 or uint16. Their physical scale and modality are unknown."""

    name = "image"

    def sniff(self, path: Path, head: bytes) -> bool:
        """Return whether the file has the magic bytes or the suffix of one of these formats."""
        return head.startswith(MAGIC) or path.name.lower().endswith(SUFFIXES)

    def find(self, files: Sequence[Path]) -> Iterator[Item | Refusal]:
        """Yield an item per image."""
        for file in files:
            try:
                with decoding("the picture"):
                    _check(file)
            except MedvitError as error:
                yield refusal((file,), error)
            else:
                yield Item(reader=self.name, files=(file,), kind="image")

    def read(self, item: Item) -> Image:
        """Read the pixels (C, H, W), rotated upright by EXIF.

        A palette is converted to colors; a constant alpha channel is removed.

        Raises:
            UnsupportedError: If the image has several pages, or transparent pixels.
        """
        return Image(narrowed(self.stored(item.files[0])), "image", item.modality)

    def stored(self, file: Path) -> Num[Array, "c h w"]:
        """Read the pixels (C, H, W) as `read` does, but without converting 64-bit floating-point values."""
        return _channels_first(tiff_page.tiff_pixels(file) if _is_for_tifffile(file) else _pixels(file))

    def extent(self, item: Item) -> Extent:
        """Return the size (H, W) as stored, before EXIF rotation."""
        path = item.files[0]
        if _is_for_tifffile(path):
            header = tiff_page.read_header(path)
            return Extent((header.height, header.width), 3 if header.samples > 2 else 1, header.bits)
        with _open(path) as picture:
            is_gray = picture.mode in ("1", "L", "LA", "I", "F", *GRAY_16)
            is_gray = is_gray or (picture.mode == "P" and tiff_page.is_gray(_palette(picture)))
            bits = 8 * _pixel_bytes(picture, path) // len(picture.getbands())
            return Extent((picture.height, picture.width), 1 if is_gray else 3, bits)

    def texts(self, path: Path) -> Iterator[FileText]:
        """Yield comments, EXIF, XMP, IPTC, text chunks of PNG, and the tags of all pages of a TIFF."""
        return picture_texts(path, FORMATS)

    def read_mask(self, path: Path, image: Item | None = None) -> LabelMap:
        """Read labels (H, W): gray levels as stored, also those of 2 or 4 bits, or the indices of a color palette."""
        labels = tiff_page.tiff_labels(path) if _is_for_tifffile(path) else _labels(path)
        return label_image(_channels_first(labels))


def _is_for_tifffile(path: Path) -> bool:
    with path.open("rb") as stream:
        is_tiff = stream.read(4) in tiff_page.MAGIC
    return is_tiff and not tiff_page.read_header(path).is_for_pillow


def _check(path: Path) -> None:
    if _is_for_tifffile(path):
        header = tiff_page.read_header(path)
        _check_size(header.width, header.height)
    else:
        with _open(path):
            pass


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UnsupportedError(
            f"an image of {width} x {height} pixels; expected at most {MAX_PIXELS} pixels: cut it into tiles"
        )


def _open(path: Path) -> Picture:
    from PIL import Image as Pillow
    from PIL import ImageFile, UnidentifiedImageError

    ImageFile.LOAD_TRUNCATED_IMAGES = False  # other libraries set it for the process; missing rows would be gray
    try:
        picture = Pillow.open(path, formats=FORMATS)
    except UnidentifiedImageError:
        _check_jpeg(path)
        raise UnreadableError(
            "the file has an image suffix, but its bytes are not of a supported image format"
        ) from None
    except (OSError, NotImplementedError) as error:
        if str(error).startswith("Unsupported"):
            raise UnsupportedError(
                "no installed decoder supports the compression or pixel depth of the image; save it as PNG"
            ) from None
        raise
    except Pillow.DecompressionBombError:
        raise UnsupportedError(
            f"an image of more than {MAX_PIXELS} pixels; expected fewer: cut it into tiles"
        ) from None
    if picture.mode == "CMYK":
        raise UnsupportedError(tiff_page.IN_INKS.format(picture.format))
    pages = getattr(picture, "n_frames", 1)
    _check_size(picture.width, picture.height)
    if pages > 1 and picture.format != "MPO":  # the other pages of an MPO are previews of its first
        raise UnsupportedError(f"{pages} pages in one file; expected one image: save each page as a separate file")
    check_allowed(picture.width * picture.height * _pixel_bytes(picture, path), path.stat().st_size)
    return picture


def _pixel_bytes(picture: Picture, path: Path) -> int:
    is_deep = picture.format == "PNG" and _png_kind(path).is_deep_color
    deep = 4 if picture.mode in ("I", "F") else 2 if picture.mode in GRAY_16 or is_deep else 1
    return deep * len(picture.getbands())


def _check_jpeg(path: Path) -> None:
    """Refuse a complete (not truncated) JPEG with other than 8 bits per sample, which the decoder does not support.

    Raises:
        UnsupportedError: If the samples do not have 8 bits.
    """
    content = path.read_bytes()
    claimed = read_codestream(content) if content.startswith(b"\xff\xd8\xff") else None
    if claimed is not None and claimed.bits != 8:
        raise UnsupportedError(f"a JPEG with {claimed.bits} bits per sample; expected 8: save the image as 16-bit PNG")


def _pixels(path: Path) -> Num[Array, "h w *c"]:
    from PIL import ImageOps

    with _open(path) as picture:
        if picture.format == "PNG" and _png_kind(path).is_deep_color:
            return _deep_color(path, picture)
        picture.load()
        turned = ImageOps.exif_transpose(picture)
        if turned.mode in GRAY_16:
            return np.asarray(turned).astype(np.uint16)
        if turned.mode in ("I", "F"):
            return np.asarray(turned)
        return _without_alpha(np.asarray(turned.convert(_target_mode(turned))))


def _labels(path: Path) -> Num[Array, "h w *c"]:
    from PIL import ImageOps

    with _open(path) as picture:
        bits = _png_kind(path).bits if picture.format == "PNG" else 8
        if picture.mode == "P" and not tiff_page.is_gray(_palette(picture)):
            return np.asarray(ImageOps.exif_transpose(picture))
        factor = 255 if picture.mode == "1" else tiff_page.SPREAD.get(bits, 1) if picture.mode == "L" else 1
    # The decoder has scaled gray of 1, 2 or 4 bits to 8.
    return _pixels(path) // np.uint8(factor) if factor > 1 else _pixels(path)


class _PngKind(NamedTuple):
    bits: int
    color_type: int

    @property
    def is_deep_color(self) -> bool:
        """Whether the image has several channels of 16 bits, which Pillow would reduce to 8 bits."""
        return self.bits == 16 and self.color_type != 0


def _png_kind(path: Path) -> _PngKind:
    with path.open("rb") as stream:
        return _PngKind(*stream.read(26)[24:26])


def _target_mode(picture: Picture) -> str:
    if picture.mode in ("LA", "RGBA"):
        return str(picture.mode)
    is_transparent = "transparency" in picture.info
    if picture.mode in ("1", "L", "RGB"):
        return f"{'RGB' if picture.mode == 'RGB' else 'L'}{'A' if is_transparent else ''}"
    if picture.mode == "P":
        used = _palette(picture)[np.unique(np.asarray(picture))]
        return f"{'L' if tiff_page.is_gray(used) else 'RGB'}{'A' if is_transparent else ''}"
    return "RGBA" if picture.mode in ("PA", "RGBa", "La") else "RGB"


def _palette(picture: Picture) -> Num[Array, "colors 3"]:
    return np.array(picture.getpalette("RGB")).reshape(-1, 3)


def _without_alpha(pixels: Num[Array, "h w *c"]) -> Num[Array, "h w *c"]:
    if pixels.ndim == 2 or pixels.shape[-1] in (1, 3):
        return pixels
    return tiff_page.without_extra(pixels, pixels.shape[-1] - 1, tiff_page.TRANSPARENCY[:1])


def _channels_first(pixels: Num[Array, "h w *c"]) -> Num[Array, "c h w"]:
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else rearrange(pixels, "h w c -> c h w"))


def _deep_color(path: Path, picture: Picture) -> Num[Array, "h w c"]:
    from imagecodecs import png_decode

    if "transparency" in picture.info:
        raise UnsupportedError("a 16-bit image declares one color as transparent; save it without transparency")
    pixels = png_decode(path.read_bytes())
    if pixels.dtype != np.uint16 or pixels.shape[:2] != (picture.height, picture.width):
        raise UnreadableError(
            f"the picture decodes to {pixels.shape} of {pixels.dtype}, its header states 16 bits of "
            f"{picture.height} x {picture.width}"
        )
    return tiff_page.upright(_without_alpha(pixels), picture.getexif().get(ORIENTATION, 1))


READER = Pictures()
