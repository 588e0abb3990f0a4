"""Self-supervised objectives, which compute losses from views of unlabeled images.

An objective declares the views it requires, returns `Losses`, and owns the backbone that is saved after training. The
training progress in [0, 1] is an argument, so objectives can be tested without a trainer. To add an objective, add a
file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from medvit.backbones import Backbone
from medvit.channels import mark_missing, present_channels
from medvit.config import Config
from medvit.registry import Chosen
from medvit.transforms.views import ViewsConfig
from medvit.types import Losses, RunLength, Views

MASK_TOKEN = "mask_token.safetensors"
"""Checkpoint file with the mask token, for objectives that mask patches inside the encoder."""


@dataclass(frozen=True)
class Twin:
    """Second backbone, for images of the other dimensionality (2D or 3D), with options for its crops.

    It shares its blocks with the first backbone.
    """

    backbone: Backbone
    views: ViewsConfig


class Objective(nn.Module, ABC):
    """Pretraining objective of a backbone, without labels."""

    backbone: Backbone
    """Backbone to save after training."""
    views: ViewsConfig
    """Crops that the objective requires."""
    judged_by: Literal["neighbors", "reconstruction"] = "neighbors"
    """Measure by which the guard evaluates the backbone after each epoch. neighbors: nearest-neighbor classification by
    class tokens. reconstruction: a linear probe and the reconstruction error, for objectives without a loss on class
    tokens, such as MAE.
    """
    twin: Twin | None = None
    """Backbone and crops for images of the other dimensionality (2D or 3D), if a run trains on both in alternating
    batches.
    """

    @abstractmethod
    def forward(self, views: Views, progress: float) -> Losses:
        """Return the losses of a batch of views at a training progress in [0, 1]."""

    def received(self, views: Views) -> Views:
        """Return the views that the loss is computed from.

        Channels that an image lacks are filled, unless the backbone has a token for each channel. They then remain
        missing, and in training, other channels are hidden too, the same in all views of an image.
        """
        backbone = self.trained
        if not (backbone.channel_names or backbone.has_channel_tokens):
            return views
        every: list[Tensor | None] = [views.crops, views.local, views.fine]
        change: Callable[[Tensor], Tensor] = backbone.filled
        if backbone.has_channel_tokens:
            change = partial(mark_missing, present=present_channels(backbone.sampled(views.crops[0])))
        crops, local, fine = (None if some is None else torch.stack([change(each) for each in some]) for some in every)
        assert crops is not None
        return replace(views, crops=crops, local=local, fine=fine)

    def before_step(self, progress: float) -> None:
        """Act before an optimizer step, for example drop gradients of frozen weights; by default, do nothing."""

    def after_step(self, progress: float) -> None:
        """Act after an optimizer step at a given progress, for example update a teacher; by default, do nothing."""

    @property
    def trained(self) -> Backbone:
        """Backbone that gradients update.

        It is also the backbone to save, unless the objective has a teacher that is saved instead.
        """
        return self.backbone

    def parts(self) -> Sequence[Sequence[nn.Parameter]]:
        """Return groups of parameters; gradients are clipped separately in each group, by the norm of the group.

        By default, there is only one group.
        """
        return (list(self.parameters()),)

    def readings(self) -> Mapping[str, Tensor]:
        """Return values to log for the last forward pass, in addition to losses; empty by default."""
        return {}

    def kept(self) -> Mapping[str, Mapping[str, Tensor]]:
        """Return weights to store next to the backbone for continued training, keyed by file name; empty by default."""
        return {}

    def pictures(self, views: Views) -> dict[str, Figure]:
        """Return figures for checking the training, keyed by name; empty by default."""
        return {}


class ObjectiveConfig(Config, ABC):
    """Options of an objective."""

    name: str

    OPTIM: ClassVar[Mapping[str, object]] = {}
    """Optimizer options (`optim.*`) for pretraining from scratch, where they differ from the defaults of fine-tuning.
    """
    TRAINS_PATCHES: ClassVar[bool] = True
    """Whether the loss is on single patches, which must have a fixed size."""
    TAKES_CHANNEL_TOKENS: ClassVar[bool] = False
    """Whether the objective supports a backbone with a token for each channel of a patch."""
    HAS_TEACHER: ClassVar[bool] = False
    """Whether the objective belongs to the DINO family: a student is trained on the outputs of a teacher."""

    @property
    def has_new_head(self) -> bool:
        """Whether a head or decoder is initialized at random, even if the backbone has pretrained weights."""
        return True

    def continued(self, folder: Path) -> Self:
        """Return the options for continued training from a checkpoint folder.

        The folder may store weights of the objective, such as its head; they are then used as initial weights.
        """
        return self

    def fitted(self, length: RunLength) -> Self:
        """Return a copy in which unset options that depend on the length of the run have values."""
        return self

    @abstractmethod
    def build(self, backbone: Backbone) -> Objective:
        """Return the objective for a backbone."""


ObjectiveChoice = Annotated[ObjectiveConfig, Chosen("medvit.objectives", default="mae")]
OptionalObjectiveChoice = Annotated[ObjectiveConfig | None, Chosen("medvit.objectives", default="mae", optional=True)]
