"""Initial weights of the arms of a curve: one backbone and preprocessing for all, with random or trained weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medvit.artifacts import MODEL, Checkpoint
from medvit.backbones import BackboneConfig
from medvit.config import Tree
from medvit.curves.options import CurveOptions
from medvit.curves.runs import DYNUNET, EQUAL_STEPS
from medvit.dataset.manifest import Manifest
from medvit.errors import ConfigError, DataError
from medvit.leakage.seen_patients import seen_patients, training_patients
from medvit.records import Split
from medvit.training.initialization import backbone_of, warn_of_ignored
from medvit.transforms.preprocess import Preprocess

log = logging.getLogger("medvit")


@dataclass(frozen=True)
class SharedModel:
    """Backbone (without weights) and preprocessing that all arms (choices of initial weights) share."""

    backbone: BackboneConfig
    pretraining: Preprocess
    """Preprocessing in the pretrainings of the curve."""
    finetuning: Preprocess
    """Preprocessing in fine-tuning, the same for all arms."""

    @classmethod
    def of(cls, options: CurveOptions, images: Manifest, saved: Sequence[Checkpoint]) -> SharedModel:
        """Return the model of a curve: that of the checkpoints `saved` if there are any, else that of the YAML files.

        `images` are the training images, from which unset options of the preprocessing are chosen.

        Raises:
            ConfigError: If the checkpoints, or the YAML files, differ in the backbone or the preprocessing.
        """
        if saved:
            return cls._of_checkpoints(options, images, saved)
        slices = options.objective.slices or (options.task.slices and options.task.slices.single())
        pretraining = options.objective.preprocess_for(images if slices is None else slices.of(images), None)
        finetuning = options.task.preprocess_over(pretraining)
        ndim = 2 if pretraining.kind == "image" else 3
        backbone = _backbone_of_files(options).fitted(ndim=ndim, channels=pretraining.channels)
        return cls(backbone, pretraining, finetuning)

    @classmethod
    def _of_checkpoints(cls, options: CurveOptions, images: Manifest, saved: Sequence[Checkpoint]) -> SharedModel:
        backbone, preprocess = _described(saved[0])
        for other in saved[1:]:
            found, found_preprocess = _described(other)
            if (found.in_training_as(backbone), found_preprocess) != (backbone, preprocess):
                raise ConfigError(
                    f"{other.folder} has another backbone or preprocessing than {saved[0].folder}; all arms must have "
                    "the same: give checkpoints with equal model.yaml and preprocess.json"
                )
        warn_of_ignored(options.task.backbone, backbone)
        warn_of_ignored(options.objective.backbone, backbone)
        pretraining, finetuning = (
            training.preprocess_for(images, saved[0]) for training in (options.objective, options.task)
        )
        return cls(backbone, pretraining, finetuning)

    def for_pretraining(self, options: CurveOptions) -> Tree:
        """Return the options of this model in pretraining."""
        backbone = self.backbone.in_training_as(options.objective.backbone)
        return {"backbone": backbone.tree(), "preprocess": self.pretraining.tree()}

    def for_finetuning(self, options: CurveOptions) -> Tree:
        """Return the options of this model in fine-tuning."""
        backbone = self.backbone.in_training_as(options.task.backbone)
        return {"checkpoint": None, "backbone": backbone.tree(), "preprocess": self.finetuning.tree()}


def initial_weights(
    options: CurveOptions, model: SharedModel, pretrained: Mapping[str, Sequence[Path]]
) -> dict[str, tuple[Tree, ...]]:
    """Return the fine-tuning options that set backbone, preprocessing and initial weights, keyed by arm.

    An arm is a choice of initial weights. If it has several pretrained checkpoints, it has one set of options per
    checkpoint. The arms differ in nothing else.
    """
    shared = model.for_finetuning(options)
    starts = {
        "scratch": (shared,),
        EQUAL_STEPS: (shared,),
        DYNUNET: ({**shared, "backbone": {"name": DYNUNET}, "head": {"name": "own"}},),
        "given": (with_weights(shared, options.given_weights),),
    }
    return starts | {
        arm: tuple({**shared, "checkpoint": str(folder)} for folder in folders) for arm, folders in pretrained.items()
    }


def with_weights(tree: Tree, given: Tree) -> Tree:
    """Return training options that start from the given weights: a checkpoint, or public weights of the backbone."""
    return {**tree, **given} if "checkpoint" in given else {**tree, "backbone": {**tree["backbone"], **given}}


def source_of_weights(options: CurveOptions) -> Path | None:
    """Return the checkpoint folder of the given weights, which may record their training patients; None if unknown."""
    if options.task.checkpoint is not None:
        return options.task.checkpoint
    folder = None if options.public_weights is None else Path(options.public_weights).parent
    return folder if folder is not None and (folder / MODEL).is_file() else None


def require_unseen(folder: Path, manifest: Manifest, split: Split) -> None:
    """Check that the checkpoint in `folder` was not trained on any patient of the test split `split`.

    If the checkpoint does not record its training patients, a warning is logged.

    Raises:
        DataError: If it was trained on a test patient.
    """
    seen = seen_patients(folder, manifest.split(split))
    if seen:
        raise DataError(
            f"{folder} was trained on {len(seen)} of the patients in the split {split}; give weights that were "
            "trained on other patients"
        )
    if not training_patients(folder):
        log.warning("%s does not record its training patients; test patients may be among them", folder)


def _described(checkpoint: Checkpoint) -> tuple[BackboneConfig, Preprocess]:
    """Return the backbone of a checkpoint, without weights, and its preprocessing."""
    described = backbone_of(checkpoint)[0].without_weights()
    return described, Preprocess.parse_saved(checkpoint.preprocess, source=str(checkpoint.folder))


def _backbone_of_files(options: CurveOptions) -> BackboneConfig:
    """Return the backbone that the files of fine-tuning and pretraining name, without weights.

    Raises:
        ConfigError: If the two files name different backbones.
    """
    given = [("backbone" in options.finetuning, options.task), ("backbone" in options.pretraining, options.objective)]
    named = [one.backbone.without_weights() for is_named, one in given if is_named] or [options.task.backbone]
    if named[0].in_training_as(named[-1]) != named[-1]:
        raise ConfigError(
            f"{options.finetune} and {options.pretrain} name different backbones; all arms must have the same: name it "
            "in one of the files"
        )
    return named[0]
