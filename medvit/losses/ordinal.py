"""Loss for ordered grades, by conditional probabilities of exceeding each grade (CORN)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from medvit.losses.supervised import Loss, inverse_frequencies


def ordinal_loss(class_counts: Sequence[int], *, balanced: bool) -> Loss:
    """Return the CORN loss for logits (B, L - 1) and grades (B,), numbered from 0 (Shi et al. 2023).

    Logit k is that of a grade above k, given a grade of at least k. It is trained by cross-entropy on the images with a
    grade of at least k. `balanced` weights each image by the inverse frequency of its grade.

    Raises:
        DataError: If a grade to be balanced has no example.
    """
    weight = inverse_frequencies(class_counts) if balanced else torch.ones(len(class_counts))

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        grades = torch.arange(logits.shape[1], device=logits.device)
        counted = (targets[:, None] >= grades) * weight.to(logits.device)[targets][:, None]
        exceeds = (targets[:, None] > grades).float()
        each = F.binary_cross_entropy_with_logits(logits.float(), exceeds, reduction="none")
        return (each * counted).sum() / counted.sum()

    return loss


def grade_probabilities(logits: Float[Tensor, "b k"]) -> Float[Tensor, "b l"]:
    """Return the probability of each of L = K + 1 grades from the K logits of exceeding a grade."""
    exceeds = logits.float().sigmoid()
    reaches = torch.cat([torch.ones_like(exceeds[:, :1]), exceeds.cumprod(dim=1)], dim=1)
    stops = torch.cat([1.0 - exceeds, torch.ones_like(exceeds[:, :1])], dim=1)
    return reaches * stops
