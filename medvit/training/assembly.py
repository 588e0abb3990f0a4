"""Assembly of a fine-tuning run: from options and a dataset to model, loaders, module and trainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch.utils.data import DataLoader

from medvit.artifacts import CONFIG, Checkpoint
from medvit.backbones import Backbone, BackboneConfig
from medvit.dataset.made_with import MadeWith
from medvit.dataset.manifest import Facts, Manifest
from medvit.dataset.samples import Samples, collate
from medvit.errors import ConfigError
from medvit.heads import HeadConfig
from medvit.heads.dense import DenseConfig
from medvit.heads.linear import LinearConfig
from medvit.losses.regions import regions_loss
from medvit.losses.supervised import Loss, segmentation_loss
from medvit.models.image import AppliesTo, Model, ModelConfig
from medvit.models.sensitivity import measure_sensitivity
from medvit.peft import PeftConfig
from medvit.peft.full import FullConfig
from medvit.peft.lora import LoraConfig
from medvit.peft.spt import SptConfig
from medvit.readers.channels import ChannelsConfig
from medvit.readers.options import ValuesConfig
from medvit.tasks import NOUNS, OF_CLASSES, LabelTask, LossOptions, image_task, is_image_task
from medvit.tracking import Tracker
from medvit.training.finetuning import Finetuning
from medvit.training.finetuning_options import FinetuningOptions
from medvit.training.initialization import InitialModel, start_from
from medvit.training.loading.epochs import epoch_loader, whole_images
from medvit.training.loading.schedule import Schedule
from medvit.training.optim import FULL_LAYER_DECAY, OptimConfig
from medvit.training.options import log_assumed_patients
from medvit.training.proposals import Proposals
from medvit.training.proposals.batches import propose_schedule
from medvit.training.proposals.crops import (
    ForegroundCrops,
    propose_extent,
    propose_foreground,
    propose_levels,
    record_plan,
    round_up,
)
from medvit.training.proposals.preprocessing import propose_preprocess
from medvit.training.resume import last_checkpoint, position_of
from medvit.training.task import (
    TaskAssignment,
    assign,
    require_channels,
    require_fitting,
    require_known_channels,
    require_turnable,
    require_whole_patches,
    warn_of_ignored,
)
from medvit.training.trainer import Trainer
from medvit.transforms.augmentation.training_crop import TrainingCrop
from medvit.transforms.preprocess import Preprocess

PositiveOf = Callable[[Facts, Sequence[str]], str]
"""Function that returns the positive class among the given classes, from the facts of a dataset; empty if not set."""


@dataclass(frozen=True)
class AssembledFinetuning:
    """A fine-tuning run, ready to start or to resume."""

    start: InitialModel
    task: TaskAssignment
    model: Model
    optim: OptimConfig
    """Resolved optimizer options, before learning rates are scaled to the batch."""
    schedule: Schedule
    foreground: ForegroundCrops
    proposals: Proposals
    module: Finetuning
    loader: DataLoader[object]
    validation: DataLoader[object] | None
    """Loader of the val split; None if the last weights are kept."""
    trainer: Trainer
    resume_from: Path | None

    @property
    def backbone(self) -> Backbone:
        """The backbone with its adapter."""
        return self.model.backbone

    @property
    def loaders(self) -> tuple[DataLoader[object], ...]:
        """Loaders for `Trainer.fit`: training, and validation if there is any."""
        return (self.loader,) if self.validation is None else (self.loader, self.validation)

    @property
    def num_images(self) -> int:
        """Number of training images."""
        return len(self.task.train)


def assemble_finetuning(
    config: FinetuningOptions,
    manifest: Manifest,
    pretrained: Checkpoint | None,
    positive_of: PositiveOf,
    *,
    seed: int,
    folder: Path,
    tracker: Tracker,
) -> AssembledFinetuning:
    """Return all components of a fine-tuning run; an interrupted run in the folder continues at the step it reached.

    Options that are unset are proposed for the training images; what depends on the memory of the device remains as it
    was proposed when the run began.
    """
    manifest = images_of(config, manifest)
    log_assumed_patients(manifest)
    training = manifest.filter(lambda row: row.split == "train")
    followed = config.preprocess_for(training if training.rows else manifest, pretrained)
    task = assigned(config, manifest, followed, with_val=config.keep == "best")
    proposals = Proposals.of(task.train, folder)
    if pretrained is None:
        followed = propose_preprocess(proposals, config.preprocess, task.kind, task.train)
    extent, reason = (config.crop, "") if config.crop else propose_extent(task.train, followed, task.kind)
    start = start_from(pretrained, config.backbone, followed, task.train, extent)
    record_plan(proposals, config.backbone, start.config, extent)
    _require_usable(config, task, start)
    crop = proposals.fill("crop", config.crop, lambda: (round_up(extent, start.backbone.crop_multiple), reason))
    require_whole_patches(start.backbone, {"crop": crop})
    require_turnable(crop, config.turned_axes)
    way = proposals.fill("peft", config.peft, lambda: _default_way(start))
    require_whole_weights(way.recorded(start.backbone), config.trainer.strategy)
    require_averageable(way.recorded(start.backbone), config)
    positive = positive_of(task.train.facts, task.label_classes)
    head = proposals.fill("head", config.head, lambda: _default_head(task))
    head = propose_levels(proposals, head, start)
    foreground = propose_foreground(proposals, config, task)
    train, val = (_samples(part, task, start) for part in (task.train, task.val))
    transform = _training_crop(config, task, start, crop, foreground)
    load = partial(
        epoch_loader, samples=train, transform=transform, stack=collate, seed=seed, weights=task.odds(config.balance)
    )
    described = partial(_describe, config, task, start.config, crop, head=head, positive=positive)
    model = Model(described(FullConfig() if isinstance(way, SptConfig) else way), start.backbone)
    schedule = propose_schedule(proposals, config.loader, config.trainer, task, model, start.preprocess)
    if isinstance(way, SptConfig):
        batches = load(schedule.loader, num_batches=way.num_batches)
        start.backbone.sensitivity = measure_sensitivity(model, _loss(config, task), batches, seed)
        model = Model(described(way), start.backbone)
    _start_head(model, task)
    sizes = [(weight.numel(), weight.requires_grad) for weight in model.backbone.parameters()]
    num_trained = sum(size for size, is_trained in sizes if is_trained)
    start.warn_if_held(way.name, num_trained=num_trained, num_weights=sum(size for size, _ in sizes))
    is_public = start.is_trained and pretrained is None and start.backbone.has_blocks
    optim = config.optim.over({"layer_decay": FULL_LAYER_DECAY} if is_public and isinstance(way, FullConfig) else {})
    require_equal_rates(optim, start.backbone)
    mixing = config.mixing if config.mixing.is_on and task.kind == "classification" else None
    if mixing is not None:
        mixing.require_pairs(schedule.loader.batch_size)
        require_all_channels(task.train, start.preprocess)
    resume_from = last_checkpoint(folder)
    loader = load(schedule.loader, num_batches=schedule.trainer.batches_per_epoch, start=position_of(resume_from))
    module = Finetuning(
        model,
        _loss(config, task),
        optim.for_batch(schedule.step_images),
        length=schedule.run_length(len(train)),
        seed=seed,
        folder=folder,
        keep=config.keep,
        ema=config.ema,
        mixing=mixing,
    )
    validation = whole_images(val) if config.keep == "best" else None
    trainer = schedule.trainer.build(folder, tracker, optim.clip)
    return AssembledFinetuning(
        start, task, model, optim, schedule, foreground, proposals, module, loader, validation, trainer, resume_from
    )


def _require_usable(config: FinetuningOptions, task: TaskAssignment, start: InitialModel) -> None:
    """Check that options fit the images and the task, and warn about options that another task uses.

    Raises:
        ConfigError: If an option does not fit.
    """
    require_channels(task.train, start.preprocess, config.slices)
    require_known_channels(task.train, start.preprocess)
    require_fitting(
        start.backbone.ndim,
        sizes={"crop": config.crop},
        axes={
            "mirrored_axes": config.mirrored_axes,
            "turned_axes": config.turned_axes or (),
            "augment.flipped_axes": config.augment.flipped_axes,
        },
    )
    of_labels = [part.task for part in task.target.parts]
    warn_of_ignored(task.kind, config.set_for_balance, *OF_CLASSES, "multilabel", of_labels=of_labels)
    warn_of_ignored(task.kind, config.set_for_classification, "classification", of_labels=of_labels)
    warn_of_ignored(task.kind, config.set_for_regression, "regression", of_labels=of_labels)
    warn_of_ignored(task.kind, config.set_for_survival, "survival")
    warn_of_ignored(task.kind, config.set_for_segmentation, "segmentation")
    require_decidable(task, config)
    require_whole_labels(task, config)


def _start_head(model: Model, task: TaskAssignment) -> None:
    """Set the bias of the head to the best constant prediction, for tasks that need it."""
    logits = image_task(task.kind).initial_logits(task.train.rows, task.target) if is_image_task(task.kind) else None
    if logits is not None:
        model.head.start_at(logits)


def _samples(manifest: Manifest, task: TaskAssignment, start: InitialModel) -> Samples:
    """Return the images of a split with their targets."""
    encode = partial(image_task(task.kind).encoded, target=task.target) if is_image_task(task.kind) else None
    return Samples(manifest, start.preprocess, encode=encode)


def _training_crop(
    config: FinetuningOptions,
    task: TaskAssignment,
    start: InitialModel,
    crop: tuple[int, ...],
    foreground: ForegroundCrops,
) -> TrainingCrop:
    """Return the function that crops and augments training images."""
    return TrainingCrop(
        config.augment,
        crop,
        start.preprocess.intensity,
        masks=task.kind == "segmentation",
        foreground=foreground.share or 0.0,
        by_class=foreground.by == "class",
    )


def _default_way(start: InitialModel) -> tuple[PeftConfig, str]:
    if start.is_trained and start.backbone.has_blocks:
        return LoraConfig(), "the backbone is pretrained"
    found = "is a network without transformer blocks" if start.is_trained else "has random weights"
    return FullConfig(), f"the backbone {found}"


def _default_head(task: TaskAssignment) -> tuple[HeadConfig, str]:
    reason = f"the task is {NOUNS[task.kind]}"
    return (DenseConfig() if task.kind == "segmentation" else LinearConfig()), reason


def images_of(config: FinetuningOptions, manifest: Manifest) -> Manifest:
    """Return the images of a dataset for training: without skipped flags, and volumes cut into slices if configured."""
    manifest = manifest.without_flags(config.skip_flags)
    return manifest if config.slices is None else config.slices.single().of(manifest)


def assigned(
    config: FinetuningOptions, manifest: Manifest, preprocess: Preprocess, *, with_val: bool
) -> TaskAssignment:
    """Return the task that the options request, with its images.

    Raises:
        DataError: If the images do not allow the task.
    """
    return assign(
        manifest,
        preprocess,
        config.label,
        kind=config.task,
        labels=config.labels,
        tasks=config.tasks,
        weights=config.task_weights,
        event=config.event,
        intervals=config.survival_intervals,
        with_val=with_val,
    )


def _loss(config: FinetuningOptions, task: TaskAssignment) -> Loss:
    if not is_image_task(task.kind):
        regions = config.region_map(task.classes)
        return segmentation_loss() if regions is None else regions_loss(regions.members, len(task.classes))
    options = LossOptions(config.smoothing, config.balance, config.regression_loss)
    return image_task(task.kind).loss(task.train.rows, task.target, options)


def require_whole_weights(way: PeftConfig, strategy: str) -> None:
    """Check that the strategy for several devices keeps weights whole if the fine-tuning method requires it.

    Raises:
        ConfigError: If the weights are sharded, but the method needs whole weights and gradients.
    """
    if (way.FINETUNING_ONLY or way.NEEDS_SENSITIVITY) and strategy == "fsdp":
        raise ConfigError(
            f"peft={way.name} needs whole weights and gradients, which trainer.strategy=fsdp shards; choose "
            "trainer.strategy=ddp, or peft=lora"
        )


def require_equal_rates(optim: OptimConfig, backbone: Backbone) -> None:
    """Check that rates by block are given only for a backbone with transformer blocks.

    Raises:
        ConfigError: If the backbone has no blocks.
    """
    rates = {"layer_decay": optim.layer_decay, "patch_embed_scale": optim.patch_embed_scale}
    found = [f"optim.{key}={rate:g}" for key, rate in rates.items() if rate != 1.0]
    if found and not backbone.has_blocks:
        raise ConfigError(
            f"found {found[0]}, which sets rates by transformer block, but this backbone has none; "
            "leave it unset, and use optim.pretrained_scale for a lower rate of the backbone"
        )


def require_all_channels(manifest: Manifest, preprocess: Preprocess) -> None:
    """Check that no image lacks a named channel, because `mixing` mixes all channels of two images.

    Raises:
        ConfigError: If an image lacks a channel.
    """
    num_lacking = sum(bool(set(preprocess.channel_names) - set(row.channels)) for row in manifest)
    if num_lacking:
        raise ConfigError(
            f"mixing needs images with all channels, and {num_lacking} of {len(manifest)} training images lack some; "
            "set mixing.mixup=0 and mixing.cutmix=0"
        )


def require_decidable(task: TaskAssignment, config: FinetuningOptions) -> None:
    """Check that there are validation masks on which `largest_components` can be decided, if it is set.

    Raises:
        ConfigError: If the task is not a segmentation, regions are predicted, or the val split is not used.
    """
    if config.largest_components and config.regions:
        raise ConfigError(
            "largest_components=true is decided for classes, and regions overlap; set largest_components=false, or "
            "remove regions"
        )
    if config.largest_components and (task.kind != "segmentation" or config.keep == "last"):
        found = "keep=last does not use" if task.kind == "segmentation" else f"{NOUNS[task.kind]} does not have"
        raise ConfigError(
            f"largest_components=true is decided on masks of the val split, which {found}; set largest_components=false"
        )


def require_whole_labels(task: TaskAssignment, config: FinetuningOptions) -> None:
    """Check that all classes are annotated in all label maps if regions are predicted.

    Raises:
        ConfigError: If a label map has partial labels.
    """
    num_partly = sum(row.annotated is not None for part in (task.train, task.val) for row in part)
    if config.regions and task.kind == "segmentation" and num_partly:
        raise ConfigError(
            f"regions need label maps in which all classes are annotated; found {num_partly} with some of them "
            "(labeling.annotated): remove regions, or give a dataset without these images"
        )


def require_averageable(way: PeftConfig, config: FinetuningOptions) -> None:
    """Check that the trained weights can be averaged if an average is requested.

    Raises:
        ConfigError: If the weights are sharded, or the fine-tuning method removes parts of them during the training.
    """
    if config.ema is None:
        return
    if config.trainer.strategy == "fsdp":
        raise ConfigError(
            "ema does not work with trainer.strategy=fsdp; choose trainer.strategy=ddp, or leave ema unset"
        )
    if way.FINETUNING_ONLY:
        raise ConfigError(
            f"ema={config.ema:g} would average weights that peft={way.name} removes during the training; leave ema "
            "unset, or choose another peft, such as lora"
        )


def _describe(
    config: FinetuningOptions,
    task: TaskAssignment,
    backbone: BackboneConfig,
    crop: tuple[int, ...],
    way: PeftConfig,
    head: HeadConfig,
    positive: str,
) -> ModelConfig:
    kind = "volume" if config.slices is not None else task.train.rows[0].kind
    return ModelConfig(
        kind=task.kind,
        backbone=backbone,
        peft=way,
        head=head,
        classes=task.classes,
        label=task.target.label,
        pairs=task.target.pairs,
        tasks=_label_tasks(task),
        scales=task.target.scales,
        event=task.target.event,
        intervals=(task.target.ends,) if task.target.ends else (),
        positive=positive,
        roi=crop,
        overlap=config.overlap,
        mirrored_axes=config.mirrored_axes,
        turned_axes=config.turned_axes,
        regions=config.regions if task.kind == "segmentation" else {},
        regions_class_order=config.regions_class_order if task.kind == "segmentation" else (),
        applies_to=_rule(
            config.applies_to, AppliesTo(kind=kind, modality=task.modality, channels=_combination(task.train))
        ),
        values=ValuesConfig.parse(task.train.facts.values),
        slices=config.slices,
    )


def _label_tasks(task: TaskAssignment) -> tuple[LabelTask, ...]:
    """Return the labels of a multi-task model, with the positive classes that the dataset names."""
    positive = task.train.facts.positive
    return tuple(
        LabelTask(
            label=part.target.label,
            task=part.task,
            classes=part.target.classes,
            weight=part.weight,
            positive=positive.get(part.target.label, "") if len(part.target.classes) == 2 else "",
        )
        for part in task.target.parts
    )


def _combination(manifest: Manifest) -> ChannelsConfig | None:
    """Return how ingest combined images into images with named channels; None without them, or if it is unknown."""
    if not any(row.channels for row in manifest) or not (manifest.folder / CONFIG).is_file():
        return None
    tree = MadeWith.read(manifest.folder).option("scanning.channels")
    return None if tree is None else ChannelsConfig.parse(tree)


def _rule(given: AppliesTo | None, followed: AppliesTo) -> AppliesTo:
    """Return the criteria by which `medvit predict` selects series.

    Criteria that the user has given come first; unset ones are taken from `followed`.
    """
    overrides = {} if given is None else {key: getattr(given, key) for key in given.model_fields_set}
    return followed.model_copy(update=overrides)
