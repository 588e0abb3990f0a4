"""Self-supervised objectives: from views of unlabeled images to losses.

An objective requests views, returns `Losses`, and keeps the backbone to pass on. Progress in [0, 1] is passed
in, so that it is tested without a trainer. Adding one is adding a file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from matplotlib.figure import Figure
from torch import Tensor, nn

from medvit.backbones import Backbone
from medvit.config import Config
from medvit.registry import Chosen
from medvit.transforms.views import ViewsConfig
from medvit.types import Losses, Views

MASK_TOKEN = "mask_token.safetensors"
"""File in a checkpoint that holds the mask token, for objectives that mask patches inside the encoder."""


@dataclass(frozen=True)
class Twin:
    """Backbone of the other rank that shares the blocks of the main one, and its crops."""

    backbone: Backbone
    views: ViewsConfig


class Objective(nn.Module, ABC):
    """Pretraining objective of a backbone, without labels."""

    backbone: Backbone
    """Backbone to pass on."""
    views: ViewsConfig
    """Crops that it requires."""
    judged_by: Literal["neighbors", "reconstruction"] = "neighbors"
    """Probe of the guard: nearest neighbors of class tokens, or, if that token has no loss and neighbors are
    uninformative, as in MAE, a linear probe and the loss on pixels of the probe.
    """
    twin: Twin | None = None
    """Backbone and crops for images of the other rank in the same run, in alternating batches. Unset by default."""

    @abstractmethod
    def forward(self, views: Views, progress: float) -> Losses:
        """Return the losses of a batch of views, at a share `progress` of the training."""

    def before_step(self, progress: float) -> None:
        """Run before an optimizer step, as to drop gradients of frozen weights; does nothing by default."""

    def after_step(self, progress: float) -> None:
        """Run after an optimizer step made at a share `progress`, as to move a teacher; does nothing by default."""

    @property
    def trained(self) -> Backbone:
        """Backbone that gradients update: the one to pass on, unless that is a teacher's."""
        return self.backbone

    def parts(self) -> Sequence[Sequence[nn.Parameter]]:
        """Return weights by module, each of which has its gradient clipped by its own norm; all together by default."""
        return (list(self.parameters()),)

    def readings(self) -> Mapping[str, Tensor]:
        """Return readings of the last forward pass beside losses; empty by default."""
        return {}

    def kept(self) -> Mapping[str, Mapping[str, Tensor]]:
        """Return weights stored beside the backbone for continued training, by file name; empty by default."""
        return {}

    def pictures(self, views: Views) -> dict[str, Figure]:
        """Return pictures for checking the training, by name; empty by default."""
        return {}


class ObjectiveConfig(Config, ABC):
    """Options of an objective."""

    name: str

    OPTIM: ClassVar[Mapping[str, object]] = {}
    """Optimizer options (`optim.*`) for training from scratch, if other than those of fine-tuning."""

    @property
    def has_new_head(self) -> bool:
        """Whether a head or decoder starts at random, whatever the backbone starts from."""
        return True

    def continued(self, folder: Path) -> Self:
        """Return the same objective, with the weights that a checkpoint folder stores for it beside the backbone."""
        return self

    @abstractmethod
    def build(self, backbone: Backbone) -> Objective:
        """Return the objective around a backbone."""


ObjectiveChoice = Annotated[ObjectiveConfig, Chosen("medvit.objectives", default="mae")]
