"""Baselines of a label: each trains a simple model, and predicts the validation and test images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.baselines.attributes import AttributeFeatures
from medvit.baselines.fit import chosen_regression, chosen_ridge, majority, scale_of_all, scale_of_each
from medvit.baselines.pixels import normalized, reduced_input, reduced_pixels, unscaled
from medvit.baselines.shape import are_shapes, shape_features
from medvit.baselines.subject import LabeledSplits
from medvit.dataset.manifest import Manifest
from medvit.errors import DataError
from medvit.metrics.confusion import median_grade
from medvit.records import Row
from medvit.tasks import NOUNS, TaskName

BaselineName = Literal[
    "majority",
    "mean",
    "median",
    "attributes",
    "pixels",
    "shape",
    "background",
    "mean_mask",
    "threshold",
    "voxels",
    "resnet",
    "dynunet",
]
NetworkName = Literal["resnet", "dynunet"]
TITLES: dict[BaselineName, str] = {
    "majority": "Most frequent class",
    "mean": "Mean",
    "median": "Median",
    "attributes": "Age, sex and scanner",
    "pixels": "Raw pixels",
    "shape": "Shape measures",
    "background": "Background everywhere",
    "mean_mask": "Mean label map",
    "threshold": "Intensity threshold",
    "voxels": "Regression on voxels",
    "resnet": "ResNet from scratch",
    "dynunet": "DynUNet from scratch",
}
OF_CLASSES: tuple[BaselineName, ...] = ("majority", "attributes", "pixels", "shape", "resnet")
OF_TASK: dict[TaskName, tuple[BaselineName, ...]] = {
    "classification": OF_CLASSES,
    "ordinal": OF_CLASSES,
    "multilabel": OF_CLASSES,
    "regression": ("mean", "median", "attributes", "pixels", "shape", "resnet"),
    "segmentation": ("background", "mean_mask", "threshold", "voxels", "dynunet"),
}
"""Baselines of each task."""
NETWORKS: tuple[NetworkName, ...] = ("resnet", "dynunet")
"""Baselines that are networks, whose training takes longer than that of all others."""


@dataclass(frozen=True)
class TrainedBaseline:
    """Baseline with its predictions of validation and test images, in the order of `rows`.

    `columns` are those of a `predictions.parquet` except the ones that name image and patient.
    """

    name: BaselineName
    title: str
    note: str
    """Sentence about its features and the chosen options."""
    rows: tuple[Row, ...]
    columns: Mapping[str, Float[Array, "n"]]


def train_baseline(name: BaselineName, splits: LabeledSplits, attributes: Sequence[str]) -> TrainedBaseline:
    """Train a baseline of a label and return its predictions. `attributes` are used by the baseline of this name.

    Raises:
        DataError: If the dataset does not have what the baseline needs, such as attributes or pixels.
    """
    rows = (*splits.val, *splits.test)
    if name == "majority" and splits.task == "multilabel":
        known = splits.truth_of_labels(splits.train.rows)
        note = f"Frequency of each label among {len(known)} training images, for every image."
        frequencies = np.tile(np.nanmean(known, axis=0), (len(rows), 1))
        return TrainedBaseline(name, TITLES[name], note, rows, label_columns(splits, rows, frequencies))
    if name == "majority":
        truth = splits.truth(splits.train.rows)
        note = f"Class frequencies of {len(truth)} training images, for every image."
        shares = majority(truth, len(splits.classes), len(rows))
        return TrainedBaseline(name, TITLES[name], note, rows, class_columns(splits, shares))
    if name in ("mean", "median"):
        numbers = splits.numbers(splits.train.rows)
        value = float(np.mean(numbers) if name == "mean" else np.median(numbers))
        note = f"{TITLES[name]} of {len(numbers)} training images, {value:.4g}, for every image."
        return TrainedBaseline(name, TITLES[name], note, rows, value_columns(splits, np.full(len(rows), value)))
    features = _features(name, splits, attributes)
    regress = {"regression": _ridge, "multilabel": _regressions}.get(splits.task, _regression)
    columns, model = regress(splits, features)
    return TrainedBaseline(name, TITLES[name], f"{model} on {features.what}.", rows, columns)


def require_known(name: BaselineName, task: TaskName) -> None:
    """Check that a baseline exists for a task.

    Raises:
        DataError: If it does not.
    """
    if name not in OF_TASK[task]:
        raise DataError(f"not a baseline of {NOUNS[task]}, which has {', '.join(OF_TASK[task])}")


def class_columns(splits: LabeledSplits, probabilities: Float[Array, "n l"]) -> dict[str, Float[Array, "n"]]:
    """Return truth and probabilities of the validation and test images; for grades, also the median grade."""
    truth = splits.truth((*splits.val, *splits.test))
    graded = {"predicted": median_grade(probabilities)} if splits.task == "ordinal" else {}
    named = {f"p.{name}": probabilities[:, index] for index, name in enumerate(splits.classes)}
    return {"truth": truth, **graded, **named}


def label_columns(
    splits: LabeledSplits, rows: Sequence[Row], probabilities: Float[Array, "n l"]
) -> dict[str, Float[Array, "n"]]:
    """Return truth (NaN if missing) and probability of each label of images."""
    truth = splits.truth_of_labels(rows)
    named = {f"truth.{name}": truth[:, index] for index, name in enumerate(splits.classes)}
    return named | {f"p.{name}": probabilities[:, index] for index, name in enumerate(splits.classes)}


def value_columns(splits: LabeledSplits, predicted: Float[Array, "n"]) -> dict[str, Float[Array, "n"]]:
    """Return true and predicted numbers of the validation and test images."""
    return {"truth": splits.numbers((*splits.val, *splits.test)), "predicted": predicted}


@dataclass(frozen=True)
class _Features:
    """Features of the images of a split, their scale, and their description."""

    of: Callable[[Manifest], Float[Array, "n f"]]
    scale: Callable[[Float[Array, "n f"]], Float[Array, "f"]]
    what: str


def _features(name: BaselineName, splits: LabeledSplits, attributes: Sequence[str]) -> _Features:
    if name == "attributes":
        encoding = AttributeFeatures.of(splits.train.rows, attributes)
        what = f"{', '.join(encoding.names)}, without the image"
        return _Features(lambda part: encoding(part.rows), scale_of_each, what)
    if name == "pixels":
        _require_pixels(splits.train)
        source = "stored" if splits.preprocess is None else "preprocessed"
        each = "" if splits.task == "regression" else ", each centered and divided by its norm"
        return _Features(
            lambda part: _pixels(splits, part), scale_of_all, f"the {source} pixels of reduced images{each}"
        )
    if not are_shapes(splits.train):
        raise DataError("the images are not shapes: they have more than two different pixel values")
    return _Features(shape_features, scale_of_each, "size, surface, extents and principal axes of the shape")


def _regression(splits: LabeledSplits, features: _Features) -> tuple[dict[str, Float[Array, "n"]], str]:
    """Return the predictions of validation and test images by a logistic regression, and its description."""
    train, val, test = _of_splits(splits, features)
    truths = splits.truth(splits.train.rows), splits.truth(splits.val.rows)
    model = chosen_regression(train, truths[0], val, truths[1], len(splits.classes), features.scale(train))
    note = f"Logistic regression (C = {model.strength:g}, chosen on {len(val)} validation images)"
    return class_columns(splits, model(np.concatenate([val, test]))), note


def _regressions(splits: LabeledSplits, features: _Features) -> tuple[dict[str, Float[Array, "n"]], str]:
    """Return the predictions by one logistic regression per label, each on the images that have the label."""
    train, val, test = _of_splits(splits, features)
    known, known_val = (splits.truth_of_labels(part.rows) for part in (splits.train, splits.val))
    both, scale = np.concatenate([val, test]), features.scale(train)
    found, strengths = [], []
    for truth, truth_val in zip(known.T, known_val.T, strict=True):
        own, own_val = ~np.isnan(truth), ~np.isnan(truth_val)
        model = chosen_regression(
            train[own], truth[own].astype(int), val[own_val], truth_val[own_val].astype(int), 2, scale
        )
        found.append(model(both)[:, 1])
        strengths.append(f"{model.strength:g}")
    note = f"Logistic regression for each label (C = {', '.join(strengths)}, chosen on {len(val)} validation images)"
    return label_columns(splits, (*splits.val, *splits.test), np.stack(found, axis=1)), note


def _ridge(splits: LabeledSplits, features: _Features) -> tuple[dict[str, Float[Array, "n"]], str]:
    """Return the predictions of validation and test images by a ridge regression, and its description."""
    train, val, test = _of_splits(splits, features)
    truths = splits.numbers(splits.train.rows), splits.numbers(splits.val.rows)
    model = chosen_ridge(train, truths[0], val, truths[1], features.scale(train))
    by = f"on {len(val)} validation images" if len(val) else "by leave-one-out cross-validation"
    note = f"Ridge regression (penalty {model.penalty:g}, chosen {by})"
    return value_columns(splits, model(np.concatenate([val, test]))), note


def _of_splits(
    splits: LabeledSplits, features: _Features
) -> tuple[Float[Array, "n f"], Float[Array, "m f"], Float[Array, "k f"]]:
    train, test = features.of(splits.train), features.of(splits.test)
    return train, features.of(splits.val) if len(splits.val) else train[:0], test


def _pixels(splits: LabeledSplits, part: Manifest) -> Float[Array, "n f"]:
    """Return the pixels of reduced images; brightness counts for a number, as it may be the number itself."""
    scaling = unscaled if splits.task == "regression" else normalized
    if splits.preprocess is not None:
        return reduced_input(part, splits.preprocess, scaling)
    return reduced_pixels(part, sorted({name for row in splits.train for name in row.channels}), scaling)


def _require_pixels(manifest: Manifest) -> None:
    kinds = sorted({row.kind for row in manifest})
    channels = {len(row.channels) or row.shape[0] for row in manifest}
    if kinds not in (["image"], ["volume"]):
        raise DataError(f"the images are {' and '.join(f'{kind}s' for kind in kinds)}; expected images or volumes")
    if len(channels) > 1 and not any(row.channels for row in manifest):
        raise DataError("the images have different numbers of channels; give checkpoint=... for its preprocessing")
