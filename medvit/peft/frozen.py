"""The linear probe: the backbone is frozen and only the head is trained. A baseline."""

from __future__ import annotations

from typing import Literal

from medvit.backbones import Backbone
from medvit.peft import Peft, PeftConfig
from medvit.registry import register


@register
class FrozenConfig(PeftConfig):
    """Trains no weight of the backbone."""

    name: Literal["frozen"] = "frozen"

    def adapt(self, backbone: Backbone) -> Frozen:
        """The backbone with no parameter trainable."""
        return Frozen(backbone.requires_grad_(False))


class Frozen(Peft):
    """A backbone that does not change, so merging gives itself."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone

    def merge(self) -> Backbone:
        """The backbone itself."""
        return self.backbone
