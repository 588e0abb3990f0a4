"""Pretraining of initial weights on all training images without labels, in one resumable run per seed."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from medvit.artifacts import MODEL, Checkpoint
from medvit.config import Tree
from medvit.curves.draws import without_copies
from medvit.dataset.manifest import Manifest
from medvit.errors import ConfigError
from medvit.records import Split
from medvit.stage import seed_everything
from medvit.tracking import Tracker
from medvit.training.pretrained import save_pretrained
from medvit.training.pretraining_assembly import assemble_pretraining
from medvit.training.pretraining_options import PretrainingOptions
from medvit.training.resume import LEFTOVERS

log = logging.getLogger("medvit")

OF_LABELS = ("urfound",)
"""Objectives that train on labels."""


@dataclass(frozen=True)
class PretrainArm:
    """Function object that pretrains with a given seed and writes the checkpoint into a folder for this seed.

    It is picklable, so that several processes can share the runs.
    """

    dataset: Path
    folder: Path
    options: Tree
    split: Split
    seen: frozenset[str]
    """Digests of the patients that the initial weights were trained on."""
    num_threads: int
    """Number of torch threads in each process."""

    def path(self, seed: int) -> Path:
        """Return the folder of the checkpoint of a seed."""
        return self.folder / f"seed-{seed}"

    def __call__(self, seed: int) -> Path:
        """Pretrain unless the checkpoint exists; return the folder of the checkpoint."""
        folder = self.path(seed)
        if (folder / MODEL).is_file() and not any((folder / name).exists() for name in LEFTOVERS):
            return folder
        folder.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(self.num_threads)
        config = PretrainingOptions.parse({**self.options, "dataset": self.dataset, "output": folder})
        manifest = unlabeled(without_test_images(Manifest.read(self.dataset), self.split))
        pretrained = None if config.checkpoint is None else Checkpoint.load(config.checkpoint)
        seed_everything(seed)
        parts = assemble_pretraining(config, manifest, pretrained, None, seed=seed, folder=folder, tracker=Tracker())
        if parts.objective.name in OF_LABELS:
            raise ConfigError(
                f"objective={parts.objective.name} trains on labels, which a curve hides from pretraining; choose "
                "another objective, such as mae"
            )
        parts.trainer.fit(parts.module, *parts.loaders, ckpt_path=parts.resume_from)
        save_pretrained(parts, folder, self.seen)
        for name in LEFTOVERS:
            (folder / name).unlink(missing_ok=True)
        return folder


def without_test_images(manifest: Manifest, split: Split) -> Manifest:
    """Return the training images, except those with the same pixels as a test image; `split` is the test split."""
    train = manifest.split("train")
    kept = without_copies(train, manifest.split(split))
    excluded = len(train) - len(kept)
    if excluded:
        log.warning("%d training images have the pixels of a test image and are excluded", excluded)
    return kept


def unlabeled(manifest: Manifest) -> Manifest:
    """Return the images without their labels and label maps, which neither objective nor guard may use."""
    return replace(manifest, rows=tuple(replace(row, labels={}, mask=None) for row in manifest))
