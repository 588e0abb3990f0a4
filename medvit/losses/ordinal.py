"""Loss for ordered grades, by conditional probabilities of exceeding each grade (CORN)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from medvit.losses.class_balance import ClassBalance
from medvit.losses.supervised import Loss


def ordinal_loss(balance: ClassBalance) -> Loss:
    """Return the CORN loss function of logits (B, L - 1) and grades (B,), numbered from 0 (Shi et al. 2023).

    Logit k is that of a grade above k, given a grade of at least k. It is trained by binary cross-entropy on the images
    with a grade of at least k. If `balance` has class weights, each image has the weight of its grade.
    """

    def loss(logits: Tensor, targets: Tensor, progress: float = 0.0) -> Tensor:
        found = balance.weights(progress)
        weight = torch.ones(len(balance.counts)) if found is None else torch.tensor(found, dtype=torch.float32)
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
