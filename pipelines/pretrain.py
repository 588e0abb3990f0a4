"""Pretraining of a backbone on the training images of a dataset, monitored by the guard."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import ClassVar

from medvit.artifacts import CHECKPOINT_FILES, Checkpoint
from medvit.cards.model import write_model_card
from medvit.cards.training_record import TrainingData, TrainingRecord
from medvit.consumption import ConsumptionMeter
from medvit.dataset.manifest import Facts
from medvit.stage import Run, StageConfig, stage
from medvit.training.options import describe_patients, trained_on
from medvit.training.pretrained import save_pretrained
from medvit.training.pretraining_assembly import AssembledPretraining, assemble_pretraining
from medvit.training.pretraining_options import PretrainingOptions
from medvit.training.resume import LEFTOVERS

log = logging.getLogger("medvit")


class PretrainConfig(PretrainingOptions, StageConfig):
    """Options of `medvit pretrain`."""

    IS_DISTRIBUTED: ClassVar[bool] = True
    RESOLVED: ClassVar[tuple[str, ...]] = (
        "backbone",
        "preprocess",
        "peft",
        "other_preprocess",
        "objective",
        "optim",
        "trainer",
    )


@stage
def pretrain(config: PretrainConfig, run: Run) -> Checkpoint:
    """Pretrain a backbone on your own images, from a checkpoint, public weights or random weights."""
    meter = ConsumptionMeter()
    parts = assemble(config, run)
    run.in_force(
        backbone=parts.start.config,
        preprocess=parts.start.preprocess,
        peft=config.peft or parts.way,
        other_preprocess=parts.other_preprocess,
        objective=parts.objective_in_force,
        optim=parts.optim,
        trainer=config.trainer.in_force,
    )
    weights = parts.describe_weights()
    log.info("Weights: %s", weights)
    config.schedule.report_exposure(parts.num_images)

    parts.trainer.fit(parts.module, parts.loader, ckpt_path=parts.resume_from)
    run.leave_to_leader()

    checkpoint = save_pretrained(parts, run.folder, run.learned)
    guard = parts.module.guard
    if rollback := guard.describe_rollback():
        log.warning("%s", rollback)
        run.failures.append(rollback)
    training = _training(config, parts) | {"weights": weights} | guard.describe()
    data = TrainingData.of(Facts.of_dataset(config.dataset), run.inputs["dataset"], parts.rows)
    start = run.inputs.get("checkpoint", "")
    record = TrainingRecord.of([data], config.checkpoint, start, meter, is_resumed=config.resume)
    write_model_card(checkpoint, figures=parts.module.figures(), training=training, record=record)
    run.leftovers.update(LEFTOVERS)
    run.keep(*CHECKPOINT_FILES)
    return replace(checkpoint, training=trained_on(parts.rows) | parts.module.outcome())


def assemble(config: PretrainConfig, run: Run) -> AssembledPretraining:
    """Return all components of a pretraining run; an interrupted run in the folder continues at the step it reached."""
    manifest = run.dataset(config.dataset)
    pretrained = None if config.checkpoint is None else run.checkpoint(config.checkpoint)
    teacher = config.self_distillation.teacher
    return assemble_pretraining(
        config,
        manifest,
        pretrained,
        None if teacher is None else run.checkpoint(teacher, "teacher"),
        seed=config.seed,
        folder=run.folder,
        tracker=run.tracker,
    )


def _training(config: PretrainConfig, parts: AssembledPretraining) -> dict[str, str]:
    images = f"{parts.num_images}, of the training split, without their labels"
    description = {"objective": parts.objective.name, "images": images, "patients": describe_patients(parts.rows)}
    settings = config.describe(parts.optim, config.schedule, num_images=parts.num_images)
    return {**description, **settings, "seed": str(config.seed)}
