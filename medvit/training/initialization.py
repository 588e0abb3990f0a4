"""Initialization of training: from a pretrained checkpoint, public weights, or random weights."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from torch import Tensor

from medvit.artifacts import Checkpoint
from medvit.backbones import Backbone, BackboneChoice, BackboneConfig, Carried
from medvit.config import Config
from medvit.dataset.manifest import Manifest
from medvit.errors import DataError
from medvit.models.base import pretrained_backbone
from medvit.objectives import MASK_TOKEN
from medvit.peft import OptionalPeftChoice
from medvit.training.task import choose_preprocess, crop_size, require_fitting, typical_spacing
from medvit.transforms.preprocess import Preprocess
from medvit.weights import read_weights

log = logging.getLogger("medvit")


class _Description(Config):
    """The `model.yaml` of a pretrained backbone."""

    kind: str
    backbone: BackboneChoice
    peft: OptionalPeftChoice = None


@dataclass(frozen=True)
class InitialModel:
    """Backbone with its weights, its description, and the preprocessing it was trained with."""

    config: BackboneConfig
    backbone: Backbone
    preprocess: Preprocess
    is_trained: bool
    """Whether the weights come from a checkpoint or a file, rather than random initialization."""

    def warn_if_held(self, way: str, *, num_trained: int, num_weights: int) -> None:
        """Warn if randomly initialized weights are frozen by the fine-tuning method `way`.

        This is the case if the method trains only `num_trained` of `num_weights` weights.
        """
        if not self.is_trained and num_trained < num_weights:
            log.warning(
                "peft=%s freezes randomly initialized weights; give checkpoint or backbone.weights, or peft=full",
                way,
            )


def start_from(
    checkpoint: Checkpoint | None,
    config: BackboneConfig,
    preprocess: Preprocess | None,
    manifest: Manifest,
    crop: tuple[int, ...] | None = None,
) -> InitialModel:
    """Return the initial backbone and preprocessing, from the checkpoint if there is one, else from the config.

    A given `preprocess` replaces the preprocessing of the checkpoint.

    With a checkpoint, most options of `config` are ignored with a warning. Only options that affect nothing but
    training, such as drop path, are used. Without a checkpoint, the dimensionality (2D or 3D) and channels of the
    backbone follow the dataset, as does the preprocessing if `preprocess` is unset. A network that follows
    the crop, such as DynUNet, is planned for `crop`, or for the default crop.

    Raises:
        CheckpointError: If the checkpoint is not of a backbone, or its weights do not fit its description.
        ConfigError: If the backbone does not support the data or the crop.
    """
    if checkpoint is None:
        chosen = preprocess or choose_preprocess(manifest)
        fitted = config.fitted(
            ndim=2 if chosen.kind == "image" else 3, channels=chosen.channels, channel_names=chosen.channel_names
        )
        if fitted.FOLLOWS_CROP:
            fitted = _planned(fitted, chosen, manifest, crop)
        backbone = fitted.build()
        if backbone.fit is None:
            return InitialModel(fitted, backbone, chosen, is_trained=False)
        log.info("%s", backbone.fit)
        return InitialModel(fitted.as_loaded(backbone.fit), backbone, chosen, is_trained=True)
    described, backbone = backbone_of(checkpoint, config)
    backbone.carried = _carried(checkpoint)
    backbone.mask_token = _mask_token(checkpoint)
    warn_of_ignored(config, described)
    return InitialModel(
        described,
        backbone,
        preprocess or Preprocess.parse_saved(checkpoint.preprocess, source=str(checkpoint.folder)),
        is_trained=True,
    )


def _planned(
    config: BackboneConfig, preprocess: Preprocess, manifest: Manifest, crop: tuple[int, ...] | None
) -> BackboneConfig:
    ndim = config.ndim or 3
    require_fitting(ndim, sizes={"crop": crop}, axes={})
    training = manifest.filter(lambda row: row.kind == preprocess.kind and row.split == "train")
    if not len(training):
        raise DataError(f"{manifest.folder} has no training image of the kind {preprocess.kind}")
    size = crop or crop_size(training, preprocess, (1,) * ndim)
    return config.planned(size, typical_spacing(training, preprocess))


def backbone_of(checkpoint: Checkpoint, training: BackboneConfig | None = None) -> tuple[BackboneConfig, Backbone]:
    """Return the description and the backbone of a pretrained checkpoint, with its weights.

    Of the options in `training`, only those that affect nothing but training are used, such as drop path.

    Raises:
        CheckpointError: If the checkpoint is not of a backbone, or its weights do not fit its description.
    """
    checkpoint.require("backbone")
    described = _Description.parse_saved(checkpoint.model, source=str(checkpoint.folder)).backbone
    if training is not None:
        described = described.in_training_as(training)
    return described, pretrained_backbone(checkpoint, described)


def _mask_token(checkpoint: Checkpoint) -> Tensor | None:
    path = checkpoint.folder / MASK_TOKEN
    return read_weights(path)["mask_token"].flatten() if path.is_file() else None


def _carried(checkpoint: Checkpoint) -> Carried | None:
    adapter, way = checkpoint.stored_adapter(), checkpoint.model.get("peft")
    return Carried(way, adapter) if adapter and way else None


def warn_of_ignored(config: BackboneConfig, described: BackboneConfig) -> None:
    """Warn about backbone options that are ignored because the checkpoint has other values."""
    for key, field in type(config).model_fields.items():
        value = getattr(config, key)
        if value not in (field.default, getattr(described, key, None)):
            log.warning("backbone.%s=%s is ignored: the backbone is that of the checkpoint", key, value)
