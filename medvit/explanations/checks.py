"""Checks of a map: deletion and insertion against random order, and the map of a model with random weights.

Deletion replaces cells of the image by the baseline, in descending order of the map, and insertion puts them back into
the baseline (Petsiuk et al., BMVC 2018). The score is the mean of the output over all steps: lower is better for
deletion, higher for insertion. A map is informative only if it is better than a random order of the same cells.

A map that hardly changes when the weights of the model are random does not depend on what the model has learned
(Adebayo et al., NeurIPS 2018).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray as Array
from torch import Tensor, nn
from torch.nn import functional as F

BATCH = 8
"""Number of partly deleted images that are predicted together."""


@dataclass(frozen=True)
class MapChecks:
    """Deletion and insertion score of a map and of random orders, and its correlation with that of random weights."""

    deletion: float
    deletion_random: float
    insertion: float
    insertion_random: float
    correlation: float
    """Spearman correlation of the absolute values with the map of the same model with random weights."""

    @property
    def is_informative(self) -> bool:
        """Whether both scores are better than those of random orders."""
        return self.deletion < self.deletion_random and self.insertion > self.insertion_random


def cell_values(values: Float[Tensor, "*s"], cell: tuple[int, ...]) -> Float[Tensor, "*g"]:
    """Return the mean of a map over cells of `cell` pixels; the last cell along an axis may be smaller."""
    pool = F.avg_pool3d if values.ndim == 3 else F.avg_pool2d
    options = {"ceil_mode": True, "count_include_pad": False}
    return pool(values[None, None], cell, cell, **options)[0, 0]


def deletion_and_insertion(
    value_of: Callable[[Float[Tensor, "b c *s"]], Float[Tensor, "b"]],
    pixels: Float[Tensor, "1 c *s"],
    baseline: Float[Tensor, "1 c *s"],
    order: Int[Array, "n"],
    cell: tuple[int, ...],
    *,
    steps: int,
) -> tuple[float, float]:
    """Return the mean output while cells are deleted, and while they are inserted, in an order of cells.

    `order` has the row-major numbers of all cells. Both means include the whole image and the whole baseline.
    """
    grid = tuple(math.ceil(side / one) for side, one in zip(pixels.shape[2:], cell, strict=True))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    ranks = torch.from_numpy(rank.reshape(grid))
    for axis, side in enumerate(cell):
        ranks = ranks.repeat_interleave(side, dim=axis)
    ranks = ranks[tuple(slice(side) for side in pixels.shape[2:])].to(pixels.device)
    edges = np.linspace(0, len(order), steps + 1).round().astype(int)
    deleted = [torch.where(ranks < edge, baseline[0], pixels[0]) for edge in edges.tolist()]
    inserted = [torch.where(ranks < edge, pixels[0], baseline[0]) for edge in edges.tolist()]
    return _mean(value_of, deleted), _mean(value_of, inserted)


def order_of(values: Float[Tensor, "*g"]) -> Int[Array, "n"]:
    """Return the cells in descending order of a map."""
    return np.argsort(-values.flatten().double().numpy(), kind="stable")


def random_orders(count: int, orders: int, seed: int) -> list[Int[Array, "n"]]:
    """Return random orders of cells."""
    generator = np.random.default_rng(seed)
    return [generator.permutation(count) for _ in range(orders)]


def with_random_weights(model: nn.Module, seed: int) -> nn.Module:
    """Return a copy of a model in which the entries of each weight are randomly permuted."""
    generator = torch.Generator().manual_seed(seed)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight in other.parameters():
            flat = weight.flatten()
            weight.copy_(flat[torch.randperm(flat.numel(), generator=generator).to(flat.device)].view_as(weight))
    return other


def rank_correlation(one: Float[Tensor, "*g"], other: Float[Tensor, "*g"]) -> float:
    """Return the Spearman correlation of the absolute values of two maps; 0 if one is constant."""
    from scipy.stats import spearmanr

    first, second = one.abs().flatten().double().numpy(), other.abs().flatten().double().numpy()
    if np.ptp(first) == 0.0 or np.ptp(second) == 0.0:
        return 0.0
    return float(spearmanr(first, second).statistic)


@torch.no_grad()
def _mean(value_of: Callable[[Tensor], Tensor], images: list[Tensor]) -> float:
    values = [value_of(torch.stack(images[start : start + BATCH])) for start in range(0, len(images), BATCH)]
    return float(torch.cat(values).double().mean())
