"""Continued pretraining of a backbone on the unlabeled training images of a dataset, under a guard."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from pydantic import Field
from torch.utils.data import DataLoader

from medvit.artifacts import CHECKPOINT_FILES, PATIENTS, Checkpoint
from medvit.backbones import Backbone
from medvit.cards.model import write_model_card
from medvit.config import Tree
from medvit.dataset.slices import SlicesConfig
from medvit.files.atomic import write_weights
from medvit.leakage.seen_patients import write_training_patients
from medvit.objectives import Objective, ObjectiveChoice, ObjectiveConfig
from medvit.peft import OptionalPeftChoice, Peft, PeftConfig
from medvit.peft.explora import ExploraConfig
from medvit.peft.full import FullConfig
from medvit.records import Row
from medvit.stage import Run, StageConfig, stage
from medvit.training.guard import Guard, GuardConfig
from medvit.training.guard.build_probe import build_probe
from medvit.training.guard.probes import ProbeConfig
from medvit.training.initialization import InitialModel
from medvit.training.loading.views import ViewStream, feed
from medvit.training.options import TrainingOptions, told_patients, trained_on
from medvit.training.pretraining import Pretraining
from medvit.training.resume import LEFTOVERS, last_checkpoint, position_of
from medvit.training.self_distillation import SelfDistillation, SelfDistillationConfig
from medvit.training.trainer import Trainer
from medvit.transforms.preprocess import Preprocess
from medvit.wsi.locations import MixedSlidesConfig

log = logging.getLogger("medvit")

TWIN = "twin"
"""Folder within a checkpoint, of the backbone of the other rank."""


class PretrainConfig(TrainingOptions, StageConfig):
    """Options of `medvit pretrain`."""

    IS_DISTRIBUTED: ClassVar[bool] = True
    RESOLVED: ClassVar[tuple[str, ...]] = (
        "backbone",
        "preprocess",
        "peft",
        "other_preprocess",
        "objective",
        "trainer",
    )

    RENAMED: ClassVar[Mapping[str, str]] = {"further": "self_distillation"}

    dataset: Path
    """Dataset folder made by ingest; its training split is used. Labels and masks serve the guard's readings alone,
    but for objective=urfound, which learns from labels."""
    slices: SlicesConfig | None = None
    """Cuts volumes into slices, which are images of the training. Unset: volumes as they are."""
    slides: MixedSlidesConfig = Field(default_factory=MixedSlidesConfig)
    other_preprocess: Preprocess | None = None
    """Of an objective that learns from images and volumes: the preprocessing of the other kind; none fits it."""
    peft: OptionalPeftChoice = None
    """How the weights of the backbone may change. Unset: explora with initial weights, full from scratch."""
    objective: ObjectiveChoice = Field(default={"name": "mae"}, validate_default=True)
    """What it is trained for."""
    self_distillation: SelfDistillationConfig = Field(default_factory=SelfDistillationConfig)
    monitors: ProbeConfig = Field(default_factory=ProbeConfig)
    guard: GuardConfig = Field(default_factory=GuardConfig)


@dataclass(frozen=True)
class AssembledPretraining:
    """A pretraining, ready to start or to go on."""

    start: InitialModel
    objective: ObjectiveConfig
    """What it is trained for, with the heads that a checkpoint brings."""
    peft: Peft
    way: PeftConfig
    trained: frozenset[str]
    """Names of the weights of the adapted backbone that training changes."""
    module: Pretraining
    loader: DataLoader[object]
    trainer: Trainer
    resume_from: Path | None
    streams: tuple[ViewStream, ...]
    """What it is fed."""

    @property
    def num_images(self) -> int:
        """Training images of all kinds."""
        return sum(len(stream.samples) for stream in self.streams)

    @property
    def objective_in_force(self) -> Tree:
        """The options of the objective, with the sizes of crops that follow the images."""
        tree = self.objective.tree()
        for key, stream in zip(("views", "other_views"), self.streams, strict=False):
            if key in tree:
                tree[key] |= {name: value for name, value in stream.sizes.items() if name in tree[key]}
        return tree

    @property
    def rows(self) -> list[Row]:
        """The training images of all kinds."""
        return [row for stream in self.streams for row in stream.samples.manifest]


@stage
def pretrain(config: PretrainConfig, run: Run) -> Checkpoint:
    """Continue the pretraining of a backbone on your own images."""
    parts = assemble(config, run)
    other = None if len(parts.streams) < 2 else parts.streams[1].preprocess
    run.in_force(
        backbone=parts.start.config,
        preprocess=parts.start.preprocess,
        peft=config.peft or parts.way,
        other_preprocess=other,
        objective=parts.objective_in_force,
        trainer=config.trainer.in_force,
    )
    adapted = _weights_told(parts)

    parts.trainer.fit(parts.module, parts.loader, ckpt_path=parts.resume_from)
    run.leave_to_leader()

    peft, handed_on = parts.peft, parts.module.handed_on()
    if handed_on is not peft.backbone:  # a copy that the objective made, of the same structure
        peft.backbone.load_state_dict(handed_on.state_dict())
    adapter = None if isinstance(parts.way, FullConfig) else peft.state_of(parts.trained)
    merged = peft.merge()
    described = {"backbone": peft.described(parts.start.config).tree(), "peft": parts.way.tree()}
    model = {"kind": "backbone", **described}
    checkpoint = Checkpoint(run.folder, model, parts.start.preprocess.tree(), merged.state_dict(), adapter).save()
    for name, weights in parts.module.objective.kept().items():
        write_weights(checkpoint.folder / name, weights)
    write_training_patients(run.folder, parts.rows, run.learned)
    _save_twin(parts, checkpoint, merged)
    training = _training(config, parts) | {"weights": adapted} | _guard_told(parts.module.guard, run)
    write_model_card(checkpoint, figures=parts.module.figures(), training=training)
    run.leftovers.update(LEFTOVERS)
    run.keep(*CHECKPOINT_FILES)
    return replace(checkpoint, training=trained_on(parts.rows) | parts.module.outcome())


def assemble(config: PretrainConfig, run: Run) -> AssembledPretraining:
    """All that a pretraining is made of, at the place where the run in the folder had got."""
    manifest = run.dataset(config.dataset).without_flags(config.skip_flags)
    if config.slices is not None:
        manifest = config.slices.of(manifest)
    pretrained = None if config.checkpoint is None else run.checkpoint(config.checkpoint)
    start = config.start(manifest, pretrained)
    way = config.peft or (ExploraConfig() if start.is_trained else FullConfig())
    recorded = way.recorded(start.backbone)
    peft = way.adapt(start.backbone)
    trained = peft.trained()  # now, since an objective may take the backbone for a teacher, which has no gradient
    chosen = config.objective if pretrained is None else config.objective.continued(pretrained.folder)
    objective = chosen.build(peft.backbone)
    streams = [ViewStream.of(manifest, start.preprocess, start.backbone, objective.views, slides=config.slides)]
    if objective.twin is not None:
        streams.append(ViewStream.of_twin(manifest, config.other_preprocess, objective.twin))
    resume_from = last_checkpoint(run.folder)
    loader = feed(
        config.loader,
        streams,
        num_batches=config.trainer.batches_per_epoch,
        seed=config.seed,
        start=position_of(resume_from),
    )
    module = Pretraining(
        objective,
        config.step_optim,
        num_steps=config.trainer.steps,
        seed=config.seed,
        probe=build_probe(
            config.monitors,
            manifest,
            start,
            streams[0].views,
            seed=config.seed,
            slides=config.slides,
            **({"num_rebuilt": config.monitors.knn_images} if objective.judged_by == "reconstruction" else {}),
        ),
        guard=Guard(config.guard, starts_random=not start.is_trained),
        tracker=run.tracker,
        folder=run.folder,
        self_distillation=_self_distillation(config.self_distillation, run, objective),
    )
    trainer = config.build_trainer(run.folder, run.tracker)
    return AssembledPretraining(
        start, chosen, peft, recorded, trained, module, loader, trainer, resume_from, tuple(streams)
    )


def _save_twin(parts: AssembledPretraining, checkpoint: Checkpoint, merged: Backbone) -> None:
    """Return the backbone of the other rank, where there is one, as a checkpoint of its own in a folder `twin`."""
    twin = parts.module.objective.twin
    if twin is None:
        return
    own = twin.backbone
    backbone = merged.of_other_rank(own.patch_size, own.channels)
    backbone.load_state_dict({**merged.state_dict(), **own.embedding_state()})
    shape = {"ndim": own.ndim, "channels": own.channels, "patch_size": list(own.patch_size)}
    model = {"kind": "backbone", "backbone": checkpoint.model["backbone"] | shape}
    Checkpoint(checkpoint.folder / TWIN, model, parts.streams[1].preprocess.tree(), backbone.state_dict()).save()
    shutil.copy(checkpoint.folder / PATIENTS, checkpoint.folder / TWIN / PATIENTS)


def _self_distillation(config: SelfDistillationConfig, run: Run, objective: Objective) -> SelfDistillation | None:
    if config.teacher is None:
        return None
    return SelfDistillation(run.checkpoint(config.teacher, "teacher"), config.weight, objective.trained)


def _weights_told(parts: AssembledPretraining) -> str:
    """How the weights change and how many, for the model card; a warning where random ones are held fixed."""
    sizes = {name: weight.numel() for name, weight in parts.peft.backbone.named_parameters()}
    trained, total = sum(sizes[name] for name in parts.trained), sum(sizes.values())
    parts.start.warn_if_held(parts.way.name, num_trained=trained, num_weights=total)
    told = f"{parts.way.name}, {trained:,} of {total:,} trained ({trained / total:.1%})"
    log.info("Weights: %s", told)
    return told


def _guard_told(guard: Guard, run: Run) -> dict[str, str]:
    """Return what the guard did, for the model card; a failure of the run where it put the best weights back."""
    start, best, last = guard.start, guard.best, guard.last
    if start is None or best is None or last is None:
        return {"guard": "off"}
    told = {f"guard at the {name}": _figures(r.figures()) for name, r in (("start", start), ("last step", last))}
    if reason := guard.close():
        which = "the start weights" if best.step == 0 else f"the weights of step {best.step}"
        sentence = f"the guard ended the training at step {last.step}: {reason}; handed on are {which}"
        log.warning("%s", sentence)
        run.failures.append(sentence)
        return told | {"guard": sentence}
    return told | {"guard": guard.verdict or "nothing to tell; handed on are the last weights"}


def _figures(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in figures.items())


def _training(config: PretrainConfig, parts: AssembledPretraining) -> dict[str, str]:
    images = f"{parts.num_images}, of the training split, without their labels"
    told = {"objective": config.objective.name, "images": images, "patients": told_patients(parts.rows)}
    return {**told, **config.describe(), "seed": str(config.seed)}
