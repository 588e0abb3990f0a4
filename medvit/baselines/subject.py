"""Label that baselines predict, and the images of each split that have it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from numpy import ndarray as Array

from medvit.artifacts import Checkpoint
from medvit.dataset.manifest import Manifest
from medvit.errors import ConfigError, DataError
from medvit.records import Kind, Row
from medvit.tasks import OF_CLASSES, class_list
from medvit.transforms.preprocess import Preprocess

MAX_CLASSES = 50
"""Maximum number of classes: a label with more of them is a number, such as an age."""


@dataclass(frozen=True)
class LabeledSplits:
    """Images with a label, by split: those of `train` train a classifier, and those of `val` choose its options."""

    label: str
    classes: tuple[str, ...]
    train: Manifest
    val: Manifest
    test: Manifest
    preprocess: Preprocess | None = None
    """Preprocessing of a checkpoint; None: stored pixels are used."""

    @classmethod
    def of(
        cls, manifest: Manifest, label: str, *, kind: Kind | None = None, preprocess: Preprocess | None = None
    ) -> LabeledSplits:
        """Return the images of a dataset that have a label; `kind` restricts them to one kind.

        Raises:
            DataError: If the dataset has no such label, the label is a number, or a split has no such image.
        """
        classes = manifest.facts.classes.get(label, ())
        if not classes:
            raise DataError(
                f"{manifest.folder} has no label {label!r}; it has "
                f"{class_list(list(manifest.facts.classes), 'no labels')}: give label=NAME"
            )
        if len(classes) > MAX_CLASSES:
            raise DataError(
                f"{manifest.folder}: the label {label} has {len(classes)} values; expected classes (at most "
                f"{MAX_CLASSES}), not a number"
            )
        labeled = manifest.filter(lambda row: label in row.labels and kind in (None, row.kind))
        parts = {name: labeled.filter(lambda row, name=name: row.split == name) for name in ("train", "val", "test")}  # type: ignore[misc]
        empty = [name for name in ("train", "test") if not len(parts[name])]
        if empty:
            raise DataError(f"{manifest.folder}: the {empty[0]} split has no image with the label {label}")
        if len({row.labels[label] for row in parts["train"]}) < 2:
            raise DataError(f"{manifest.folder}: all training images have the same {label}; expected two classes")
        return cls(label, classes, parts["train"], parts["val"], parts["test"], preprocess)

    def truth(self, rows: Sequence[Row]) -> Int[Array, "n"]:
        """Return the index of the class of each image."""
        return np.array([self.classes.index(row.labels[self.label]) for row in rows], dtype=int)


def label_of_checkpoint(checkpoint: Checkpoint) -> str:
    """Return the label that the model of a checkpoint predicts; empty for a backbone.

    Raises:
        ConfigError: If it does not predict one class for each image.
    """
    if checkpoint.kind == "backbone":
        return ""
    if checkpoint.kind not in (*OF_CLASSES, "slide"):
        raise ConfigError(
            f"{checkpoint.folder} is a {checkpoint.kind} model; baselines and probes exist for one label with classes "
            "(classification or ordinal)"
        )
    return str(checkpoint.model["label"])


def only_label(manifest: Manifest) -> str:
    """Return the only label with classes of a dataset.

    Raises:
        ConfigError: If it is missing, or there are several.
    """
    names = [name for name, classes in manifest.facts.classes.items() if 1 < len(classes) <= MAX_CLASSES]
    if len(names) != 1:
        raise ConfigError(f"{manifest.folder} has {class_list(names, 'no labels with classes')}; give label=NAME")
    return names[0]
