"""Classifiers on frozen features, with the settings of the evaluations of DINOv2 (Oquab et al., TMLR 2024).

Each classifier is trained on the train split for every setting of its grid. The setting with the highest AUROC on the
val split is used on the test split; of equal ones, the first. DINOv2 chooses by accuracy instead, which depends on the
class frequencies.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray as Array
from torch import Tensor

from medvit.embeddings.probe_metrics import knn_vote, ridge_logits
from medvit.metrics.auroc import mean_auroc
from medvit.probing.layer_features import LayerFeatures

NEIGHBORS = (10, 20, 100, 200)
STRENGTHS = tuple(float(strength) for strength in 10.0 ** np.linspace(-6, 5, 45))
"""Inverse strengths of the L2 penalty of the logistic regression, `C` of scikit-learn."""
RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)
"""Learning rates of the linear classifiers, for 256 images per step; they are scaled with the number of images."""
BLOCKS = (1, 4)
"""Numbers of last layers whose class tokens a linear classifier takes."""
BATCH, STEPS, MOMENTUM = 128, 1000, 0.9
"""Images per step, steps and momentum of the linear classifiers, trained by SGD with a cosine schedule."""
INITIAL_DEVIATION = 0.01
MAX_ITERATIONS = 1000

_KeyT = TypeVar("_KeyT", str, float)


@dataclass(frozen=True)
class ProbeSplits:
    """Features of the images of each split, and the index of the class of each image."""

    train: LayerFeatures
    val: LayerFeatures
    test: LayerFeatures
    train_truth: Int[Array, "n"]
    val_truth: Int[Array, "m"]
    num_classes: int


@dataclass(frozen=True)
class Probed:
    """Result of a classifier: probabilities (N, L) of the test images, the chosen setting, and AUROCs on val.

    `tried` are the AUROCs on the val split, keyed by setting.
    """

    probabilities: Float[Array, "n l"]
    chosen: str
    tried: Mapping[str, float]


def probe_neighbors(splits: ProbeSplits, features_of: Callable[[LayerFeatures], Float[Array, "n d"]]) -> Probed:
    """Return the votes of the nearest training images by cosine, weighted by exp(cosine / 0.07); k is chosen.

    If there are fewer training images than k, all of them vote.
    """
    bank, labels = torch.from_numpy(features_of(splits.train)), torch.from_numpy(splits.train_truth)
    found: dict[str, tuple[Array, Array]] = {}
    for number in NEIGHBORS:
        val, test = (
            _shares(knn_vote(bank, labels, torch.from_numpy(features_of(part)), number), splits.num_classes)
            for part in (splits.val, splits.test)
        )
        found[f"k = {number}"] = val, test
    return _best(found, splits)


def probe_logistic(splits: ProbeSplits, features_of: Callable[[LayerFeatures], Float[Array, "n d"]]) -> Probed:
    """Return the probabilities of a logistic regression; the penalty is chosen, and the final model uses train and val.

    Features are not scaled, as in DINOv2. Neighboring penalties start from each other's solution.
    """
    train, val, test = (features_of(part).astype(np.float64) for part in (splits.train, splits.val, splits.test))
    scores = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # weak penalties need more iterations than the protocol allows
        model = _regression(STRENGTHS[0], warm=True)
        for strength in STRENGTHS:
            model.set_params(C=strength)
            model.fit(train, splits.train_truth)
            scores[strength] = mean_auroc(splits.val_truth, _probabilities(model, val, splits.num_classes))
        chosen = _first_best(scores)
        everything = np.concatenate([train, val]), np.concatenate([splits.train_truth, splits.val_truth])
        final = _regression(chosen, warm=False).fit(*everything)
    tried = {f"C = {strength:.3g}": score for strength, score in scores.items()}
    return Probed(_probabilities(final, test, splits.num_classes), f"C = {chosen:.3g}", tried)


def probe_linear(splits: ProbeSplits, *, seed: int) -> Probed:
    """Return the probabilities of the best of linear classifiers for 13 learning rates, 1 or 4 layers, and pooling.

    They are trained for 1,000 steps of 128 images. With pooling, the mean of the patch tokens of the last layer is
    added to the class tokens.
    """
    found: dict[str, tuple[Array, Array]] = {}
    for number in BLOCKS:
        for with_mean in (False, True):
            train, val, test = (
                torch.from_numpy(part.last_blocks(number, with_mean=with_mean)).float()
                for part in (splits.train, splits.val, splits.test)
            )
            heads = _linear_heads(train, torch.from_numpy(splits.train_truth), splits.num_classes, seed=seed)
            for rate, predicted in zip(RATES, zip(heads(val), heads(test), strict=True), strict=True):
                name = f"lr = {rate:g}, layers = {number}{', with mean' * with_mean}"
                found[name] = predicted[0].numpy(), predicted[1].numpy()
    return _best(found, splits)


def probe_ridge(
    splits: ProbeSplits, features_of: Callable[[LayerFeatures], Float[Array, "n d"]]
) -> tuple[Array, Array]:
    """Return the scores of val and test images by a ridge regression, whose penalty is from the train split."""
    train, val, test = (torch.from_numpy(features_of(part)) for part in (splits.train, splits.val, splits.test))
    scores = ridge_logits(train, torch.from_numpy(splits.train_truth), torch.cat([val, test]))
    missing = splits.num_classes - scores.shape[1]
    padded = torch.nn.functional.pad(scores, (0, missing), value=float(scores.min()) - 1.0).numpy()
    return padded[: len(val)], padded[len(val) :]


def ridge_scores(
    splits: ProbeSplits, test_truth: Int[Array, "k"], features_of: Callable[[LayerFeatures], Float[Array, "n d"]]
) -> tuple[float, float]:
    """Return the AUROCs of a ridge probe on the val and test images."""
    val, test = probe_ridge(splits, features_of)
    return mean_auroc(splits.val_truth, val), mean_auroc(test_truth, test)


@dataclass(frozen=True)
class LinearHeads:
    """Linear classifiers for all learning rates on the same features."""

    weights: Float[Tensor, "r d l"]
    offsets: Float[Tensor, "r 1 l"]

    def __call__(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "r n l"]:
        """Return the probabilities of images by each classifier."""
        return (features @ self.weights + self.offsets).softmax(dim=2)


def _linear_heads(train: Float[Tensor, "n d"], truth: Int[Tensor, "n"], num_classes: int, *, seed: int) -> LinearHeads:
    generator = torch.Generator().manual_seed(seed)
    rates = torch.tensor(RATES)[:, None, None] * BATCH / 256
    start = INITIAL_DEVIATION * torch.randn(train.shape[1], num_classes, generator=generator)
    weights, offsets = start.repeat(len(RATES), 1, 1), torch.zeros(len(RATES), 1, num_classes)
    moments = torch.zeros_like(weights), torch.zeros_like(offsets)
    targets = torch.nn.functional.one_hot(truth, num_classes).float()
    for step in range(STEPS):
        chosen = torch.randint(len(train), (BATCH,), generator=generator)
        features = train[chosen]
        error = ((features @ weights + offsets).softmax(dim=2) - targets[chosen]) / BATCH  # gradient of cross-entropy
        gradients = features.T @ error, error.sum(dim=1, keepdim=True)
        scale = rates * (1 + np.cos(np.pi * step / STEPS)) / 2
        for value, moment, gradient in zip((weights, offsets), moments, gradients, strict=True):
            moment.mul_(MOMENTUM).add_(gradient)
            value.sub_(scale * moment)
    return LinearHeads(weights, offsets)


def _regression(strength: float, *, warm: bool) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, max_iter=MAX_ITERATIONS, tol=1e-5, warm_start=warm)


def _probabilities(model: Any, features: Float[Array, "n d"], num_classes: int) -> Float[Array, "n l"]:
    found = np.zeros((len(features), num_classes))
    found[:, model.classes_] = model.predict_proba(features)
    return found


def _shares(votes: Float[Tensor, "n l"], num_classes: int) -> Float[Array, "n l"]:
    padded = torch.nn.functional.pad(votes, (0, num_classes - votes.shape[1]))
    return np.asarray((padded / padded.sum(dim=1, keepdim=True)).numpy())


def _best(found: Mapping[str, tuple[Array, Array]], splits: ProbeSplits) -> Probed:
    scores = {name: mean_auroc(splits.val_truth, val) for name, (val, _) in found.items()}
    chosen = _first_best(scores)
    return Probed(found[chosen][1], chosen, scores)


def _first_best(scores: Mapping[_KeyT, float]) -> _KeyT:
    return max(scores, key=lambda name: -1.0 if np.isnan(scores[name]) else scores[name])
