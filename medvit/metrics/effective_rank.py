"""Effective rank, the number of directions that features use: from 1, higher is better.

It measures representations, over all images (Roy and Vetterli, EUSIPCO 2007), without labels, as RankMe does (Garrido
et al., ICML 2023). As in RankMe, features are not centered, so identical features have rank 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxtyping import Float

from medvit.metrics import FeatureMetric

if TYPE_CHECKING:
    from torch import Tensor


def effective_rank(features: Float[Tensor, "n d"]) -> float:
    """Compute exp of the entropy of the normalized singular values (which sum to 1); NaN if a feature is not finite."""
    import torch

    if not torch.isfinite(features).all():
        return float("nan")
    values = torch.linalg.svdvals(features.double())
    shares = values / values.sum().clamp_min(1e-12) + 1e-7
    return float((-(shares * shares.log()).sum()).exp())


METRIC = FeatureMetric(
    name="effective_rank",
    title="effective rank",
    meaning="Effective rank: the number of directions that features use; 1 is a collapse.",
    higher_is_better=True,
    compute=effective_rank,
)
