"""One run of a learning curve: fine-tune on the labels of a draw, then evaluate on other images."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from medvit.artifacts import Checkpoint
from medvit.config import Tree
from medvit.curves import scores as files
from medvit.curves.baseline import regression_on_pixels
from medvit.curves.draws import nested_draws, patient_classes, without_copies
from medvit.curves.runs import EQUAL_STEPS, CurveRun
from medvit.curves.scores import CaseScores, ClassScores, ImageScores, patient_indices
from medvit.dataset.manifest import Facts, Manifest
from medvit.dataset.samples import load
from medvit.errors import DataError
from medvit.inference.predictor import Predictor
from medvit.logs import quiet_libraries
from medvit.metrics.dice import dice
from medvit.records import Row, Split
from medvit.stage import seed_everything
from medvit.tracking import Tracker
from medvit.training.assembly import assemble_finetuning
from medvit.training.finetuning_options import FinetuningOptions

log = logging.getLogger("medvit")


@dataclass(frozen=True)
class Pool:
    """Labeled training images and test images of a dataset; no patient is in both."""

    train: Manifest
    test: Manifest
    label: str
    """Name of the label; empty for label maps."""

    @classmethod
    def of(cls, manifest: Manifest, label: str, split: Split) -> Pool:
        """Return the images with the label, or with a label map if no image has the label.

        Training images with the same pixels as a test image are excluded.

        Raises:
            DataError: If the train split or the test split `split` has no such image, or if they share a patient.
        """
        has_label = any(label in row.labels for row in manifest)
        known = manifest.filter(lambda row: label in row.labels if has_label else bool(row.mask))
        test = known.split(split)
        train = without_copies(known.split("train"), manifest.split(split))
        shared = {row.patient_id for row in train} & {row.patient_id for row in test}
        if shared:
            raise DataError(f"{manifest.folder}: {len(shared)} patients are in the splits train and {split}")
        return cls(train, test, label if has_label else "")

    def labeled(self, amount: float, draw: int) -> Manifest:
        """Draw `amount` training patients (`draws.nested_draws`) with the seed `draw`; return their images."""
        patients = nested_draws(patient_classes(self.train.rows, self.label), (amount,), seed=draw)[amount]
        return self.train.filter(lambda row: row.patient_id in patients)

    def held_out(self, labeled: Manifest, *, limit: int, seed: int) -> Manifest:
        """Return at most `limit` random training images of patients that have no image in `labeled`."""
        patients = {row.patient_id for row in labeled}
        rest = self.train.filter(lambda row: row.patient_id not in patients)
        if not len(rest):
            raise DataError(f"{rest.folder}: every training patient is labeled; give smaller amounts in labeled")
        order = np.random.default_rng(seed).permutation(len(rest))[:limit]
        return replace(rest, rows=tuple(rest.rows[index] for index in sorted(order)))


@dataclass(frozen=True)
class Trial:
    """Function object that executes a run and writes its scores into `folder`.

    It is picklable, so that several processes can share the runs. `finetuning` are the fine-tuning options common to
    all runs. `starts` has the options that set the initial weights: for each arm, one set of options per pretraining
    run. `split` is the split with the test patients.
    """

    dataset: Path
    folder: Path
    finetuning: Tree
    starts: Mapping[str, tuple[Tree, ...]]
    split: Split
    tuning_images: int
    num_threads: int
    """Threads of torch in the process."""

    def path(self, run: CurveRun) -> Path:
        """Return the file with the scores of a run."""
        return self.folder / f"{run.name}.npz"

    def __call__(self, run: CurveRun) -> float:
        """Execute a run unless its scores exist already; return the metric of the run."""
        if not self.path(run).is_file():
            torch.set_num_threads(self.num_threads)
            files.save(self.path(run), self._scores(run))
        return files.value(files.load(self.path(run)))

    def _scores(self, run: CurveRun) -> ImageScores:
        pool = _pool(self.dataset, str(self.finetuning.get("label", "label")), self.split)
        labeled = pool.labeled(run.amount, run.draw)
        scored = pool.test if run.purpose == "test" else pool.held_out(labeled, limit=self.tuning_images, seed=run.draw)
        if not run.is_trained:
            return regression_on_pixels(labeled, scored, pool.label, strength=run.settings.strength)
        predictor = self._train(run, labeled)
        return score_images(predictor, scored)

    def _train(self, run: CurveRun, labeled: Manifest) -> Predictor:
        starts = self.starts["scratch" if run.arm == EQUAL_STEPS else run.arm]
        tree = {**self.finetuning, **starts[run.draw % len(starts)]}
        given = tree.get("peft") or {}
        named = given if isinstance(given, Mapping) else {"name": given}
        folder = self.folder / f".{run.name}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        config = FinetuningOptions.parse(
            {
                **tree,
                "dataset": self.dataset,
                "output": folder,
                "keep": "last",
                "peft": named if named.get("name") == run.way else {"name": run.way},
                "optim": {**(tree.get("optim") or {}), "lr": run.settings.lr},
                "trainer": {**(tree.get("trainer") or {}), "epochs": 1, "steps_per_epoch": run.settings.steps},
            }
        )
        try:
            seed_everything(run.draw)
            pretrained = None if config.checkpoint is None else Checkpoint.load(config.checkpoint)
            with _quiet():
                parts = assemble_finetuning(
                    config, labeled, pretrained, _no_positive, seed=run.draw, folder=folder, tracker=Tracker()
                )
                parts.trainer.fit(parts.module, *parts.loaders)
            model = parts.model
            made = Checkpoint(folder, model.config.tree(), parts.start.preprocess.tree(), model.merged_state())
            return Predictor(made, "auto")
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def score_images(predictor: Predictor, scored: Manifest) -> ImageScores:
    """Predict images and return their scores.

    For a classification, these are the class probabilities. For a segmentation, they are the Dice of each image,
    averaged over the foreground classes.
    """
    rows, config = scored.rows, predictor.config
    patient = patient_indices(rows)
    if config.kind == "classification":
        found = [predictor(load(scored, row)).probabilities for row in rows]
        truth = np.array([config.classes.index(row.labels[config.label]) for row in rows])
        return ClassScores(truth, np.stack([one for one in found if one is not None]).astype(np.float64), patient)
    return CaseScores(np.array([_mean_dice(predictor, scored, row) for row in rows]), patient)


def _mean_dice(predictor: Predictor, scored: Manifest, row: Row) -> float:
    image = load(scored, row)
    mask = predictor(image).mask
    assert image.mask is not None
    assert mask is not None
    each = [dice(image.mask == label, mask == label) for label in range(1, len(predictor.config.classes))]
    return float(np.nanmean(each)) if not np.isnan(each).all() else float("nan")


def _no_positive(facts: Facts, classes: Sequence[str]) -> str:
    """Return an empty name for the positive class, because the scores of a curve do not depend on that class."""
    return ""


@contextmanager
def _quiet() -> Iterator[None]:
    """Return a context in which only errors are logged, because a curve consists of hundreds of training runs."""
    before = log.level
    log.setLevel(logging.ERROR)
    quiet_libraries("lightning.pytorch", "lightning.fabric")
    try:
        yield
    finally:
        log.setLevel(before)


@lru_cache(maxsize=1)
def _pool(dataset: Path, label: str, split: Split) -> Pool:
    return Pool.of(Manifest.read(dataset), label, split)
