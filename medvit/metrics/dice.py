"""Dice coefficient, the overlap of two masks: 0 to 1, higher is better.

It applies to segmentation, per image and class: 2 |A and B| / (|A| + |B|); NaN if both masks are empty (Dice, Ecology
1945).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray as Array

from medvit.metrics import MaskMetric

if TYPE_CHECKING:
    from torch import Tensor

Counts = TypeVar("Counts", "Array[Any, Any]", "Tensor")
"""Numbers of voxels, in an array or a tensor on any device."""


def dice_from_counts(intersection: Counts, total: Counts) -> Counts:
    """Compute Dice, element by element, from the intersection and the sum of voxels of both masks."""
    with np.errstate(invalid="ignore"):
        return 2 * intersection / total


def dice(true: Bool[Array, "*s"], given: Bool[Array, "*s"]) -> float:
    """Compute Dice of two masks."""
    return float(dice_from_counts((true & given).sum(), true.sum() + given.sum()))


def overlaps(truth: Int[Tensor, "b *s"], found: Int[Tensor, "b *s"], num_classes: int) -> Float[Tensor, "b 2 f"]:
    """Count the intersection and the sum of voxels of both label maps, per image and foreground class."""
    return region_overlaps(truth, found, [[label] for label in range(1, num_classes)])


def region_overlaps(
    truth: Int[Tensor, "b *s"], found: Int[Tensor, "b *s"], members: Sequence[Sequence[int]]
) -> Float[Tensor, "b 2 r"]:
    """Count the intersection and the sum of voxels of both label maps, per image and region.

    `members` lists the classes in each region.
    """
    import torch

    pairs = []
    for labels in members:
        true, given = (torch.stack([maps == label for label in labels]).any(dim=0) for maps in (truth, found))
        pairs.append(
            torch.stack([(given & true).flatten(1).sum(1), given.flatten(1).sum(1) + true.flatten(1).sum(1)], dim=1)
        )
    return torch.stack(pairs, dim=2).float()


def mean_dice(intersection: Counts, total: Counts) -> float:
    """Compute the mean Dice over all images and classes, skipping classes that are in neither mask of an image.

    The result is NaN if all classes are skipped.
    """
    defined = total > 0
    return float(dice_from_counts(intersection, total)[defined].mean()) if defined.any() else float("nan")


METRIC = MaskMetric(
    name="dice",
    title="Dice",
    meaning="Dice: twice the overlap of two masks, divided by the sum of their sizes; for several classes, the mean "
    "over the classes of each image.",
    higher_is_better=True,
    compute=lambda masks: dice(masks.true, masks.found),
    bounds=(0.0, 1.0),
    place=10,
)
