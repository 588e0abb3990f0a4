"""Mean cosine similarity between the features of two images: -1 to 1, lower is better; 1 if all features are equal.

It measures representations, over all pairs of different images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxtyping import Float

from medvit.metrics import FeatureMetric

if TYPE_CHECKING:
    from torch import Tensor


def mean_cosine(features: Float[Tensor, "n d"]) -> float:
    """Compute the mean cosine similarity over all pairs of different images."""
    from torch.nn import functional as F

    unit = F.normalize(features.double(), dim=-1)
    count = len(unit)
    return float((unit.sum(dim=0).square().sum() - unit.square().sum()) / (count * (count - 1)))


METRIC = FeatureMetric(
    name="mean_cosine",
    title="mean cosine",
    meaning="Mean cosine: how similar the features of two images are on average; 1 if all images have the same "
    "features.",
    higher_is_better=False,
    compute=mean_cosine,
)
