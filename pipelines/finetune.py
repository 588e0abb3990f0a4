"""Supervised fine-tuning for classification or segmentation, in 2D or 3D, with PEFT."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field
from torch.utils.data import DataLoader

from medvit.artifacts import CHECKPOINT_FILES, Checkpoint
from medvit.backbones import BackboneChoice, BackboneConfig
from medvit.config import Axis, Count
from medvit.dataset import Samples, collate
from medvit.heads import OptionalHeadChoice
from medvit.losses.supervised import classification_loss, segmentation_loss
from medvit.model import AppliesTo, Model, ModelConfig
from medvit.model_card import write_model_card
from medvit.peft import PeftChoice
from medvit.samples import Flag
from medvit.slices import SlicesConfig
from medvit.stage import Run, StageConfig, stage
from medvit.training.finetuning import Finetuning
from medvit.training.loader import LoaderConfig, rounds, whole_images
from medvit.training.optim import OptimConfig
from medvit.training.resuming import last_checkpoint, position_of, remove_leftovers
from medvit.training.start import Start, start_from
from medvit.training.tasks import Assignment, assign, crop_size, require_channels, require_fitting, warn_of_ignored
from medvit.training.trainer import Trainer, TrainerConfig
from medvit.transforms.augment import Augment, AugmentConfig
from medvit.transforms.preprocess import Preprocess


class FinetuneConfig(StageConfig):
    """Options of `medvit finetune`."""

    IS_DISTRIBUTED: ClassVar[bool] = True

    dataset: Path
    """Dataset folder made by ingest; learns from its train split and chooses the best round on its val split."""
    output: Path
    """Checkpoint folder to make."""
    skip_flags: tuple[Flag, ...] = ()
    """Images that carry one of these flags of ingest are left out, as in skip_flags=[blank,constant]."""
    slices: SlicesConfig | None = None
    """Cuts volumes into slices and learns from these as images; the model then predicts volumes slice by slice."""
    checkpoint: Path | None = None
    """Pretrained backbone to start from; none starts from `backbone`, that is from its weights or from scratch."""
    backbone: BackboneChoice = Field(default={"name": "vit"}, validate_default=True)
    """The vision transformer, where no checkpoint is given; drop_path and save_memory are taken in any case."""
    preprocess: Preprocess | None = None
    """The preprocessing; none takes that of the checkpoint, or fits it to the images."""
    peft: PeftChoice = Field(default={"name": "lora"}, validate_default=True)
    """How the weights of the backbone may change."""
    head: OptionalHeadChoice = None
    """From tokens to logits; none takes linear for classification and dense for segmentation."""
    label: str = "label"
    """Key of the manifest's labels to learn; where no image has it, masks are learned."""
    crop: tuple[Count, ...] | None = None
    """Size of training crops and of the sliding window; none fits the images, up to 512 pixels or 96 voxels a side."""
    balance: Literal["loss", "sampler", "none"] = "loss"
    """How rare classes of images are made to count: weights in the loss, drawing them more often, or not at all."""
    smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Label smoothing of classification."""
    overlap: float = Field(default=0.5, ge=0.0, lt=1.0)
    """Share by which neighboring steps of the sliding window overlap."""
    mirrored_axes: tuple[Axis, ...] = ()
    """Axes mirrored at inference, with the predictions averaged."""
    applies_to: AppliesTo | None = None
    """Which series of a study the model is for; none takes any of the training images' kind and modality."""
    augment: AugmentConfig = Field(default_factory=AugmentConfig)
    optim: OptimConfig = Field(default_factory=OptimConfig)
    loader: LoaderConfig = Field(default_factory=LoaderConfig)
    trainer: TrainerConfig = Field(default_factory=TrainerConfig)

    @property
    def set_for_classification(self) -> dict[str, object]:
        """Options of classification alone that are not at their default."""
        keys = ("balance", "smoothing")
        return {key: getattr(self, key) for key in keys if getattr(self, key) != type(self).model_fields[key].default}


@dataclass(frozen=True)
class Assembled:
    """A fine-tuning, ready to start or to go on."""

    start: Start
    task: Assignment
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
    parts = assemble(config, run)

    parts.trainer.fit(parts.module, parts.loader, parts.validation, ckpt_path=parts.resume_from)
    run.leave_to_leader()

    best = parts.module.restore_best()
    adapter = None if best.is_trained_whole else dict(best.adapter_state())
    preprocess = parts.start.preprocess.tree()
    checkpoint = Checkpoint(run.folder, best.config.tree(), preprocess, best.merged_state(), adapter).save()
    write_model_card(checkpoint, figures=parts.module.figures(), training=_training(config, parts.task))
    remove_leftovers(run.folder)
    run.keep(*CHECKPOINT_FILES)
    return checkpoint


def assemble(config: FinetuneConfig, run: Run) -> Assembled:
    """All that a fine-tuning is made of, at the place where the run in the folder had got."""
    manifest = run.dataset(config.dataset).without_flags(config.skip_flags)
    if config.slices is not None:
        manifest = config.slices.single().of(manifest)
    pretrained = None if config.checkpoint is None else run.checkpoint(config.checkpoint)
    start = start_from(pretrained, config.backbone, config.preprocess, manifest)
    task = assign(manifest, start.preprocess, config.label)
    require_channels(task.train, start.preprocess, config.slices)
    require_fitting(
        start.backbone.ndim,
        sizes={"crop": config.crop},
        axes={"mirrored_axes": config.mirrored_axes, "augment.flipped_axes": config.augment.flipped_axes},
    )
    warn_of_ignored(task.kind, **config.set_for_classification)
    crop = config.crop or crop_size(task.train, start.preprocess, start.backbone.patch_size)
    model = Model(_describe(config, task, start.config, crop), start.backbone)
    resume_from = last_checkpoint(run.folder)
    train, val = (
        Samples(part, start.preprocess, label=config.label, classes=task.targets) for part in (task.train, task.val)
    )
    loader = rounds(
        config.loader,
        train,
        Augment(config.augment, crop, masks=task.kind == "segmentation"),
        collate,
        num_batches=config.trainer.round_batches,
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
        config.optim.for_batch(config.trainer.step_images(config.loader.batch_size)),
        num_steps=config.trainer.steps,
        seed=config.seed,
        folder=run.folder,
    )
    trainer = config.trainer.build(run.folder, run.tracker, config.optim.clip)
    return Assembled(start, task, module, loader, whole_images(val), trainer, resume_from)


def _describe(config: FinetuneConfig, task: Assignment, backbone: BackboneConfig, crop: tuple[int, ...]) -> ModelConfig:
    kind = "volume" if config.slices is not None else task.train.rows[0].kind
    default_head = {"name": "dense" if task.kind == "segmentation" else "linear"}
    return ModelConfig(
        kind=task.kind,
        backbone=backbone,
        peft=config.peft,
        head=config.head or default_head,
        classes=task.classes,
        label=config.label if task.kind == "classification" else "",
        roi=crop,
        overlap=config.overlap,
        mirrored_axes=config.mirrored_axes,
        applies_to=config.applies_to or AppliesTo(kind=kind, modality=task.modality),
        slices=config.slices,
    )


def _training(config: FinetuneConfig, task: Assignment) -> dict[str, str]:
    return {
        "images": f"{len(task.train)} to learn from, {len(task.val)} to choose the best round",
        "start": "a pretrained checkpoint"
        if config.checkpoint
        else (getattr(config.backbone, "weights", None) or "scratch"),
        "steps": f"{config.trainer.steps} of {config.loader.batch_size} images",
        "learning rate": f"{config.optim.lr:g}",
        "seed": str(config.seed),
    }
