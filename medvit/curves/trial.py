"""One run of a learning curve: fine-tune on the labels of a draw, then evaluate on other images."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from medvit.artifacts import Checkpoint
from medvit.config import Tree
from medvit.curves import scores as files
from medvit.curves.baseline import regression_on_pixels
from medvit.curves.pool import Pool, PoolOptions
from medvit.curves.runs import WHOLE_NETWORK, CurveRun
from medvit.curves.scores import CaseScores, ClassScores, ImageScores, patient_indices
from medvit.dataset.manifest import Facts, Manifest
from medvit.dataset.samples import load
from medvit.errors import NonFiniteError, TrainingError
from medvit.evaluation.tasks.segmentation import without_ignored
from medvit.inference.predictor import Predictor
from medvit.logs import quiet_libraries
from medvit.metrics.dice import dice
from medvit.models.image import ModelConfig
from medvit.stage import seed_everything
from medvit.tracking import Tracker
from medvit.training.assembly import assemble_finetuning
from medvit.training.finetuning_options import FinetuningOptions
from medvit.types import Image, Prediction

log = logging.getLogger("medvit")


@dataclass(frozen=True)
class Trial:
    """Function object that executes a run and writes its scores into `folder`.

    It is picklable, so that several processes can share the runs. `finetuning` are the fine-tuning options common to
    all runs. `starts` maps each arm (choice of initial weights) to options that set its initial weights: one set of
    options per pretraining run.
    """

    dataset: Path
    folder: Path
    pool: PoolOptions
    finetuning: Tree
    starts: Mapping[str, tuple[Tree, ...]]
    tuning_images: int
    num_threads: int
    """Number of torch threads in each process."""

    def path(self, run: CurveRun) -> Path:
        """Return the file with the scores of a run."""
        return self.folder / f"{run.name}.npz"

    def __call__(self, run: CurveRun) -> float:
        """Execute a run unless its scores exist already; return the metric of the run.

        Raises:
            TrainingError: If the training diverged.
        """
        if not self.path(run).is_file():
            torch.set_num_threads(self.num_threads)
            scores = self._scores(run)
            files.require_finite(scores, run.name)
            files.save(self.path(run), scores)
        return files.value(files.load(self.path(run)))

    def _scores(self, run: CurveRun) -> ImageScores:
        pool = _pool(self.dataset, self.pool)
        labeled = pool.labeled(run.amount, run.draw)
        scored = pool.test if run.purpose == "test" else pool.held_out(labeled, limit=self.tuning_images, seed=run.draw)
        if not run.is_trained:
            return regression_on_pixels(labeled, scored, pool.label, strength=run.settings.strength)
        predictor = self._train(run, labeled)
        return score_images(predictor, predictor.config, scored)

    def _train(self, run: CurveRun, labeled: Manifest) -> Predictor:
        starts = self.starts[run.arm]
        tree = {**self.finetuning, **starts[run.draw % len(starts)]}
        folder = self.folder / f".{run.name}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        config = FinetuningOptions.parse(
            {
                **tree,
                "dataset": self.dataset,
                "output": folder,
                "keep": "last",
                "peft": _peft(tree, run),
                "optim": {**(tree.get("optim") or {}), "lr": run.settings.lr},
                "loader": {**_EQUAL_BATCHES, **(tree.get("loader") or {})},
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
        except TrainingError as error:  # its message names a file of the folder, which is removed
            what = str(error).partition(" (")[0]
            raise TrainingError(f"the training diverged with {run.settings}: {what}") from None
        finally:
            shutil.rmtree(folder, ignore_errors=True)


_EQUAL_BATCHES = {"batch_size": 8}
"""Default batch of all arms and methods: the one proposed for a device would depend on the weights that are trained."""


def _peft(tree: Tree, run: CurveRun) -> Tree:
    """Return the options of the fine-tuning method of a run. For DynUNet, all weights are trained."""
    given = tree.get("peft") or {}
    named = dict(given) if isinstance(given, Mapping) else {"name": given}
    way = "full" if run.way == WHOLE_NETWORK else run.way
    return named if named.get("name") == way else {"name": way}


def score_images(predict: Callable[[Image], Prediction], config: ModelConfig, scored: Manifest) -> ImageScores:
    """Predict images and return their scores.

    For a classification, these are the class probabilities. For a segmentation, they are the Dice of each image,
    averaged over the foreground classes that its label map contains.

    Raises:
        TrainingError: If predicted probabilities are not finite, as after a training that diverged.
    """
    rows = scored.rows
    patient = patient_indices(rows)
    if config.kind == "classification":
        found = [_predicted(predict, load(scored, row)).probabilities for row in rows]
        truth = np.array([config.classes.index(row.labels[config.label]) for row in rows])
        return ClassScores(truth, np.stack([one for one in found if one is not None]).astype(np.float64), patient)
    return CaseScores(np.array([_mean_dice(predict, load(scored, row), len(config.classes)) for row in rows]), patient)


def _mean_dice(predict: Callable[[Image], Prediction], image: Image, num_classes: int) -> float:
    """Return the mean Dice over the foreground classes in the truth; NaN if there are none.

    The truth alone decides which classes count, so that the scores of all runs are over the same classes and images.
    """
    found = _predicted(predict, image).mask
    assert image.mask is not None
    assert found is not None
    found = without_ignored(image.mask, found, num_classes)
    known = [label for label in range(1, num_classes) if (image.mask == label).any()]
    each = [dice(image.mask == label, found == label) for label in known]
    return float(np.mean(each)) if each else float("nan")


def _predicted(predict: Callable[[Image], Prediction], image: Image) -> Prediction:
    try:
        return predict(image)
    except NonFiniteError as error:
        raise TrainingError(str(error)) from None


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
def _pool(dataset: Path, options: PoolOptions) -> Pool:
    return Pool.read(dataset, options)
