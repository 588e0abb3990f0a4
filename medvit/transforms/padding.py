"""Padding of images, the same in training and inference."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from medvit.channels import mark_missing, present_channels


def pad_about(
    pixels: Float[Tensor, "b c *s"], shape: tuple[int, ...], value: float | None = None
) -> tuple[Tensor, tuple[Any, ...]]:
    """Return pixels padded on all sides to at least `shape`, and the location of the original pixels in the result.

    The padding value is `value`, or the lowest pixel if unset; missing channels remain missing. Training pads crops in
    the same way, because padding affects a model that normalizes over the image.
    """
    missing = [max(0, want - have) for want, have in zip(shape, pixels.shape[2:], strict=True)]
    before = [n // 2 for n in missing]
    pads = [p for n, start in zip(reversed(missing), reversed(before), strict=True) for p in (start, n - start)]
    inside = (..., *(slice(start, start + n) for start, n in zip(before, pixels.shape[2:], strict=True)))
    if value is None:
        value = float(pixels.min())
        if math.isnan(value):
            value = float(pixels.nan_to_num(nan=torch.inf).min())
            return mark_missing(F.pad(pixels, pads, value=value), present_channels(pixels)), inside
    return F.pad(pixels, pads, value=value), inside


def pad_to_multiple(pixels: Float[Tensor, "b c *s"], patch_size: tuple[int, ...]) -> Float[Tensor, "b c *t"]:
    """Return pixels padded at the end of each axis to a multiple of the patch size, by repeating the edge."""
    missing = [-size % patch for size, patch in zip(pixels.shape[2:], patch_size, strict=True)]
    if not any(missing):
        return pixels
    return F.pad(pixels, [p for n in reversed(missing) for p in (0, n)], mode="replicate")
