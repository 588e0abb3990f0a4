"""Target that baselines predict, a label or label maps, and the images of each split that have it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray as Array

from medvit.artifacts import Checkpoint
from medvit.dataset.manifest import Manifest
from medvit.errors import ConfigError, DataError
from medvit.records import Kind, Row
from medvit.tasks import NOUNS, OF_CLASSES, TaskName, class_list, image_task
from medvit.tasks.regression import number
from medvit.transforms.preprocess import Preprocess

MAX_CLASSES = 50
"""Maximum number of classes: a label with more of them is a number, such as an age."""
REFUSED: dict[str, str] = {
    "multilabel": "give label=NAME, without checkpoint, for baselines of one of its labels",
    "multitask": "give label=NAME, without checkpoint, for baselines of one of its labels",
    "survival": "a baseline of survival would have to take censoring into account; the report of evaluate contains the "
    "Brier score of the Kaplan-Meier curve instead",
}
"""Tasks without baselines, and what to do instead."""


@dataclass(frozen=True)
class LabeledSplits:
    """Images with the target, by split: those of `train` train a baseline, and those of `val` choose its options.

    `label` is empty for a segmentation. `classes` are those of the label or of the label maps; of a regression, the
    label alone.
    """

    label: str
    classes: tuple[str, ...]
    train: Manifest
    val: Manifest
    test: Manifest
    preprocess: Preprocess | None = None
    """Preprocessing of a checkpoint; None: stored pixels are used."""
    task: TaskName = "classification"

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        label: str,
        *,
        kind: Kind | None = None,
        preprocess: Preprocess | None = None,
        task: TaskName = "classification",
    ) -> LabeledSplits:
        """Return the images of a dataset that have a label, or a label map; `kind` restricts them to one kind.

        Raises:
            DataError: If the dataset has no such label, its values do not fit the task, or a split has no such image.
        """
        if task == "segmentation":
            return cls._of_masks(manifest, kind, preprocess)
        classes = manifest.facts.classes.get(label, ())
        if not classes:
            raise DataError(
                f"{manifest.folder} has no label {label!r}; it has "
                f"{class_list(list(manifest.facts.classes), 'no labels')}: give label=NAME"
            )
        if task != "regression" and len(classes) > MAX_CLASSES:
            raise DataError(
                f"{manifest.folder}: the label {label} has {len(classes)} values; expected classes (at most "
                f"{MAX_CLASSES}), not a number: give task=regression if it is one"
            )
        parts = _by_split(manifest, lambda row: label in row.labels and kind in (None, row.kind), f"the label {label}")
        if len({row.labels[label] for row in parts[0]}) < 2:
            expected = "values" if task == "regression" else "classes"
            raise DataError(f"{manifest.folder}: all training images have the same {label}; expected two {expected}")
        if task == "ordinal":
            image_task(task).target(parts[0].rows, [label], manifest.facts)  # refuses classes that are not grades
        found = cls(label, (label,) if task == "regression" else classes, *parts, preprocess, task)
        if task == "regression":
            found.numbers([row for part in parts for row in part])
        return found

    @classmethod
    def _of_masks(cls, manifest: Manifest, kind: Kind | None, preprocess: Preprocess | None) -> LabeledSplits:
        classes = manifest.facts.mask_classes
        parts = _by_split(manifest, lambda row: row.mask is not None and kind in (None, row.kind), "a label map")
        partly = next((row for part in parts for row in part if row.annotated is not None), None)
        if partly is not None:
            raise DataError(
                f"{partly} has a label map in which only some classes are annotated; baselines need label maps with "
                "all classes"
            )
        return cls("", classes, *parts, preprocess, "segmentation")

    def truth(self, rows: Sequence[Row]) -> Int[Array, "n"]:
        """Return the index of the class of each image."""
        return np.array([self.classes.index(row.labels[self.label]) for row in rows], dtype=int)

    def numbers(self, rows: Sequence[Row]) -> Float[Array, "n"]:
        """Return the label of each image as a number.

        Raises:
            DataError: If the label of an image is not a number.
        """
        return np.array([number(row, self.label) for row in rows], dtype=np.float64)


def _by_split(manifest: Manifest, has_target: Callable[[Row], bool], what: str) -> tuple[Manifest, Manifest, Manifest]:
    """Return the training, validation and test images that have the target.

    Raises:
        DataError: If no training or test image has it.
    """
    having = manifest.filter(has_target)
    parts = {name: having.filter(lambda row, name=name: row.split == name) for name in ("train", "val", "test")}  # type: ignore[misc]
    empty = [name for name in ("train", "test") if not len(parts[name])]
    if empty:
        raise DataError(f"{manifest.folder}: the {empty[0]} split has no image with {what}")
    return parts["train"], parts["val"], parts["test"]


def task_of_checkpoint(checkpoint: Checkpoint) -> tuple[TaskName, str] | None:
    """Return the task of the model of a checkpoint and its label, empty for a segmentation; None for a backbone.

    Raises:
        ConfigError: If there are no baselines of the task.
    """
    if checkpoint.kind == "backbone":
        return None
    if checkpoint.kind == "slide":
        return "classification", str(checkpoint.model["label"])
    if checkpoint.kind == "segmentation":
        return "segmentation", ""
    task: TaskName | None = next((one for one in (*OF_CLASSES, "regression") if one == checkpoint.kind), None)
    if task is None:
        raise ConfigError(f"{checkpoint.folder} is {NOUNS[checkpoint.kind]}: {REFUSED[checkpoint.kind]}")
    return task, str(checkpoint.model["label"])


def only_label(manifest: Manifest) -> str:
    """Return the only label with classes of a dataset.

    Raises:
        ConfigError: If it is missing, or there are several.
    """
    names = [name for name, classes in manifest.facts.classes.items() if 1 < len(classes) <= MAX_CLASSES]
    if len(names) != 1:
        raise ConfigError(f"{manifest.folder} has {class_list(names, 'no labels with classes')}; give label=NAME")
    return names[0]
