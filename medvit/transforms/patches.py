"""Conversion of pixels to flat patches and back, in 2D and 3D."""

from __future__ import annotations

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

_AXES = {2: ("h w", "p q"), 3: ("i j k", "p q r")}


def patchify(pixels: Float[Tensor, "b c *s"], patch_size: tuple[int, ...]) -> Float[Tensor, "b n p"]:
    """Return patches (B, N, P) in row-major order; each lists its pixels, and for each pixel its channels."""
    grid, inner = (axes.split() for axes in _AXES[len(patch_size)])
    paired = " ".join(f"({g} {p})" for g, p in zip(grid, inner, strict=True))
    sizes = dict(zip(inner, patch_size, strict=True))
    return rearrange(pixels, f"b c {paired} -> b ({' '.join(grid)}) ({' '.join(inner)} c)", **sizes)


def unpatchify(
    patches: Float[Tensor, "b n p"], patch_size: tuple[int, ...], shape: tuple[int, ...]
) -> Float[Tensor, "b c *s"]:
    """Return pixels of a spatial shape from their patches: the exact inverse of `patchify`."""
    grid, inner = (axes.split() for axes in _AXES[len(patch_size)])
    paired = " ".join(f"({g} {p})" for g, p in zip(grid, inner, strict=True))
    sizes = dict(zip(inner, patch_size, strict=True))
    sizes |= {g: size // p for g, size, p in zip(grid, shape, patch_size, strict=True)}
    return rearrange(patches, f"b ({' '.join(grid)}) ({' '.join(inner)} c) -> b c {paired}", **sizes)
