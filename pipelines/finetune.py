"""Supervised fine-tuning for classification, regression, survival or segmentation, in 2D or 3D, with PEFT."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

from torch import Tensor

from medvit.artifacts import CHECKPOINT_FILES, Checkpoint
from medvit.cards.model import write_model_card
from medvit.cards.training_record import TrainingData, TrainingRecord
from medvit.consumption import ConsumptionMeter
from medvit.dataset.manifest import Facts, Manifest
from medvit.errors import ConfigError
from medvit.evaluation.positive import choose_positive
from medvit.inference.out_of_fold import write_out_of_fold
from medvit.inference.review.validation import write_gate
from medvit.leakage.seen_patients import write_training_patients
from medvit.models.base import Base, recorded_base, recorded_itself, require_adapter, why_no_base
from medvit.models.slide import ensemble_state
from medvit.models.tile_embedder import embed_manifest
from medvit.peft.continue_adapter import ContinueConfig
from medvit.peft.frozen import FrozenConfig
from medvit.records import Row
from medvit.stage import Run, StageConfig, stage
from medvit.training.assembly import AssembledFinetuning, assemble_finetuning
from medvit.training.ensembles.images import EnsembleTraining
from medvit.training.finetuning import choose_largest_components, mean_of_best
from medvit.training.finetuning_options import FinetuningOptions
from medvit.training.options import describe_patients, trained_on
from medvit.training.resume import LEFTOVERS
from medvit.training.slide_assembly import AssembledSlides, assemble_slides
from medvit.training.slide_heads import holds_slides, require_task_of_slides

log = logging.getLogger("medvit")


class FinetuneConfig(FinetuningOptions, StageConfig):
    """Options of `medvit finetune`."""

    store: Literal["all", "adapter"] = "all"
    """Weights to store. all: all weights of the model, and a separate file with the weights that training changed.
    adapter: only the weights that training changed, so that many models of one backbone take little space. All other
    weights are then read from the folder of the pretrained checkpoint, or from a copy of this folder beside the new
    checkpoint.
    """

    IS_DISTRIBUTED: ClassVar[bool] = True
    RESOLVED: ClassVar[tuple[str, ...]] = (
        "backbone",
        "preprocess",
        "peft",
        "head",
        "crop",
        "applies_to",
        "positive",
        "foreground",
        "foreground_by",
        "optim",
        "loader",
        "trainer",
    )


@stage
def finetune(config: FinetuneConfig, run: Run) -> Checkpoint:
    """Fine-tune a backbone for a task on your labels."""
    if holds_slides(Manifest.read(config.dataset), config.label):
        require_task_of_slides(config.task)
        _require_all(config, "a model of whole slides")
        return finetune_slides(config, run)
    if config.num_members(seeds=1) > 1:
        _require_all(config, "an ensemble")
        return finetune_ensemble(config, run)
    meter = ConsumptionMeter()
    parts = assemble(config, run)
    way, is_continued = parts.model.config.peft, isinstance(config.peft, ContinueConfig)
    if config.store == "adapter":
        require_adapter(way, parts.backbone, is_pretrained=config.checkpoint is not None, is_continued=is_continued)
    has_base = not why_no_base(way, parts.backbone, is_continued=is_continued)
    _record(config, run, parts)
    parts.schedule.report_exposure(parts.num_images)
    parts.trainer.fit(parts.module, *parts.loaders, ckpt_path=parts.resume_from)
    run.leave_to_leader()

    parts.module.restore_best()
    run.tracker.metrics(parts.module.best_epoch())
    best = parts.model
    if config.largest_components and parts.validation is not None:
        best.keep_components(choose_largest_components(best, parts.validation))
    adapter = best.stored_adapter()
    preprocess = parts.start.preprocess.tree()
    state = best.merged_state()
    base = _base(config, run.folder, state) if has_base else None
    model = best.config.model_copy(update={"base": base}).tree()
    stored = {} if config.store == "adapter" else state
    checkpoint = Checkpoint(run.folder, model, preprocess, stored, adapter).save()
    write_training_patients(run.folder, [*parts.task.train, *parts.task.val], run.learned)
    write_gate(checkpoint, parts.task.val)
    record = _record_of(config, run, [*parts.task.train, *parts.task.val], meter)
    write_model_card(checkpoint, figures=parts.module.figures(), training=_training(config, parts), record=record)
    run.leftovers.update(LEFTOVERS)
    run.keep(*CHECKPOINT_FILES)
    return replace(checkpoint, training=trained_on([*parts.task.train], [*parts.task.val]) | parts.module.outcome())


def finetune_ensemble(config: FinetuneConfig, run: Run) -> Checkpoint:
    """Train a model for each fold and seed, one after the other; the predictions of these models are averaged.

    With folds, also predict every patient by the models that were not trained on that patient.
    """
    meter = ConsumptionMeter()
    training = ensemble_training(config, run)
    first = training.first
    _record(config, run, first)
    first.schedule.report_exposure(first.num_images)
    checkpoint = training.train().save()

    if config.folds:
        write_out_of_fold(
            checkpoint, training.manifest, training.members, config.fold_labels, run.failures, run.learned
        )
    figures = training.figures()
    run.tracker.metrics(training.best_epochs())
    write_training_patients(run.folder, training.rows, run.learned)
    record = _record_of(config, run, training.rows, meter)
    write_model_card(checkpoint, figures=figures, training=training.describe(), record=record)
    run.leftovers.update(training.leftovers)
    run.keep(*CHECKPOINT_FILES)
    return replace(checkpoint, training=training.outcome(figures))


def finetune_slides(config: FinetuneConfig, run: Run) -> Checkpoint:
    """Embed all tiles once by the frozen backbone, then train heads on slide labels; the model averages the heads."""
    meter = ConsumptionMeter()
    parts = assemble_on_slides(config, run)
    run.in_force(
        backbone=parts.start.config,
        preprocess=parts.start.preprocess,
        peft=FrozenConfig(),
        head=parts.head,
        crop=None,
        applies_to=None,
        positive=parts.positive,
        foreground=None,
        foreground_by=None,
        optim=config.optim.over({}),
        loader=config.loader.over({}),
        trainer=config.trainer.over({}).in_force,
    )
    slides = embed_manifest(
        parts.slides, config.slides, embedder=parts.embedder, config=config.tiles, failures=run.failures
    )
    training = parts.training(config, slides, seed=config.seed)
    members, figures = training.train(run.folder, run.tracker)
    run.tracker.metrics(mean_of_best("val_auroc", figures))

    state = ensemble_state(parts.start.backbone, members)
    heads = {name: weight for name, weight in state.items() if name.startswith("members.")}
    preprocess = parts.start.preprocess.tree()
    checkpoint = Checkpoint(run.folder, training.model.tree(), preprocess, state, heads).save()
    write_training_patients(run.folder, training.rows, run.learned)
    record = _record_of(config, run, training.rows, meter)
    write_model_card(checkpoint, figures=figures, training=training.describe(), record=record)
    run.leftovers.update(training.leftovers)
    run.keep(*CHECKPOINT_FILES)
    return replace(checkpoint, training=training.outcome(figures))


def assemble(config: FinetuneConfig, run: Run) -> AssembledFinetuning:
    """Return all components of a fine-tuning run; an interrupted run in the folder continues at the step it reached."""
    positive = partial(positive_of, config)
    inputs = _inputs(config, run)
    return assemble_finetuning(config, *inputs, positive, seed=config.seed, folder=run.folder, tracker=run.tracker)


def ensemble_training(config: FinetuneConfig, run: Run) -> EnsembleTraining:
    """Return the training of an ensemble; finished models of an interrupted run in the folder are kept."""
    dataset, pretrained = _inputs(config, run)
    positive = partial(positive_of, config)
    return EnsembleTraining(config, dataset, pretrained, positive, config.seed, run.folder, run.tracker)


def assemble_on_slides(config: FinetuneConfig, run: Run) -> AssembledSlides:
    """Return all components of fine-tuning on slides, without embedding the tiles yet, which takes long."""
    return assemble_slides(config, *_inputs(config, run), partial(positive_of, config), failures=run.failures)


def _inputs(config: FinetuneConfig, run: Run) -> tuple[Manifest, Checkpoint | None]:
    dataset = run.dataset(config.dataset)
    return dataset, None if config.checkpoint is None else run.checkpoint(config.checkpoint)


def positive_of(config: FinetuneConfig, facts: Facts, classes: Sequence[str]) -> str:
    """Return the positive class of two classes: the requested one, else the one stored in the dataset.

    If neither is set, a note is logged and the result is empty.

    Raises:
        ConfigError: If the requested class is not one of two classes.
    """
    dataset = facts.positive.get(config.label, "")
    positive, notes = choose_positive(classes, asked=config.positive, worst="", model="", dataset=dataset)
    for note in notes:
        log.info("%s", note)  # evaluate warns, with the metrics
    return "" if notes else positive


def _record(config: FinetuneConfig, run: Run, parts: AssembledFinetuning) -> None:
    """Record the options in force for training on pixels, including those inferred from the images."""
    made = parts.model.config
    run.notes += [f"proposed: {each}" for each in parts.proposals.made]
    run.in_force(
        backbone=parts.start.config,
        preprocess=parts.start.preprocess,
        peft=config.peft or made.peft,
        head=made.head,
        crop=made.roi,
        applies_to=made.applies_to,
        positive=made.positive,
        foreground=parts.foreground.share,
        foreground_by=parts.foreground.by,
        optim=parts.optim,
        loader=parts.schedule.loader,
        trainer=parts.schedule.trainer.in_force,
    )
    if run.leads:
        parts.proposals.write(run.folder)


def _record_of(config: FinetuneConfig, run: Run, rows: Sequence[Row], meter: ConsumptionMeter) -> TrainingRecord:
    """Return the facts about the training that the model card states."""
    labels = (config.label, *config.labels, *config.tasks)
    data = TrainingData.of(Facts.of_dataset(config.dataset), run.inputs["dataset"], rows, labels)
    return TrainingRecord.of(
        [data], config.checkpoint, run.inputs.get("checkpoint", ""), meter, is_resumed=config.resume
    )


def _base(config: FinetuneConfig, folder: Path, state: Mapping[str, Tensor]) -> Base | None:
    """Return the record of the backbone that training did not change; None if no folder contains it."""
    if config.checkpoint is not None:
        return recorded_base(config.checkpoint, folder)
    return recorded_itself(state) if isinstance(config.peft, FrozenConfig) else None


def _require_all(config: FinetuneConfig, what: str) -> None:
    if config.store == "adapter":
        raise ConfigError(f"store=adapter is not possible for {what}; give store=all")


def _training(config: FinetuneConfig, parts: AssembledFinetuning) -> dict[str, str]:
    task = parts.task
    images = f"{len(task.train)} for training, {len(task.val)} for validation"
    patients = describe_patients([*task.train, *task.val])
    return {
        "images": images,
        "patients": patients,
        **config.describe(parts.optim, parts.schedule, num_images=parts.num_images),
        "seed": str(config.seed),
        **parts.proposals.describe(),
    }
