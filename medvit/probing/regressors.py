"""Regressions of a number on frozen features: nearest neighbors, and ridge regression.

The setting with the highest R2 on the val split is used on the test split; of equal ones, the first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray as Array
from torch import Tensor
from torch.nn import functional as F

from medvit.baselines.fit import PENALTIES, chosen_ridge, fitted_ridge, scale_of_each
from medvit.embeddings.probe_metrics import TEMPERATURE
from medvit.metrics.values.r2 import determination
from medvit.probing.classifiers import NEIGHBORS
from medvit.probing.layer_features import LayerFeatures

FeaturesOf = Callable[[LayerFeatures], Float[Array, "n d"]]
"""Function that takes the features of a layer."""
SETTINGS = {"penalties": PENALTIES, "neighbors": NEIGHBORS, "temperature": TEMPERATURE}
"""Settings of the regressions, for the hash of the protocol."""


@dataclass(frozen=True)
class NumberSplits:
    """Features of the images of each split, and the number of each training and validation image."""

    train: LayerFeatures
    val: LayerFeatures
    test: LayerFeatures
    train_truth: Float[Array, "n"]
    val_truth: Float[Array, "m"]


@dataclass(frozen=True)
class ProbedNumbers:
    """Result of a regression: the numbers (N,) of the test images, the chosen setting, and R2 on val by setting."""

    values: Float[Array, "n"]
    chosen: str
    tried: Mapping[str, float]


def neighbor_mean(
    bank: Float[Tensor, "n d"], numbers: Float[Tensor, "n"], queries: Float[Tensor, "m d"], num_neighbors: int
) -> Float[Tensor, "m"]:
    """Return the mean number of the nearest neighbors by cosine, weighted by exp(cosine / temperature)."""
    similarity = F.normalize(queries, dim=-1) @ F.normalize(bank, dim=-1).T
    nearest = similarity.topk(min(num_neighbors, len(bank)), dim=1)
    return ((nearest.values / TEMPERATURE).softmax(dim=1) * numbers[nearest.indices]).sum(dim=1)


def regress_neighbors(splits: NumberSplits, features_of: FeaturesOf) -> ProbedNumbers:
    """Return the mean number of the nearest training images; k is chosen.

    If there are fewer training images than k, all of them count.
    """
    bank, val, test = (torch.from_numpy(features_of(part)) for part in (splits.train, splits.val, splits.test))
    numbers = torch.from_numpy(splits.train_truth).to(bank.dtype)
    tried = {
        f"k = {count}": determination(splits.val_truth, neighbor_mean(bank, numbers, val, count).double().numpy())
        for count in NEIGHBORS
    }
    chosen = max(tried, key=lambda name: tried[name])
    found = neighbor_mean(bank, numbers, test, int(chosen.removeprefix("k = ")))
    return ProbedNumbers(found.double().numpy(), chosen, tried)


def regress_ridge(splits: NumberSplits, features_of: FeaturesOf) -> ProbedNumbers:
    """Return the numbers of a ridge regression; the penalty is chosen, and the final model uses train and val."""
    train, val, test = (features_of(part).astype(np.float64) for part in (splits.train, splits.val, splits.test))
    scale = scale_of_each(train)
    model = chosen_ridge(train, splits.train_truth, val, splits.val_truth, scale)
    both = np.concatenate([train, val]), np.concatenate([splits.train_truth, splits.val_truth])
    final = fitted_ridge(*both, scale, [model.penalty])
    chosen = f"penalty = {model.penalty:g}"
    return ProbedNumbers(final(test), chosen, {chosen: determination(splits.val_truth, model(val))})


def layer_scores(splits: NumberSplits, test_truth: Float[Array, "n"], features_of: FeaturesOf) -> tuple[float, float]:
    """Return R2 on val and test of a ridge regression on the features of a layer, trained on the train split."""
    train, val, test = (features_of(part).astype(np.float64) for part in (splits.train, splits.val, splits.test))
    model = chosen_ridge(train, splits.train_truth, val, splits.val_truth, scale_of_each(train))
    return determination(splits.val_truth, model(val)), determination(test_truth, model(test))
