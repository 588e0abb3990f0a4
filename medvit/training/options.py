"""Options common to pretraining and fine-tuning: initial weights, images, optimizer, duration and hardware."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from medvit.artifacts import Checkpoint
from medvit.backbones import BackboneChoice
from medvit.config import Config
from medvit.dataset.manifest import Manifest
from medvit.patients import PatientCount
from medvit.records import Flag, Row
from medvit.summary import counted
from medvit.training.initialization import InitialModel, start_from
from medvit.training.loading.epochs import LoaderOptions
from medvit.training.loading.schedule import Schedule
from medvit.training.optim import OptimConfig, OptimOptions
from medvit.training.task import choose_preprocess, require_known_channels
from medvit.training.trainer import TrainerOptions
from medvit.transforms.preprocess import Preprocess

log = logging.getLogger("medvit")


def describe_patients(rows: Sequence[Row]) -> str:
    """Return the number of training patients for the model card, or a note on it if some patients are only assumed."""
    count = PatientCount.of(rows)
    return count.note or str(count.total)


def log_assumed_patients(manifest: Manifest) -> None:
    """Log how many patients of a dataset are only assumed, if any are."""
    if note := PatientCount.of(manifest).note:
        log.info("%s: %s", manifest.folder, note)


def trained_on(train: Sequence[Row], val: Sequence[Row] = ()) -> dict[str, str]:
    """Return the numbers of training and validation images and patients of a model.

    The numbers are texts for a summary.
    """
    parts = {"trained on": train, "chosen on": val}
    return {
        name: f"{counted(len(rows), rows[0].kind)}, {PatientCount.of(rows)}" for name, rows in parts.items() if rows
    }


class TrainingOptions(Config):
    """Options of every training."""

    dataset: Path
    """Dataset folder made by ingest."""
    output: Path
    """New folder for the checkpoint."""
    checkpoint: Path | None = None
    """Folder of the pretrained checkpoint to start from. Unset: the weights given by backbone.weights, or random
    initialization.
    """
    backbone: BackboneChoice = Field(default={"name": "vit"}, validate_default=True)
    """Network to build if no checkpoint is given. With a checkpoint, its backbone is used, and of the
    backbone options only drop_path and save_memory apply.
    """
    skip_flags: tuple[Flag, ...] = ()
    """Exclude images that ingest marked with any of these flags, such as skip_flags=[blank,constant]. The data card
    explains the flags.
    """
    preprocess: Preprocess | None = None
    """Preprocessing, stored in the checkpoint. Unset: the preprocessing of `checkpoint`, or one chosen from the images.
    If only some of its options are set, the others are taken from there, too. If `kind` is set, however, the others
    have their defaults.
    """
    optim: OptimOptions = Field(default_factory=OptimOptions)
    loader: LoaderOptions = Field(default_factory=LoaderOptions)
    trainer: TrainerOptions = Field(default_factory=TrainerOptions)

    def start(
        self, manifest: Manifest, pretrained: Checkpoint | None, crop: tuple[int, ...] | None = None
    ) -> InitialModel:
        """Return the initial backbone and preprocessing, as `start_from` does."""
        log_assumed_patients(manifest)
        preprocess = self.preprocess_for(manifest, pretrained)
        start = start_from(pretrained, self.backbone, preprocess, manifest, crop)
        require_known_channels(manifest, start.preprocess)
        return start

    def preprocess_for(self, manifest: Manifest, pretrained: Checkpoint | None) -> Preprocess:
        """Return the preprocessing of a training on the images of `manifest`, from the checkpoint `pretrained` if any.

        Unset options are taken from the checkpoint or, without one, chosen for the data.
        """
        return self.preprocess_over(
            choose_preprocess(manifest)
            if pretrained is None
            else Preprocess.parse_saved(pretrained.preprocess, source=str(pretrained.folder))
        )

    def preprocess_over(self, followed: Preprocess) -> Preprocess:
        """Return the preprocessing, with unset options taken from `followed` unless the kind is given."""
        given = self.preprocess
        if given is None:
            return followed
        if "kind" in given.model_fields_set:
            return given
        tree = given.tree()
        return Preprocess.parse({**followed.tree(), **{key: tree[key] for key in given.model_fields_set}})

    def describe(self, optim: OptimConfig, schedule: Schedule, *, num_images: int) -> dict[str, str]:
        """Return the training settings for the model card."""
        run = schedule.run_length(num_images)
        public = getattr(self.backbone, "weights", None) or "scratch"
        return {
            "start": "a pretrained checkpoint" if self.checkpoint else public,
            "steps": f"{run.num_steps} of {run.step_images} images: {run.described(run.num_steps)}",
            "learning rate": f"{optim.for_batch(schedule.step_images).lr:g}",
        }
