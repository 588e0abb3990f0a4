"""Supervised fine-tuning for classification or segmentation, in 2D or 3D, with PEFT."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field
from torch.utils.data import DataLoader

from medvit.artifacts import CHECKPOINT_FILES, Checkpoint
from medvit.backbones import BackboneConfig
from medvit.cards.model import write_model_card
from medvit.config import Axis, Count
from medvit.dataset.manifest import Facts, Manifest
from medvit.dataset.samples import Samples, collate
from medvit.dataset.slices import SlicesConfig
from medvit.errors import ConfigError
from medvit.evaluation.selection import choose_positive
from medvit.hardware import resolve_device
from medvit.heads import HeadConfig, OptionalHeadChoice
from medvit.leakage.seen_patients import write_training_patients
from medvit.losses.supervised import classification_loss, segmentation_loss
from medvit.models.image import AppliesTo, Model, ModelConfig
from medvit.models.slide import SlideModelConfig, ensemble_state
from medvit.models.tile_embedder import EmbeddedSlide, Embedder, EmbeddingConfig, embed_manifest
from medvit.peft import OptionalLoraChoice, PeftConfig
from medvit.peft.frozen import FrozenConfig
from medvit.peft.full import FullConfig
from medvit.peft.lora import LoraConfig
from medvit.readers.options import ValuesConfig
from medvit.stage import Run, StageConfig, stage
from medvit.training.finetuning import Finetuning
from medvit.training.initialization import InitialModel
from medvit.training.loading.bags import BagConfig
from medvit.training.loading.rounds import rounds, whole_images
from medvit.training.options import TrainingOptions, told_patients, trained_on
from medvit.training.resume import LEFTOVERS, last_checkpoint, position_of
from medvit.training.slide_heads import (
    SlideTraining,
    bag_head,
    common_tiles,
    holds_slides,
    labeled_slides,
    warn_of_pixels,
)
from medvit.training.task import TaskAssignment, assign, crop_size, require_channels, require_fitting, warn_of_ignored
from medvit.training.trainer import Trainer
from medvit.transforms.augment import Augment, AugmentConfig
from medvit.wsi.locations import SlidesConfig

log = logging.getLogger("medvit")


class FinetuneConfig(TrainingOptions, StageConfig):
    """Options of `medvit finetune`."""

    IS_DISTRIBUTED: ClassVar[bool] = True
    RESOLVED: ClassVar[tuple[str, ...]] = (
        "backbone",
        "preprocess",
        "peft",
        "head",
        "crop",
        "applies_to",
        "positive",
        "trainer",
    )

    dataset: Path
    """Dataset folder made by ingest; learns from its train split and chooses the best round on its val split."""
    slices: SlicesConfig | None = None
    """Cuts volumes into slices and learns from these as images; the model then predicts volumes slice by slice."""
    peft: OptionalLoraChoice = None
    """How the weights of the backbone may change; continue goes on with the adapter that the checkpoint keeps. Unset:
    lora for a pretrained backbone, full for one that starts at random."""
    head: OptionalHeadChoice = None
    """From tokens to logits; none takes linear for classification and dense for segmentation."""
    label: str = "label"
    """Key of the manifest's labels to learn; where no image has it, masks are learned."""
    positive: str = ""
    """The positive one of two classes, remembered by the model: sensitivity is of it. Unset: what ingest was told."""
    crop: tuple[Count, ...] | None = None
    """Size of training crops and of the sliding window; none fits the images, up to 512 pixels or 96 voxels a side."""
    balance: Literal["loss", "sampler", "off"] = "loss"
    """How rare classes of images are made to count: weights in the loss, drawing them more often, or not at all."""
    smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Label smoothing of classification."""
    overlap: float = Field(default=0.5, ge=0.0, lt=1.0)
    """Share by which neighboring steps of the sliding window overlap."""
    mirrored_axes: tuple[Axis, ...] = ()
    """Axes mirrored at inference, with the predictions averaged."""
    applies_to: AppliesTo | None = None
    """Which series of a study the model is for; what is unset is the training images' kind and modality."""
    bags: BagConfig = Field(default_factory=BagConfig)
    slides: SlidesConfig = Field(default_factory=SlidesConfig)
    tiles: EmbeddingConfig = Field(default_factory=EmbeddingConfig)
    augment: AugmentConfig = Field(default_factory=AugmentConfig)

    @property
    def set_for_classification(self) -> dict[str, object]:
        """Options of classification alone that are not at their default."""
        return self._set("balance", "smoothing")

    @property
    def set_for_pixels(self) -> dict[str, object]:
        """Options of models that learn from pixels, and not from embeddings, that are not at their default."""
        given = self._set("crop", "overlap", "mirrored_axes", "applies_to")
        kept = {} if self.peft is None or self.peft.name in ("lora", "frozen") else {"peft": self.peft.name}
        return given | kept | ({} if self.augment == AugmentConfig() else {"augment": "..."})

    def _set(self, *keys: str) -> dict[str, object]:
        return {key: getattr(self, key) for key in keys if getattr(self, key) != type(self).model_fields[key].default}


