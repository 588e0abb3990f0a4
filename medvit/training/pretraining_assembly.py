"""Assembly of a pretraining run: from options and a dataset to objective, loader, guard, module and trainer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch.utils.data import DataLoader

from medvit.artifacts import Checkpoint
from medvit.backbones import Backbone
from medvit.config import Tree
from medvit.dataset.manifest import Manifest
from medvit.dataset.samples import samples_of
from medvit.errors import ConfigError
from medvit.objectives import ObjectiveConfig
from medvit.peft import Peft, PeftConfig
from medvit.peft.explora import ExploraConfig
from medvit.peft.full import FullConfig
from medvit.records import Row
from medvit.tracking import Tracker
from medvit.training.guard import Guard
from medvit.training.guard.build_probe import build_probe
from medvit.training.initialization import InitialModel
from medvit.training.loading.views import ViewStream, feed
from medvit.training.objective_choice import choose_objective
from medvit.training.optim import OptimConfig, continued
from medvit.training.pretraining import Pretraining
from medvit.training.pretraining_options import PretrainingOptions
from medvit.training.resume import last_checkpoint, position_of
from medvit.training.self_distillation import SelfDistillation
from medvit.training.trainer import Trainer
from medvit.transforms.preprocess import Preprocess


@dataclass(frozen=True)
class AssembledPretraining:
    """Pretraining run, ready to start or to resume."""

    start: InitialModel
    objective: ObjectiveConfig
    """Objective, with heads from a checkpoint if it has any."""
    peft: Peft
    way: PeftConfig
    trained: frozenset[str]
    """Names of the weights of the adapted backbone that training changes."""
    optim: OptimConfig
    """Resolved optimizer options, before learning rates are scaled to the batch."""
    module: Pretraining
    loader: DataLoader[object]
    trainer: Trainer
    resume_from: Path | None
    streams: tuple[ViewStream, ...]
    """Training images with their preprocessing and crops, for each kind of image."""

    @property
    def backbone(self) -> Backbone:
        """Backbone with its adapter."""
        return self.peft.backbone

    @property
    def loaders(self) -> tuple[DataLoader[object], ...]:
        """Loaders for `Trainer.fit`."""
        return (self.loader,)

    @property
    def num_images(self) -> int:
        """Number of training images of all kinds."""
        return sum(len(stream.samples) for stream in self.streams)

    @property
    def other_preprocess(self) -> Preprocess | None:
        """Preprocessing of the images of the other dimensionality (2D or 3D), for an objective that trains on both."""
        return None if len(self.streams) < 2 else self.streams[1].preprocess

    @property
    def objective_in_force(self) -> Tree:
        """Options of the objective, with the sizes of crops fitted to the images."""
        tree = self.objective.tree()
        for key, stream in zip(("views", "other_views"), self.streams, strict=False):
            if key in tree:
                tree[key] |= {name: value for name, value in stream.sizes.items() if name in tree[key]}
        return tree

    @property
    def rows(self) -> list[Row]:
        """Training images of all kinds."""
        return [row for stream in self.streams for row in stream.samples.manifest]

    def describe_weights(self) -> str:
        """Return a text that describes how the weights are adapted and how many are trained.

        Warn if randomly initialized weights are frozen.
        """
        sizes = {name: weight.numel() for name, weight in self.peft.backbone.named_parameters()}
        trained, total = sum(sizes[name] for name in self.trained), sum(sizes.values())
        self.start.warn_if_held(self.way.name, num_trained=trained, num_weights=total)
        return f"{self.way.name}, {trained:,} of {total:,} trained ({trained / total:.1%})"


def assemble_pretraining(
    config: PretrainingOptions,
    manifest: Manifest,
    pretrained: Checkpoint | None,
    teacher: Checkpoint | None,
    *,
    seed: int,
    folder: Path,
    tracker: Tracker,
) -> AssembledPretraining:
    """Return all components of a pretraining run; an interrupted run in the folder continues at the step it reached.

    `teacher` is the checkpoint of a first pretraining, for self-distillation.
    """
    manifest = manifest.without_flags(config.skip_flags)
    if config.slices is not None:
        manifest = config.slices.of(manifest)
    start = config.start(manifest, pretrained)
    require_blocks(start.backbone)
    way = config.peft or (ExploraConfig() if start.is_trained else FullConfig())
    recorded = way.recorded(start.backbone)
    if recorded.FINETUNING_ONLY:
        raise ConfigError(
            f"peft={recorded.name} changes its adapter during fine-tuning, which pretraining does not support; choose "
            "explora, lora or full"
        )
    if recorded.NEEDS_SENSITIVITY:
        raise ConfigError(
            f"peft={recorded.name} chooses weights by the gradients of a task, which pretraining does not have; choose "
            "explora, lora or full"
        )
    peft = way.adapt(start.backbone)
    trained = peft.trained()  # now, since an objective may turn the backbone into a teacher, which has no gradient
    chosen = _objective(config, start, pretrained)
    require_patch_tokens(start.backbone, chosen)
    samples = samples_of(manifest, start.preprocess, config.slides)
    chosen = chosen.fitted(config.schedule.run_length(len(samples)))
    optim = _optim(config, chosen, recorded, is_continued=start.is_trained)
    objective = chosen.build(peft.backbone)
    streams = [ViewStream.of(samples, start.preprocess, start.backbone, objective.views)]
    if objective.twin is not None:
        streams.append(ViewStream.of_twin(manifest, config.other_preprocess, objective.twin))
        if start.is_trained:
            objective.twin.backbone.new_weights = frozenset(objective.twin.backbone.embedding_state())
    resume_from = last_checkpoint(folder)
    loader = feed(
        config.loader,
        streams,
        num_batches=config.trainer.batches_per_epoch,
        seed=seed,
        start=position_of(resume_from),
    )
    module = Pretraining(
        objective,
        optim.for_batch(config.schedule.step_images),
        length=config.schedule.run_length(sum(len(stream.samples) for stream in streams)),
        seed=seed,
        probe=build_probe(
            config.monitors,
            manifest,
            start,
            streams[0].views,
            seed=seed,
            slides=config.slides,
            **({"num_rebuilt": config.monitors.knn_images} if objective.judged_by == "reconstruction" else {}),
        ),
        guard=Guard(config.guard, starts_random=not start.is_trained),
        tracker=tracker,
        folder=folder,
        self_distillation=None
        if teacher is None
        else SelfDistillation(teacher, config.self_distillation.weight, objective.trained),
    )
    trainer = config.trainer.build(folder, tracker, optim.clip)
    return AssembledPretraining(
        start, chosen, peft, recorded, trained, optim, module, loader, trainer, resume_from, tuple(streams)
    )


def require_blocks(backbone: Backbone) -> None:
    """Check that a backbone can be pretrained.

    Raises:
        ConfigError: If it is not a transformer, whose tokens all objectives train.
    """
    if not backbone.has_blocks:
        raise ConfigError(
            "pretraining needs the tokens of a vision transformer, and this backbone has feature maps instead; "
            "pretrain backbone.name=vit, or fine-tune the network with `medvit finetune`"
        )


def require_patch_tokens(backbone: Backbone, objective: ObjectiveConfig) -> None:
    """Check that an objective supports the tokens of a backbone: random patch sizes, and tokens of channels.

    Raises:
        ConfigError: If the objective does not support the backbone.
    """
    if backbone.patch_sizes and objective.TRAINS_PATCHES:
        raise ConfigError(
            f"objective={objective.name} predicts patches of a fixed size, but backbone.patch_sizes varies it; leave "
            "backbone.patch_sizes unset, or choose objective=dino, lejepa or swav"
        )
    if backbone.has_channel_tokens and not objective.TAKES_CHANNEL_TOKENS:
        raise ConfigError(
            f"objective={objective.name} needs one token per patch, and backbone=channel_vit has one per channel; "
            "choose objective=mae, dino, lejepa or swav, or backbone=vit"
        )


def _objective(config: PretrainingOptions, start: InitialModel, pretrained: Checkpoint | None) -> ObjectiveConfig:
    """Return the objective, with the heads of the checkpoint if it has any."""
    chosen = choose_objective(
        config.objective,
        pretrained,
        getattr(config.backbone, "weights", None),
        keeps_size=config.preprocess is None and bool(start.preprocess.size),
    )
    return chosen if pretrained is None else chosen.continued(pretrained.folder)


def _optim(
    config: PretrainingOptions, objective: ObjectiveConfig, way: PeftConfig, *, is_continued: bool
) -> OptimConfig:
    """Return the optimizer options: those given, else those proposed for the objective and the initial weights."""
    proposed = objective.OPTIM
    if is_continued:
        trains_whole = way.TRAINS_WHOLE_WEIGHTS
        proposed = continued(proposed, trains_whole_weights=trains_whole, has_new_head=objective.has_new_head)
    return config.optim.over(proposed)
