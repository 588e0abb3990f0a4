"""Colors of a TIFF slide: conversion of samples to RGB on white glass, as the header defines it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray as Array

from medvit.errors import UnsupportedError

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, YCBCR = 0, 1, 2, 3, 6
"""Values of (262) PhotometricInterpretation (TIFF 6.0, section 8)."""
JPEG, APERIO_YCBCR = 7, 33003
"""Values of (259) Compression: JPEG, decoded to RGB; and Aperio's JPEG 2000, YCbCr regardless of the header."""
Alpha = Literal["none", "associated", "unassociated", "unspecified"]
ALPHA: dict[int, Alpha] = {1: "associated", 2: "unassociated"}
"""Values of (338) ExtraSamples for an opacity channel -> whether colors are multiplied by it (associated) or not."""


@dataclass(frozen=True)
class TiffColors:
    """Conversion of the samples of a TIFF page, 8 bits each and interleaved, to RGB."""

    is_inverted: bool
    palette: UInt8[Array, "256 3"] | None
    alpha: Alpha

    def rgb(self, samples: UInt8[Array, "h w c"]) -> UInt8[Array, "h w 3"]:
        """Return the RGB of pixels; transparent areas become white, as glass is.

        Raises:
            UnsupportedError: If an extra channel of unspecified meaning is not 255 everywhere.
        """
        colors = samples if self.alpha == "none" else samples[..., :-1]
        if self.palette is not None:
            colors = self.palette[colors[..., 0]]
        if self.is_inverted:
            colors = 255 - colors
        if colors.shape[2] == 1:
            colors = np.repeat(colors, 3, axis=2)
        return colors if self.alpha == "none" else self._on_white(colors, samples[..., -1:])

    def _on_white(self, colors: UInt8[Array, "h w 3"], alpha: UInt8[Array, "h w 1"]) -> UInt8[Array, "h w 3"]:
        if alpha.min(initial=255) == 255:
            return np.ascontiguousarray(colors)
        if self.alpha == "unspecified":
            raise UnsupportedError(
                "a TIFF slide with an extra channel that (338) ExtraSamples does not declare as opacity; "
                "expected RGB, or RGB with opacity: save it without that channel"
            )
        share = alpha.astype(np.float32) / 255.0
        covered = colors.astype(np.float32) * (share if self.alpha == "unassociated" else 1.0)
        return np.asarray(np.rint(np.minimum(covered + 255.0 * (1.0 - share), 255.0)), np.uint8)


def colors_of(page: Any) -> TiffColors:
    """Return the conversion of the samples of a page to RGB.

    Raises:
        UnsupportedError: If the samples are not 8-bit colors or gray.
    """
    found, num_samples = int(page.photometric), int(page.samplesperpixel)
    if page.dtype != np.uint8 or page.bitspersample != 8:
        bits = page.bitspersample if isinstance(page.bitspersample, int) else max(page.bitspersample)
        kind = "unknown" if page.dtype is None else page.dtype.name
        raise UnsupportedError(
            f"a TIFF slide of {num_samples} channels of {bits} bits ({kind}); expected unsigned 8 bits per channel"
        )
    num_colors = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, YCBCR: 3}.get(found)
    is_unconverted = int(page.compression) == APERIO_YCBCR or (found == YCBCR and int(page.compression) != JPEG)
    if num_colors is None or is_unconverted:
        coded = f", compressed as {page.compression.name}" if is_unconverted else ""
        raise UnsupportedError(
            f"a TIFF slide whose colors are {_name(page.photometric)}{coded}; expected RGB, gray, a palette, or YCbCr "
            "in JPEG: save it as RGB"
        )
    num_extra = num_samples - num_colors
    if num_extra not in (0, 1):
        raise UnsupportedError(
            f"a TIFF slide of {num_samples} channels, of which {num_colors} are {_name(page.photometric)}; expected "
            "8-bit RGB or gray: save the intended channels as RGB"
        )
    alpha: Alpha = "none"
    if num_extra:
        alpha = ALPHA.get(int(page.extrasamples[0]) if page.extrasamples else 0, "unspecified")
    return TiffColors(found == WHITE_IS_ZERO, _palette(page) if found == PALETTE else None, alpha)


def _name(photometric: Any) -> str:
    """Return the name of a photometric interpretation."""
    known = {"MINISWHITE": "gray", "MINISBLACK": "gray", "SEPARATED": "inks (CMYK)", "YCBCR": "YCbCr"}
    name = getattr(photometric, "name", str(photometric))
    return known.get(name, name)


def _palette(page: Any) -> UInt8[Array, "256 3"]:
    """Return the (320) ColorMap in 8 bits.

    Some programs use only 8 of its 16 bits.
    """
    if page.colormap is None or page.colormap.shape != (3, 256):
        raise UnsupportedError("a TIFF slide of palette indices without a palette of 256 colors; save it as RGB")
    colors = page.colormap.T
    return np.asarray(colors if colors.max() < 256 else colors >> 8, np.uint8)
