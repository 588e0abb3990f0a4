"""Block masks over the patches of crops, in 2D and 3D (Bao et al., ICLR 2022; Oquab et al., TMLR 2024)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

MIN_PATCHES, MAX_SHARE, MIN_ASPECT, TRIES = 4, 0.5, 0.3, 10
"""Number of patches in the smallest block, share of the grid in the largest block, smallest aspect ratio of a block,
and number of attempts to place a block.
"""


def block_mask(grid: tuple[int, ...], num_masked: int, generator: np.random.Generator) -> Bool[np.ndarray, "*g"]:
    """Return a mask of random blocks with at most `num_masked` patches, and at least one if `num_masked` is not 0.

    Blocks are added until no attempt adds patches within the limit.
    """
    mask = np.zeros(grid, dtype=bool)
    while mask.sum() < num_masked:
        if not _add_block(mask, min(num_masked - int(mask.sum()), int(MAX_SHARE * mask.size)), generator):
            break
    if num_masked > 0 and not mask.any():  # a grid too small for any block
        mask.flat[generator.integers(mask.size)] = True
    return mask


def _add_block(mask: Bool[np.ndarray, "*g"], allowed: int, generator: np.random.Generator) -> bool:
    for _ in range(TRIES):
        volume = generator.uniform(min(MIN_PATCHES, allowed), allowed)
        logs = generator.permutation(
            [*generator.uniform(math.log(MIN_ASPECT), -math.log(MIN_ASPECT), mask.ndim - 1), 0]
        )
        block = [round(float(side)) for side in volume ** (1 / mask.ndim) * np.exp(logs - logs.mean())]
        if not all(0 < side < whole for side, whole in zip(block, mask.shape, strict=True)):
            continue
        start = [int(generator.integers(0, n - side + 1)) for n, side in zip(mask.shape, block, strict=True)]
        part = mask[tuple(slice(a, a + n) for a, n in zip(start, block, strict=True))]
        if 0 < part.size - part.sum() <= allowed:
            part[...] = True
            return True
    return False


def draw_masks(
    rows: Sequence[int],
    num_crops: int,
    grid: tuple[int, ...],
    *,
    share: float,
    ratios: tuple[float, float],
    seed: int,
) -> Bool[Tensor, "b n"]:
    """Return masks for some rows of a batch of crops.

    A fraction `share` of the crops in the batch is masked. The ratios of masked patches in these crops are evenly
    spread over the range `ratios`.

    At least one crop of the batch is masked. A mask depends only on the seed and its row, so several devices draw the
    same masks as one device with the joint batch.
    """
    num_patches, num_masked = math.prod(grid), max(1, int(num_crops * share))
    bounds = np.linspace(*ratios, num_masked + 1)
    places = np.random.default_rng(seed).permutation(num_crops)
    masks = np.zeros((len(rows), num_patches), dtype=bool)
    for mask, row in zip(masks, rows, strict=True):
        if (place := places[row]) < num_masked:
            generator = np.random.default_rng((seed, row))
            wanted = max(1, int(num_patches * generator.uniform(*bounds[place : place + 2])))
            mask[:] = block_mask(grid, wanted, generator).ravel()
    return torch.from_numpy(masks)
