"""Position embeddings: sines and cosines added to tokens, or rotations applied to queries and keys."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor


@lru_cache(maxsize=32)
def sincos_positions(
    grid: tuple[int, ...], width: int, temperature: float = 1e4, *, step: tuple[float, ...] | None = None
) -> Float[Tensor, "1 n d"]:
    """Return fixed sine-cosine position embeddings of a grid (He et al., CVPR 2022, here also in 3D).

    The features are divided equally among the axes, and for each axis into sines and cosines. Features left over by the
    division are zero. `step` is the side of a patch along each axis, in sides of the usual patch, in which positions
    are counted; unset, it is 1.
    """
    num_frequencies = width // (2 * len(grid))
    frequencies = temperature ** -(torch.arange(num_frequencies) / num_frequencies)
    sides = zip(grid, step or (1.0,) * len(grid), strict=True)
    centers = ((torch.arange(n, dtype=torch.float32) + 0.5) * side - 0.5 for n, side in sides)
    axes = torch.meshgrid(*centers, indexing="ij")
    parts = [wave(axis.flatten()[:, None] * frequencies) for axis in axes for wave in (torch.sin, torch.cos)]
    positions = torch.cat(parts, dim=1)
    return torch.nn.functional.pad(positions, (0, width - positions.shape[1]))[None]


@lru_cache(maxsize=32)
def rotations(grid: tuple[int, ...], head_width: int, temperature: float = 100.0) -> Float[Tensor, "n r"]:
    """Return the sines and cosines by which timm rotates queries and keys, as DINOv3 does in 2D.

    The result (N, 2 * head_width) contains the sines, then the cosines. Patch centers are in [-1, 1] along each axis.
    The axes share the head_width / 2 angles equally; in 3D, features left over by the division (4 of 64) are not
    rotated. Each angle rotates a pair of features that are half a head apart.
    """
    num_angles = head_width // 2
    num_frequencies = num_angles // len(grid)
    periods = temperature ** (torch.arange(num_frequencies) / num_frequencies)
    centers = (2.0 * (torch.arange(n) + 0.5) / n - 1.0 for n in grid)
    axes = torch.stack(torch.meshgrid(*centers, indexing="ij"), dim=-1).flatten(0, -2)
    angles = (2 * math.pi * axes[:, :, None] / periods).flatten(1)
    angles = torch.nn.functional.pad(angles, (0, num_angles - angles.shape[1]))
    return torch.cat([angles.sin().repeat(1, 2), angles.cos().repeat(1, 2)], dim=1)
