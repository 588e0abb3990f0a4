"""Probes without training: nearest neighbors and ridge regression, with the standard error of their score."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

TEMPERATURE = 0.07
"""Temperature of the neighbor votes (Caron et al., ICCV 2021)."""
PENALTIES = tuple(10.0**power for power in range(-4, 4))
"""Penalties of the ridge probe, relative to the mean squared singular value."""


def knn_vote(
    bank: Float[Tensor, "n d"], labels: Int[Tensor, "n"], queries: Float[Tensor, "m d"], num_neighbors: int
) -> Float[Tensor, "m l"]:
    """Return the votes of the nearest neighbors for each class, weighted by exp(cosine / temperature)."""
    bank, queries = F.normalize(bank, dim=-1), F.normalize(queries, dim=-1)
    similarity, nearest = (queries @ bank.T).topk(min(num_neighbors, len(bank)), dim=1)
    weights = (similarity / TEMPERATURE).exp()
    votes = torch.zeros(len(queries), int(labels.max()) + 1)
    return votes.scatter_add_(1, labels[nearest], weights)


def ridge_logits(
    bank: Float[Tensor, "n d"], labels: Int[Tensor, "n"], queries: Float[Tensor, "m d"]
) -> Float[Tensor, "m l"]:
    """Return class scores of the queries from a ridge regression on the labels of the bank.

    All classes have equal total weight. The penalty is the one of `PENALTIES` with the smallest leave-one-out error
    (Allen, Technometrics 1974), which the singular values give without refitting.
    """
    classes = int(labels.max()) + 1
    counts = torch.bincount(labels, minlength=classes).double()
    root = (len(labels) / (counts[labels] * (counts > 0).sum())).sqrt()[:, None]
    scale = bank.double().std(dim=0).clamp_min(1e-6)
    center = (root**2 * bank.double()).mean(dim=0)
    features = (bank.double() - center) / scale
    targets = F.one_hot(labels, classes).double()
    offset = (root**2 * targets).mean(dim=0)
    left, values, right = torch.linalg.svd(root * features, full_matrices=False)
    projected = left.T @ (root * (targets - offset))
    mean_square = values.square().mean().clamp_min(1e-12)

    def error(penalty: float) -> float:
        shrunk = values.square() / (values.square() + penalty * mean_square)
        residual = root * (targets - offset) - left @ (shrunk[:, None] * projected)
        leverage = (left.square() * shrunk).sum(dim=1) + 1.0 / len(labels)
        return float((residual / (1.0 - leverage).clamp_min(1e-3)[:, None]).square().mean())

    penalty = min(PENALTIES, key=error) * mean_square
    weights = right.T @ ((values / (values.square() + penalty))[:, None] * projected)
    return (((queries.double() - center) / scale) @ weights + offset).float()


def standard_error(share: float, count: int) -> float:
    """Return the standard error of a fraction of `count` images, also valid at 0 and 1 (Agresti and Coull, 1998)."""
    center = (share * count + 2.0) / (count + 4.0)
    return float((center * (1.0 - center) / (count + 4.0)) ** 0.5)