@dataclass(frozen=True)
class AssembledFinetuning:
    """A fine-tuning, ready to start or to go on."""

    start: InitialModel
    task: TaskAssignment
    model: Model
    module: Finetuning
    loader: DataLoader[object]
    validation: DataLoader[object]
    trainer: Trainer
    resume_from: Path | None

    @property
    def num_images(self) -> int:
        """Images to learn from."""
        return len(self.task.train)


@stage
def finetune(config: FinetuneConfig, run: Run) -> Checkpoint:
    """Teaches a backbone a task from your labels."""
    if holds_slides(Manifest.read(config.dataset), config.label):
        return finetune_slides(config, run)
    parts = assemble(config, run)
    made = parts.model.config
    run.in_force(
        backbone=parts.start.config,
        preprocess=parts.start.preprocess,
        peft=config.peft or made.peft,
        head=made.head,
        crop=made.roi,
        applies_to=made.applies_to,
        positive=made.positive,
        trainer=config.trainer.in_force,
    )

    parts.trainer.fit(parts.module, parts.loader, parts.validation, ckpt_path=parts.resume_from)
    run.leave_to_leader()

    parts.module.restore_best()
    best = parts.model
    adapter = None if best.is_trained_whole else dict(best.adapter_state())
    preprocess = parts.start.preprocess.tree()
    checkpoint = Checkpoint(run.folder, best.config.tree(), preprocess, best.merged_state(), adapter).save()
    write_training_patients(run.folder, [*parts.task.train, *parts.task.val], run.learned)
    write_model_card(checkpoint, figures=parts.module.figures(), training=_training(config, parts.task))
    run.leftovers.update(LEFTOVERS)
    run.keep(*CHECKPOINT_FILES)
    return replace(checkpoint, training=trained_on([*parts.task.train], [*parts.task.val]) | parts.module.outcome())


def finetune_slides(config: FinetuneConfig, run: Run) -> Checkpoint:
    """Teaches heads the labels of slides, on tiles embedded once by the frozen backbone; the model is their mean."""
    parts = assemble_slides(config, run)
    run.in_force(
        backbone=parts.start.config,
        preprocess=parts.start.preprocess,
        peft=FrozenConfig(),
        head=parts.head,
        crop=None,
        applies_to=None,
        positive=parts.positive,
        trainer=config.trainer.in_force,
    )
    slides = embed_manifest(
        parts.slides, config.slides, embedder=parts.embedder, config=config.tiles, failures=run.failures
    )
    training = parts.training(config, slides)
    members, figures = training.train(run.folder, run.tracker)

    state = ensemble_state(parts.start.backbone, members)
    heads = {name: weight for name, weight in state.items() if name.startswith("members.")}
    preprocess = parts.start.preprocess.tree()
    checkpoint = Checkpoint(run.folder, training.model.tree(), preprocess, state, heads).save()
    write_training_patients(run.folder, training.rows, run.learned)
    write_model_card(checkpoint, figures=figures, training=training.describe())
    run.leftovers.update(training.leftovers)
    run.keep(*CHECKPOINT_FILES)
    return replace(checkpoint, training=training.outcome(figures))


@dataclass(frozen=True)
class AssembledSlides:
    """What the training on slides is made of before their tiles are embedded, which takes long."""

    start: InitialModel
    embedder: Embedder
    head: HeadConfig
    slides: Manifest
    positive: str

    def training(self, config: FinetuneConfig, slides: Sequence[EmbeddedSlide]) -> SlideTraining:
        """The training of the heads on embedded slides.

        Raises:
            DataError: If their tiles differ in size or scale.
        """
        model = SlideModelConfig(
            backbone=self.start.config,
            head=self.head,
            members=config.bags.members,
            features=self.embedder.features,
            tiles=common_tiles(slides, config.slides.skip_tiles),
            classes=self.slides.facts.classes[config.label],
            label=config.label,
            positive=self.positive,
        )
        options = (config.bags, config.optim, config.loader, config.trainer)
        return SlideTraining(model, slides, *options, config.balance, config.smoothing, config.seed)


def assemble_slides(config: FinetuneConfig, run: Run) -> AssembledSlides:
    """Backbone, head and labeled slides, with all that can be refused before tiles are embedded.

    Raises:
        ConfigError: If the head reads no bags, several devices are asked for, or the backbone starts at random.
        DataError: If there are fewer than two classes, or a split is empty.
    """
    warn_of_pixels(**config.set_for_pixels)
    manifest = run.dataset(config.dataset).without_flags(config.skip_flags)
    pretrained = None if config.checkpoint is None else run.checkpoint(config.checkpoint)
    start = config.start(manifest, pretrained)
    if not start.is_trained:
        raise ConfigError(
            "tiles of slides are embedded by a backbone that stays as it is, and this one has random weights; "
            "give checkpoint=FOLDER of a pretrained backbone, or backbone.weights"
        )
    embedder = Embedder(start.backbone, start.preprocess, config.bags.features, resolve_device("auto"))
    head = bag_head(config.head, config.trainer)
    slides = labeled_slides(manifest, config.label, run.failures, folds=config.bags.folds)
    positive = positive_of(config, slides.facts, slides.facts.classes[config.label])
    return AssembledSlides(start, embedder, head, slides, positive)


