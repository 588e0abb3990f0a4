"""Baselines of a label: each trains a simple classifier, and predicts the validation and test images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.baselines.attributes import AttributeFeatures
from medvit.baselines.fit import chosen_regression, majority, scale_of_all, scale_of_each
from medvit.baselines.pixels import reduced_input, reduced_pixels
from medvit.baselines.shape import are_shapes, shape_features
from medvit.baselines.subject import LabeledSplits
from medvit.dataset.manifest import Manifest
from medvit.errors import DataError
from medvit.records import Row

BaselineName = Literal["majority", "attributes", "pixels", "shape"]
NAMES: tuple[BaselineName, ...] = ("majority", "attributes", "pixels", "shape")
TITLES: dict[BaselineName, str] = {
    "majority": "Most frequent class",
    "attributes": "Age, sex and scanner",
    "pixels": "Raw pixels",
    "shape": "Shape measures",
}


@dataclass(frozen=True)
class TrainedBaseline:
    """Baseline with its predictions (N, L) of validation and test images, in the order of `rows`."""

    name: BaselineName
    note: str
    """Sentence about its features and the chosen penalty."""
    rows: tuple[Row, ...]
    probabilities: Float[Array, "n l"]


def train_baseline(name: BaselineName, splits: LabeledSplits, attributes: Sequence[str]) -> TrainedBaseline:
    """Train a baseline and return its predictions. `attributes` are used by the baseline of this name.

    Raises:
        DataError: If the dataset does not have what the baseline needs, such as attributes or pixels.
    """
    rows = (*splits.val, *splits.test)
    if name == "majority":
        truth = splits.truth(splits.train.rows)
        shares = majority(truth, len(splits.classes), len(rows))
        note = f"Class frequencies of {len(truth)} training images, for every image."
        return TrainedBaseline(name, note, rows, shares)
    if name == "attributes":
        encoding = AttributeFeatures.of(splits.train.rows, attributes)
        found = _regression(splits, lambda part: encoding(part.rows), scale_of_each)
        what = f"Logistic regression on {', '.join(encoding.names)}, without the image"
    elif name == "pixels":
        _require_pixels(splits.train)
        found = _regression(splits, lambda part: _pixels(splits, part), scale_of_all)
        source = "stored" if splits.preprocess is None else "preprocessed"
        what = f"Logistic regression on the {source} pixels of reduced images, each centered and divided by its norm"
    else:
        if not are_shapes(splits.train):
            raise DataError("the images are not shapes: they have more than two different pixel values")
        found = _regression(splits, shape_features, scale_of_each)
        what = "Logistic regression on size, surface, extents and principal axes of the shape"
    probabilities, strength = found
    note = f"{what}; C = {strength:g}, chosen on {len(splits.val)} validation images."
    return TrainedBaseline(name, note, rows, probabilities)


def _regression(
    splits: LabeledSplits,
    features_of: Callable[[Manifest], Float[Array, "n f"]],
    scale_of: Callable[[Float[Array, "n f"]], Float[Array, "f"]],
) -> tuple[Float[Array, "n l"], float]:
    """Return the predictions of validation and test images, and the chosen inverse strength of the penalty."""
    train, test = features_of(splits.train), features_of(splits.test)
    val = features_of(splits.val) if len(splits.val) else train[:0]
    model = chosen_regression(
        train,
        splits.truth(splits.train.rows),
        val,
        splits.truth(splits.val.rows),
        len(splits.classes),
        scale_of(train),
    )
    return model(np.concatenate([val, test])), model.strength


def _pixels(splits: LabeledSplits, part: Manifest) -> Float[Array, "n f"]:
    if splits.preprocess is not None:
        return reduced_input(part, splits.preprocess)
    return reduced_pixels(part, sorted({name for row in splits.train for name in row.channels}))


def _require_pixels(manifest: Manifest) -> None:
    kinds = sorted({row.kind for row in manifest})
    channels = {len(row.channels) or row.shape[0] for row in manifest}
    if kinds not in (["image"], ["volume"]):
        raise DataError(f"the images are {' and '.join(f'{kind}s' for kind in kinds)}; expected images or volumes")
    if len(channels) > 1 and not any(row.channels for row in manifest):
        raise DataError("the images have different numbers of channels; give checkpoint=... for its preprocessing")
