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
from medvit.tasks import NOUNS, OF_CLASSES, Target, TaskName, class_list, image_task
from medvit.tasks.multilabel import known_labels
from medvit.tasks.regression import number
from medvit.transforms.preprocess import Preprocess

MAX_CLASSES = 50
"""Maximum number of classes: a label with more of them is a number, such as an age."""
REFUSED: dict[str, str] = {
    "multitask": "give label=NAME, without checkpoint, for baselines of one of its labels",
    "survival": "a baseline of survival would have to take censoring into account; the report of evaluate contains the "
    "Brier score of the Kaplan-Meier curve instead",
}
"""Tasks without baselines, and what to do instead."""


@dataclass(frozen=True)
class LabeledSplits:
    """Images with the target, by split: those of `train` train a baseline, and those of `val` choose its options.

    `label` is empty for a segmentation and for several labels. `classes` are those of the label or of the label maps;
    of a regression, the label alone; of a multi-label classification, the labels.
    """

    label: str
    classes: tuple[str, ...]
    train: Manifest
    val: Manifest
    test: Manifest
    preprocess: Preprocess | None = None
    """Preprocessing of a checkpoint; None: stored pixels are used."""
    task: TaskName = "classification"
    target: Target | None = None
    """Labels of a multi-label classification with their negative and positive classes; None for other tasks."""

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        label: str,
        *,
        labels: Sequence[str] = (),
        kind: Kind | None = None,
        preprocess: Preprocess | None = None,
        task: TaskName = "classification",
    ) -> LabeledSplits:
        """Return the images of a dataset that have a label, or a label map; `kind` restricts them to one kind.

        For a multi-label classification, these are the images that have any of the `labels`.

        Raises:
            DataError: If the dataset has no such label, its values do not fit the task, or a split has no such image.
        """
        if task == "segmentation":
            return cls._of_masks(manifest, kind, preprocess)
        if task == "multilabel":
            return cls._of_labels(manifest, labels, kind, preprocess)
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

    @classmethod
    def _of_labels(
        cls, manifest: Manifest, labels: Sequence[str], kind: Kind | None, preprocess: Preprocess | None
    ) -> LabeledSplits:
        named = f"any of the labels {', '.join(labels)}"
        parts = _by_split(
            manifest, lambda row: any(one in row.labels for one in labels) and kind in (None, row.kind), named
        )
        target = image_task("multilabel").target(parts[0].rows, labels, manifest.facts)
        return cls("", tuple(labels), *parts, preprocess, "multilabel", target)

    def truth_of_labels(self, rows: Sequence[Row]) -> Float[Array, "n l"]:
        """Return 1 for each positive label of an image, 0 for each negative one, NaN for a missing one.

        Raises:
            DataError: If an image has another class of a label.
        """
        assert self.target is not None, "only a multi-label classification has several labels"
        return np.array([known_labels(row, self.target) for row in rows]).reshape(len(rows), len(self.classes))

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


@dataclass(frozen=True)
class PredictedTarget:
    """Task of baselines, and what they predict: a label, several `labels`, or label maps (both are empty)."""

    task: TaskName
    label: str = ""
    labels: tuple[str, ...] = ()


def target_of_checkpoint(checkpoint: Checkpoint) -> PredictedTarget | None:
    """Return the task of the model of a checkpoint and its label or labels; None for a backbone.

    Raises:
        ConfigError: If there are no baselines of the task.
    """
    if checkpoint.kind == "backbone":
        return None
    if checkpoint.kind == "slide":
        return PredictedTarget("classification", str(checkpoint.model["label"]))
    if checkpoint.kind == "segmentation":
        return PredictedTarget("segmentation")
    if checkpoint.kind == "multilabel":
        return PredictedTarget("multilabel", labels=tuple(map(str, checkpoint.model["classes"])))
    task: TaskName | None = next((one for one in (*OF_CLASSES, "regression") if one == checkpoint.kind), None)
    if task is None:
        raise ConfigError(f"{checkpoint.folder} is {NOUNS[checkpoint.kind]}: {REFUSED[checkpoint.kind]}")
    return PredictedTarget(task, str(checkpoint.model["label"]))


def several_labels(task: str | None, label: str | None, labels: Sequence[str] | None) -> PredictedTarget:
    """Return the target of several labels from the options `task`, `label` and `labels`.

    Raises:
        ConfigError: If the options contradict each other, or `labels` is unset.
    """
    if task not in (None, "multilabel"):
        raise ConfigError(f"labels is not used by task={task}; give label=NAME, or remove task")
    if label is not None:
        raise ConfigError("label and labels are both set; remove one of them")
    if labels is None:
        raise ConfigError("task=multilabel needs several labels; give labels=[NAME,NAME]")
    return PredictedTarget("multilabel", labels=tuple(labels))


def only_label(manifest: Manifest) -> str:
    """Return the only label with classes of a dataset.

    Raises:
        ConfigError: If it is missing, or there are several.
    """
    names = [name for name, classes in manifest.facts.classes.items() if 1 < len(classes) <= MAX_CLASSES]
    if len(names) != 1:
        raise ConfigError(f"{manifest.folder} has {class_list(names, 'no labels with classes')}; give label=NAME")
    return names[0]
