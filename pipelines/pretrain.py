"""Continued pretraining of a backbone on the unlabeled training images of a dataset."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from medvit.artifacts import CHECKPOINT_FILES, Checkpoint
from medvit.backbones import BackboneChoice
from medvit.dataset import Samples
from medvit.model_card import write_model_card
from medvit.objectives import ObjectiveChoice
from medvit.stage import Run, StageConfig, stage
from medvit.training.loader import LoaderConfig, rounds
from medvit.training.monitors import MonitorConfig, build_probe
from medvit.training.optim import OptimConfig
from medvit.training.pretraining import Pretraining
from medvit.training.start import start_from
from medvit.training.studies import ViewsOfStudy
from medvit.training.tasks import LARGEST_VIEW, crop_size, require_fitting
from medvit.training.trainer import TrainerConfig, finished_rounds, last_checkpoint, remove_leftovers
from medvit.transforms.preprocess import Preprocess
from medvit.transforms.views import MakeViews, collate_views


class PretrainConfig(StageConfig):
    """Options of `medvit pretrain`."""

    IS_DISTRIBUTED: ClassVar[bool] = True

    dataset: Path
    """Dataset folder made by ingest; its training split is used, labels are not."""
    output: Path
    """Checkpoint folder to make."""
    preprocess: Preprocess | None = None
    """The preprocessing, kept in the checkpoint; none fits it to the images."""
    backbone: BackboneChoice = Field(default={"name": "vit"}, validate_default=True)
    """The vision transformer; backbone.weights names the public weights to start from."""
    objective: ObjectiveChoice = Field(default={"name": "mae"}, validate_default=True)
    """What it is trained for."""
    optim: OptimConfig = Field(default_factory=OptimConfig)
    loader: LoaderConfig = Field(default_factory=LoaderConfig)
    trainer: TrainerConfig = Field(default_factory=TrainerConfig)
    monitors: MonitorConfig = Field(default_factory=MonitorConfig)


@stage
def pretrain(config: PretrainConfig, run: Run) -> Checkpoint:
    """Continues the pretraining of a backbone on your own images."""
    manifest = run.dataset(config.dataset)
    start = start_from(None, config.backbone, config.preprocess, manifest)
    train = manifest.filter(lambda row: row.kind == start.preprocess.kind).split("train")
    objective = config.objective.build(start.backbone)
    asked = objective.views
    require_fitting(
        start.backbone.ndim,
        sizes=asked.sizes,
        axes={"objective.views.flipped_axes": asked.flipped_axes},
    )
    views = asked.fitted(
        crop_size(train, start.preprocess, start.backbone.patch_size, LARGEST_VIEW), start.backbone.patch_size
    )
    resume_from = last_checkpoint(run.folder)
    samples = Samples(train, start.preprocess)
    loader = rounds(
        config.loader,
        samples,
        ViewsOfStudy(MakeViews(views, start.preprocess.intensity), samples),
        collate_views,
        num_batches=config.trainer.round_batches,
        seed=config.seed,
        first_round=finished_rounds(resume_from),
    )
    probe = build_probe(config.monitors, manifest, start, views, seed=config.seed)
    optim = config.optim.for_batch(config.trainer.step_images(config.loader.batch_size))
    module = Pretraining(
        objective, optim, num_steps=config.trainer.steps, seed=config.seed, probe=probe, tracker=run.tracker
    )
    trainer = config.trainer.build(run.folder, run.tracker, config.optim.clip)

    trainer.fit(module, loader, ckpt_path=resume_from)
    run.leave_to_leader()

    model = {"kind": "backbone", "backbone": start.config.tree()}
    checkpoint = Checkpoint(run.folder, model, start.preprocess.tree(), objective.backbone.state_dict()).save()
    write_model_card(checkpoint, figures=module.figures(), training=_training(config, optim, len(train)))
    remove_leftovers(run.folder)
    run.keep(*CHECKPOINT_FILES)
    return checkpoint


def _training(config: PretrainConfig, optim: OptimConfig, num_images: int) -> dict[str, str]:
    return {
        "objective": config.objective.name,
        "images": f"{num_images}, of the training split, without their labels",
        "steps": f"{config.trainer.steps} of {config.loader.batch_size} images",
        "learning rate": f"{optim.lr:g}",
        "seed": str(config.seed),
    }
