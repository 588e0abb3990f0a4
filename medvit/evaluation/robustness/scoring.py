"""Metric and error of each task, computed from one row of numbers per image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.errors import ConfigError
from medvit.evaluation.tasks.segmentation import without_ignored
from medvit.inference.predictor import numbers_of
from medvit.metrics import Classified, metric_title
from medvit.metrics.auroc import area
from medvit.metrics.balanced_accuracy import balanced_accuracy
from medvit.metrics.dice import dice
from medvit.metrics.labels.auroc_macro import auroc_of_labels
from medvit.models.image import ModelConfig
from medvit.models.slide import SlideModelConfig
from medvit.records import Row
from medvit.tasks import NOUNS
from medvit.tasks.multilabel import known_labels
from medvit.tasks.regression import number
from medvit.types import Image, Prediction

ImageTable = Float[Array, "n m"]


@dataclass(frozen=True)
class Scoring:
    """Scoring of the predictions of a task.

    `compute` maps truth (N, T) and predictions (N, M) of N images to the metric and the error.
    """

    metric: str
    """Key of the metric."""
    error: str
    """Name of the error."""
    truth: Callable[[Row], Sequence[float]]
    found: Callable[[Row, Image, Prediction], Sequence[float]]
    compute: Callable[[ImageTable, ImageTable], tuple[float, float]]

    @property
    def title(self) -> str:
        """Name of the metric."""
        return metric_title(self.metric)


def scoring_of(model: ModelConfig | SlideModelConfig) -> Scoring:
    """Return the scoring of the task of a model.

    Raises:
        ConfigError: If the task is not supported.
    """
    kinds = {
        "classification": _of_classes,
        "ordinal": _of_classes,
        "multilabel": _of_labels,
        "regression": _of_values,
        "segmentation": _of_masks,
    }
    if not isinstance(model, ModelConfig) or model.kind not in kinds:
        found = NOUNS.get(model.kind, "a model of whole slides")
        raise ConfigError(
            f"the checkpoint is {found}; medvit robustness supports {', '.join(kinds)}, of images and volumes"
        )
    return kinds[model.kind](model)


def _of_classes(model: ModelConfig) -> Scoring:
    def compute(truth: ImageTable, found: ImageTable) -> tuple[float, float]:
        images = Classified(truth[:, 0].astype(int), found, model.classes, is_graded=model.kind == "ordinal")
        areas = [area(*counts) for counts in images.by_score]
        return float(np.mean(areas)), 1.0 - balanced_accuracy(images.truth, images.chosen)

    return Scoring(
        "auroc",
        "error (1 - balanced accuracy)",
        lambda row: [model.classes.index(row.labels[model.label])],
        _numbers,
        compute,
    )


def _of_labels(model: ModelConfig) -> Scoring:
    def compute(truth: ImageTable, found: ImageTable) -> tuple[float, float]:
        errors = []
        for true, probability in zip(truth.T, found.T, strict=True):
            known = ~np.isnan(true)
            errors.append(1.0 - balanced_accuracy(true[known].astype(int), (probability[known] > 0.5).astype(int)))
        return float(auroc_of_labels(truth, found).mean()), float(np.mean(errors))

    return Scoring(
        "auroc_macro",
        "error (1 - balanced accuracy, mean of labels)",
        lambda row: known_labels(row, model.target),
        _numbers,
        compute,
    )


def _of_values(model: ModelConfig) -> Scoring:
    def compute(truth: ImageTable, found: ImageTable) -> tuple[float, float]:
        error = float(np.abs(truth - found).mean())
        return error, error

    return Scoring("mae", "mean absolute error", lambda row: [number(row, model.label)], _numbers, compute)


def _of_masks(model: ModelConfig) -> Scoring:
    regions = model.region_map
    members = [(label,) for label in range(1, len(model.classes))] if regions is None else list(regions.members)

    def found(row: Row, image: Image, prediction: Prediction) -> list[float]:
        assert image.mask is not None, "images without a label map are excluded"
        assert prediction.mask is not None, "a segmentation model predicts label maps"
        given = without_ignored(image.mask, prediction.mask, len(model.classes))
        scores = []
        for labels in members:
            is_known = row.annotated is None or all(model.classes[label] in row.annotated for label in labels)
            pair = np.isin(image.mask, labels), np.isin(given, labels)
            scores.append(dice(*pair) if is_known else float("nan"))
        return scores

    def compute(truth: ImageTable, scores: ImageTable) -> tuple[float, float]:
        known = ~np.isnan(scores)
        counts = known.sum(axis=1)
        if not counts.any():
            return float("nan"), float("nan")
        means = np.where(known, scores, 0.0).sum(axis=1)[counts > 0] / counts[counts > 0]
        return float(means.mean()), 1.0 - float(means.mean())

    return Scoring("dice", "error (1 - Dice)", lambda row: [], found, compute)


def _numbers(row: Row, image: Image, prediction: Prediction) -> Sequence[float]:
    return numbers_of(prediction).tolist()
