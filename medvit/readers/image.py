"""Pictures: PNG, JPEG, TIFF, GIF and BMP through Pillow; 16-bit color, which it would cut to 8, through SimpleITK."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from einops import rearrange
from jaxtyping import Num
from numpy import ndarray as Array

from medvit.errors import MedvitError, UnreadableError, UnsupportedError
from medvit.files.guard import decoding, refusal
from medvit.readers.label_maps import LabelMap, label_image
from medvit.records import Item, Refusal
from medvit.types import Image

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"GIF87a", b"GIF89a")
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".gif", ".bmp")

FORMATS = ("PNG", "JPEG", "TIFF", "GIF", "BMP")
"""The decoders of Pillow that are let near a file."""

MAX_PIXELS = 200_000_000
"""The largest picture taken, in pixels: beyond it is a slide, or a header that lies."""

GRAY_16 = ("I;16", "I;16L", "I;16B", "I;16N")


class Pictures:
    """Pictures (C, H, W), C = 1 or 3, uint8 or uint16. Neither their physical scale nor their modality is known."""

    name = "image"

    def sniff(self, path: Path, head: bytes) -> bool:
        """Whether the magic of one of the formats is there, or the file is named as one."""
        return head.startswith(MAGIC) or path.name.lower().endswith(SUFFIXES)

    def find(self, files: Sequence[Path]) -> Iterator[Item | Refusal]:
        """An item a picture."""
        for file in files:
            try:
                with decoding("the picture"), _open(file):
                    pass
            except MedvitError as error:
                yield refusal((file,), error)
            else:
                yield Item(reader=self.name, files=(file,), kind="image")

    def read(self, item: Item) -> Image:
        """The pixels (C, H, W), upright as EXIF says; a palette becomes colors, a constant alpha channel is dropped.

        Raises:
            UnsupportedError: If the picture has many pages, or is transparent in places.
        """
        return Image(_pixels(item.files[0]), "image", item.modality)

    def read_mask(self, path: Path) -> LabelMap:
        """Labels (H, W): gray levels, or the indices of a palette of colors; black and white are 0 and 1."""
        from PIL import ImageOps

        with _open(path) as picture:
            if picture.mode == "P" and not _is_gray_palette(picture):
                return label_image(np.asarray(ImageOps.exif_transpose(picture))[None])
        return label_image(_pixels(path))


def _open(path: Path) -> Picture:
    from PIL import Image as Pillow
    from PIL import UnidentifiedImageError

    try:
        picture = Pillow.open(path, formats=FORMATS)
    except UnidentifiedImageError:
        raise UnreadableError("named as a picture, but its bytes are of no kind known here") from None
    except Pillow.DecompressionBombError:
        raise UnsupportedError(f"more than {MAX_PIXELS} pixels; expected a picture: cut it into tiles") from None
    pages = getattr(picture, "n_frames", 1)
    if picture.width * picture.height > MAX_PIXELS:
        raise UnsupportedError(f"{picture.width} x {picture.height} pixels; expected {MAX_PIXELS} at most: cut it up")
    if pages > 1 and picture.format != "MPO":  # an MPO's further pages are previews of its first
        raise UnsupportedError(f"{pages} pages in one file; expected one picture: save each page as its own file")
    return picture


def _pixels(path: Path) -> Num[Array, "c h w"]:
    from PIL import ImageOps

    with _open(path) as picture:
        if _is_deep_color(path, picture):
            return _deep_color(path)
        picture.load()
        upright = ImageOps.exif_transpose(picture)
        if upright.mode in GRAY_16:
            return np.asarray(upright).astype(np.uint16)[None]
        if upright.mode in ("I", "F"):
            return np.asarray(upright)[None]
        return _without_alpha(np.asarray(upright.convert(_target_mode(upright))))


def _target_mode(picture: Picture) -> str:
    if picture.mode in ("L", "LA", "RGB", "RGBA"):
        return str(picture.mode)
    if picture.mode == "1":
        return "L"
    if picture.mode == "P":
        colors = "L" if _is_gray_palette(picture) else "RGB"
        return f"{colors}A" if "transparency" in picture.info else colors
    return "RGBA" if picture.mode in ("PA", "RGBa", "La") else "RGB"


def _is_gray_palette(picture: Picture) -> bool:
    palette = np.array(picture.getpalette("RGB")).reshape(-1, 3)
    used = palette[np.unique(np.asarray(picture))]
    return bool((used == used[:, :1]).all())


def _without_alpha(pixels: Num[Array, "h w *c"]) -> Num[Array, "c h w"]:
    if pixels.ndim == 2:
        return pixels[None]
    if pixels.shape[-1] in (2, 4):
        alpha = pixels[..., -1]
        if (alpha != alpha.flat[0]).any():
            raise UnsupportedError("transparent in places, so its colors are not settled; save it without alpha")
        pixels = pixels[..., :-1]
    return np.ascontiguousarray(rearrange(pixels, "h w c -> c h w"))


def _is_deep_color(path: Path, picture: Picture) -> bool:
    if picture.format == "PNG":
        with path.open("rb") as stream:
            bit_depth, color_type = stream.read(26)[24:26]
        return bool(bit_depth == 16 and color_type != 0)
    if picture.format == "TIFF":
        bits = getattr(picture, "tag_v2", {}).get(258, (8,))
        return len(bits) > 1 and max(bits) > 8
    return False


def _deep_color(path: Path) -> Num[Array, "c h w"]:
    import SimpleITK as sitk  # noqa: N813

    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # ITK's warnings quote paths
    pixels = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    return _without_alpha(pixels.reshape(pixels.shape[-3:] if pixels.ndim > 3 else pixels.shape))


READER = Pictures()
