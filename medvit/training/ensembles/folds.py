"""Folds of patients, and the models of an ensemble: one per fold and seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from medvit.dataset.manifest import Manifest
from medvit.errors import DataError
from medvit.records import Row
from medvit.seeds import mixed_seed
from medvit.tracking import Tracker

FIGURES = "figures.json"
"""File with the metrics of a model of an ensemble, written when its training is complete."""


@dataclass(frozen=True)
class EnsembleMember:
    """Model number `number` (from 0) of an ensemble that divides the patients into `folds` folds.

    With `folds` 0, every model uses the train and val splits of the dataset.
    """

    number: int
    folds: int
    seed: int
    """Seed of the whole run, from which the folds and the seed of each model (`own_seed`) are derived."""

    @property
    def own_seed(self) -> int:
        """Seed of this model, for its initial weights, augmentation and order of images."""
        return self.seed if self.number == 0 else mixed_seed(self.seed, 5, self.number) % 2**31

    def tracked(self, tracker: Tracker, number: int, seed: int, kind: str = "model") -> Tracker:
        """Return the tracker of this model, one of `number`: that of a child run named after its fold or its number."""
        repetition, fold = divmod(self.number, self.folds) if self.folds else (0, 0)
        again = f" of repetition {repetition + 1}" if number > self.folds else ""
        name = f"fold {fold + 1} of {self.folds}{again}" if self.folds else f"{kind} {self.number + 1} of {number}"
        child = tracker.child(f"{kind}-{self.number}", name)
        child.params({"seed": seed, **({"fold": fold + 1, "folds": self.folds} if self.folds else {})})
        return child

    def divide(self, rows: Sequence[Row], classes: Sequence[int] | None = None) -> tuple[list[int], list[int]]:
        """Return the indices of the rows to train on and of the held-out rows; no patient is in both.

        Without folds, these are the train and val splits. Otherwise, patients are distributed over the folds at random,
        and one fold is for validation. After every `folds` models, patients are distributed again. If the class indices
        of the rows are given in `classes` (-1: no target), each fold gets about the same share of each class, and of
        patients without a target.
        """
        if not self.folds:
            held_out = [row.split == "val" for row in rows]
        else:
            patients = sorted({row.patient_id for row in rows})
            order = np.random.default_rng(mixed_seed(self.seed, 4, self.number // self.folds)).permutation(
                len(patients)
            )
            highest = dict.fromkeys(patients, -1)
            for row, index in zip(rows, classes or [0] * len(rows), strict=True):
                highest[row.patient_id] = max(highest[row.patient_id], index)
            dealt = sorted((patients[place] for place in order), key=highest.__getitem__)
            chosen = set(dealt[self.number % self.folds :: self.folds])
            held_out = [row.patient_id in chosen for row in rows]
        return [n for n, out in enumerate(held_out) if not out], [n for n, out in enumerate(held_out) if out]

    def split(self, manifest: Manifest, *labels: str) -> Manifest:
        """Return the manifest with the held-out patients of train and val in the val split, and all others in train.

        Other splits, such as test, remain as they are.

        Each fold gets about the same share of each class of the label. With several labels, this applies to the classes
        of the first label; within each of these classes, it applies to the classes of the second label, and so on.

        Raises:
            DataError: If there are fewer patients than folds.
        """
        if not self.folds:
            return manifest
        rows = [row for row in manifest if row.split in ("train", "val")]
        num_patients = len({row.patient_id for row in rows})
        if num_patients < self.folds:
            raise DataError(
                f"{manifest.folder}: train and val have {num_patients} patients, too few for folds={self.folds}"
            )
        _, held_out = self.divide(rows, _strata(rows, labels, manifest.facts.classes))
        out = {rows[index].image_id for index in held_out}
        learned = {row.image_id for row in rows} - out
        new: dict[str, Literal["train", "val"]] = {**dict.fromkeys(learned, "train"), **dict.fromkeys(out, "val")}
        return replace(manifest, rows=tuple(replace(row, split=new.get(row.image_id, row.split)) for row in manifest))


def _strata(rows: Sequence[Row], labels: Sequence[str], classes: Mapping[str, Sequence[str]]) -> list[int]:
    """Return a number for each row that stands for the classes of its labels; -1 for a row without a target.

    Numbers are in lexicographic order of the classes. If the rows have none of the labels, their target is the mask.
    """
    if not any(label in row.labels for row in rows for label in labels):
        return [0 if row.mask else -1 for row in rows]
    found = [0] * len(rows)
    for label in labels:
        known = {name: index for index, name in enumerate(classes.get(label, ()), start=1)}
        found = [
            before * (len(known) + 1) + known.get(row.labels.get(label, ""), 0)
            for before, row in zip(found, rows, strict=True)
        ]
    return [number - 1 for number in found]


def members_of(folds: int, number: int, seed: int) -> list[EnsembleMember]:
    """Return the `number` models of an ensemble; each model has another fold for validation."""
    return [EnsembleMember(index, folds, seed) for index in range(number)]
