"""Labeled training images of a dataset, from which labels are drawn, and its test images."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from medvit.curves.amounts import ALL, LabelAmount, num_labeled, patients_by_amount
from medvit.curves.draws import classes_by_rarity, ordered_patients, patient_classes, without_copies
from medvit.dataset.manifest import Manifest
from medvit.errors import ConfigError, DataError
from medvit.records import Flag, Split
from medvit.training.slide_heads import holds_slides


@dataclass(frozen=True)
class PoolOptions:
    """Selection of the images of a curve: those of one kind, with the label, and without the flags `skip_flags`.

    `split` is the split with the test patients.
    """

    label: str
    split: Split
    kind: Literal["image", "volume"]
    skip_flags: tuple[Flag, ...] = ()


@dataclass(frozen=True)
class Pool:
    """Labeled training images and test images of a dataset; no patient is in both."""

    train: Manifest
    test: Manifest
    label: str
    """Name of the label; empty for label maps."""

    @classmethod
    def read(cls, dataset: Path, options: PoolOptions) -> Pool:
        """Return the pool of a dataset folder."""
        return cls.of(Manifest.read(dataset), options)

    @classmethod
    def of(cls, manifest: Manifest, options: PoolOptions) -> Pool:
        """Return the images with the label, or with a label map if no image has the label.

        Training images with the same pixels as a test image are excluded.

        Raises:
            ConfigError: If the labels are those of whole slides.
            DataError: If the train split or the test split has no such image, or if they share a patient.
        """
        if holds_slides(manifest, options.label):
            raise ConfigError(f"{manifest.folder} has labels of whole slides; a curve needs labeled images or volumes")
        usable = manifest.without_flags(options.skip_flags).filter(lambda row: row.kind == options.kind)
        has_label = any(options.label in row.labels for row in usable)
        known = usable.filter(lambda row: options.label in row.labels if has_label else bool(row.mask))
        test = known.split(options.split)
        train = without_copies(known.split("train"), manifest.split(options.split))
        shared = {row.patient_id for row in train} & {row.patient_id for row in test}
        if shared:
            raise DataError(f"{manifest.folder}: {len(shared)} patients are in the splits train and {options.split}")
        return cls(train, test, options.label if has_label else "")

    @cached_property
    def classes(self) -> dict[str, frozenset[str]]:
        """Classes of the images of each training patient."""
        return patient_classes(self.train.rows, self.label)

    @cached_property
    def rarity(self) -> list[str]:
        """Classes of the training images, the rarest first."""
        return classes_by_rarity(self.train.rows, self.label)

    def patients_by_amount(self, amounts: tuple[LabelAmount, ...]) -> dict[LabelAmount, int]:
        """Return the number of patients of each amount of labels, in ascending order.

        Raises:
            ConfigError: If an amount does not fit the number of training patients.
        """
        return patients_by_amount(amounts, len(self.classes), len(self.rarity))

    def require_scorable(self, amounts: Iterable[LabelAmount], draws: Iterable[int], *, limit: int) -> None:
        """Check that the test images, and the images on which settings are chosen, are of more than one class.

        `draws` are the numbers of the draws of labels that are used to choose settings, and `limit` is the maximum
        number of images to score.

        Raises:
            DataError: If a score would be undefined.
        """
        if not self.label:
            return
        self._require_classes(self.test, "the test images")
        for amount, draw in itertools.product((each for each in amounts if each != ALL), draws):
            held_out = self.held_out(self.labeled(amount, draw), limit=limit, seed=draw)
            self._require_classes(held_out, f"the images to choose settings by, with labeled={amount},")

    def _require_classes(self, images: Manifest, what: str) -> None:
        classes = {row.labels[self.label] for row in images}
        if len(classes) < 2:
            raise DataError(
                f"{images.folder}: {what} are all of the class {', '.join(classes)}, so that scores on them are "
                "undefined; ingest more images, raise tuning_images, or give smaller amounts in labeled"
            )

    def labeled(self, amount: LabelAmount, draw: int) -> Manifest:
        """Draw `amount` training patients (`draws.ordered_patients`) with the seed `draw`; return their images."""
        number = num_labeled(amount, len(self.classes), len(self.rarity))
        patients = set(ordered_patients(self.classes, self.rarity, seed=draw)[:number])
        return self.train.filter(lambda row: row.patient_id in patients)

    def held_out(self, labeled: Manifest, *, limit: int, seed: int) -> Manifest:
        """Return at most `limit` random training images of patients that have no image in `labeled`."""
        patients = {row.patient_id for row in labeled}
        rest = self.train.filter(lambda row: row.patient_id not in patients)
        order = np.random.default_rng(seed).permutation(len(rest))[:limit]
        return replace(rest, rows=tuple(rest.rows[index] for index in sorted(order)))