def assemble(config: FinetuneConfig, run: Run) -> AssembledFinetuning:
    """All that a fine-tuning is made of, at the place where the run in the folder had got."""
    manifest = run.dataset(config.dataset).without_flags(config.skip_flags)
    if config.slices is not None:
        manifest = config.slices.single().of(manifest)
    pretrained = None if config.checkpoint is None else run.checkpoint(config.checkpoint)
    start = config.start(manifest, pretrained)
    task = assign(manifest, start.preprocess, config.label)
    require_channels(task.train, start.preprocess, config.slices)
    require_fitting(
        start.backbone.ndim,
        sizes={"crop": config.crop},
        axes={"mirrored_axes": config.mirrored_axes, "augment.flipped_axes": config.augment.flipped_axes},
    )
    warn_of_ignored(task.kind, **config.set_for_classification)
    crop = config.crop or crop_size(task.train, start.preprocess, start.backbone.patch_size)
    way = config.peft or (LoraConfig() if start.is_trained else FullConfig())
    model = Model(_describe(config, task, start.config, crop, way), start.backbone)
    sizes = [(weight.numel(), weight.requires_grad) for weight in model.backbone.parameters()]
    num_trained = sum(size for size, is_trained in sizes if is_trained)
    start.warn_if_held(way.name, num_trained=num_trained, num_weights=sum(size for size, _ in sizes))
    resume_from = last_checkpoint(run.folder)
    train, val = (
        Samples(part, start.preprocess, label=config.label, classes=task.targets) for part in (task.train, task.val)
    )
    loader = rounds(
        config.loader,
        train,
        Augment(config.augment, crop, masks=task.kind == "segmentation"),
        collate,
        num_batches=config.trainer.batches_per_epoch,
        seed=config.seed,
        start=position_of(resume_from),
        weights=task.odds() if config.balance == "sampler" else None,
    )
    loss = (
        segmentation_loss()
        if task.kind == "segmentation"
        else classification_loss(task.counts, smoothing=config.smoothing, balanced=config.balance == "loss")
    )
    module = Finetuning(
        model,
        loss,
        config.step_optim,
        num_steps=config.trainer.steps,
        seed=config.seed,
        folder=run.folder,
    )
    trainer = config.build_trainer(run.folder, run.tracker)
    return AssembledFinetuning(start, task, model, module, loader, whole_images(val), trainer, resume_from)


def _describe(
    config: FinetuneConfig, task: TaskAssignment, backbone: BackboneConfig, crop: tuple[int, ...], way: PeftConfig
) -> ModelConfig:
    kind = "volume" if config.slices is not None else task.train.rows[0].kind
    default_head = {"name": "dense" if task.kind == "segmentation" else "linear"}
    return ModelConfig(
        kind=task.kind,
        backbone=backbone,
        peft=way,
        head=config.head or default_head,
        classes=task.classes,
        label=config.label if task.kind == "classification" else "",
        positive=positive_of(config, task.train.facts, task.targets),
        roi=crop,
        overlap=config.overlap,
        mirrored_axes=config.mirrored_axes,
        applies_to=_rule(config.applies_to, AppliesTo(kind=kind, modality=task.modality)),
        values=ValuesConfig.parse(task.train.facts.values),
        slices=config.slices,
    )


def positive_of(config: FinetuneConfig, facts: Facts, classes: Sequence[str]) -> str:
    """The positive one of two classes: the one asked for, else the one that the dataset remembers; reports none.

    Raises:
        ConfigError: If the one asked for is not one of two classes.
    """
    dataset = facts.positive.get(config.label, "")
    positive, notes = choose_positive(classes, asked=config.positive, worst="", model="", dataset=dataset)
    for note in notes:
        log.info("%s", note)  # evaluate warns, beside the numbers
    return "" if notes else positive


def _training(config: FinetuneConfig, task: TaskAssignment) -> dict[str, str]:
    images = f"{len(task.train)} to learn from, {len(task.val)} to choose the best round"
    patients = told_patients([*task.train, *task.val])
    return {"images": images, "patients": patients, **config.describe(), "seed": str(config.seed)}


def _rule(given: AppliesTo | None, followed: AppliesTo) -> AppliesTo:
    """The given rule for series; what it leaves unset is as the training images have it."""
    said = {} if given is None else {key: getattr(given, key) for key in given.model_fields_set}
    return followed.model_copy(update=said)
