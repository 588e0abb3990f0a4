"""Fine-tuning methods: LoRA, ExPLoRA, block expansion, full and frozen backbones.

`adapt` prepares a backbone in place and says what is trained; at initialization its output is unchanged. `merge` gives
back a plain backbone with the change folded in. Adding a way is adding a file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import Annotated

from torch import Tensor

from medvit.backbones import Backbone, BackboneConfig
from medvit.config import Config
from medvit.errors import CheckpointError
from medvit.registry import Chosen


class Peft(ABC):
    """A way of adapting, applied to one backbone."""

    backbone: Backbone
    """The adapted backbone: what training runs."""

    @abstractmethod
    def merge(self) -> Backbone:
        """Return the plain backbone with all changes folded in, for inference; the adapted one is used up."""

    def described(self, config: BackboneConfig) -> BackboneConfig:
        """Options that build the merged backbone, from those of the one that was adapted: the same, unless it grew."""
        return config

    def trained(self) -> frozenset[str]:
        """Names of the weights of the adapted backbone that training may change, before anyone freezes them."""
        return frozenset(name for name, weight in self.backbone.named_parameters() if weight.requires_grad)

    def state_of(self, names: Collection[str]) -> dict[str, Tensor]:
        """Copy of weights of the adapted backbone by name, to be kept when it is used up."""
        return {name: weight.clone() for name, weight in self.backbone.state_dict().items() if name in names}


class Unchanged(Peft):
    """A backbone of unchanged structure, so merging gives itself."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone

    def merge(self) -> Backbone:
        """Return the backbone itself."""
        return self.backbone


class PeftConfig(Config, ABC):
    """Options of a way of adapting."""

    name: str

    @abstractmethod
    def adapt(self, backbone: Backbone) -> Peft:
        """Prepare a backbone in place; its trainable parameters are those that require a gradient afterwards."""

    def go_on(self, backbone: Backbone, weights: Mapping[str, Tensor]) -> Peft:
        """Prepare a backbone with the merged weights of an earlier training in this way to train the same weights on.

        `weights` are those that it trained, by name. The output of the backbone stays as it is.

        Raises:
            CheckpointError: If the backbone has no such weights.
        """
        require_known(backbone, weights)
        for name, weight in backbone.named_parameters():
            weight.requires_grad_(name in weights)
        return Unchanged(backbone)

    def recorded(self, backbone: Backbone) -> PeftConfig:
        """Return what model.yaml records for weights adapted in this way: itself, or the way that it continues.

        Asked before `adapt`, which may use up what the backbone carries.
        """
        return self


def require_known(backbone: Backbone, weights: Mapping[str, Tensor]) -> None:
    """Check that an adapted backbone has these weights.

    Raises:
        CheckpointError: If it lacks one or has it in another shape.
    """
    own = backbone.state_dict()
    wrong = sorted(name for name, weight in weights.items() if name not in own or own[name].shape != weight.shape)
    if wrong:
        raise CheckpointError(
            f"{len(wrong)} of {len(weights)} weights of the adapter do not fit the backbone, first {wrong[0]}; "
            "adapter.safetensors and model.yaml are of two checkpoints"
        )


PeftChoice = Annotated[PeftConfig, Chosen("medvit.peft", default="lora")]
OptionalLoraChoice = Annotated[PeftConfig | None, Chosen("medvit.peft", default="lora", optional=True)]
OptionalPeftChoice = Annotated[PeftConfig | None, Chosen("medvit.peft", default="explora", optional=True)]
