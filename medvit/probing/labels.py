"""Probes of several labels: one classifier for each label, on the images that have it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.probing.classifiers import Probed, ProbeSplits, ridge_scores
from medvit.probing.layer_features import LayerFeatures


@dataclass(frozen=True)
class LabelSplits:
    """Features of the images of each split, and the labels of each image: 1, 0, or NaN for a missing label."""

    train: LayerFeatures
    val: LayerFeatures
    test: LayerFeatures
    train_truth: Float[Array, "n l"]
    val_truth: Float[Array, "m l"]

    def of_each(self) -> list[ProbeSplits]:
        """Return for each label the images of train and val that have it, and all images of test."""
        return [self._of(label) for label in range(self.train_truth.shape[1])]

    def _of(self, label: int) -> ProbeSplits:
        truths = self.train_truth[:, label], self.val_truth[:, label]
        known = [np.flatnonzero(~np.isnan(truth)) for truth in truths]
        train, val = (truth[places].astype(int) for truth, places in zip(truths, known, strict=True))
        return ProbeSplits(self.train.at(known[0].tolist()), self.val.at(known[1].tolist()), self.test, train, val, 2)


def probe_labels(splits: LabelSplits, probe: Callable[[ProbeSplits], Probed]) -> Probed:
    """Return the probabilities (N, L) of the positive classes of all labels, by a classifier for each label.

    The setting is chosen for each label; the AUROC on val is the mean over the labels.
    """
    found = [probe(one) for one in splits.of_each()]
    chosen = "; ".join(one.chosen for one in found)
    val = float(np.mean([one.tried[one.chosen] for one in found]))
    return Probed(np.stack([one.probabilities[:, 1] for one in found], axis=1), chosen, {chosen: val})


def label_layer_scores(
    splits: LabelSplits,
    test_truth: Float[Array, "k l"],
    features_of: Callable[[LayerFeatures], Float[Array, "n d"]],
) -> tuple[float, float]:
    """Return the AUROC of a ridge probe on val and test, as the mean over the labels."""
    scores = [_scores(one, truth, features_of) for one, truth in zip(splits.of_each(), test_truth.T, strict=True)]
    val, test = np.mean(scores, axis=0)
    return float(val), float(test)


def _scores(
    splits: ProbeSplits, truth: Float[Array, "k"], features_of: Callable[[LayerFeatures], Float[Array, "n d"]]
) -> tuple[float, float]:
    known = np.flatnonzero(~np.isnan(truth))
    having = replace(splits, test=splits.test.at(known.tolist()))
    return ridge_scores(having, truth[known].astype(int), features_of)
