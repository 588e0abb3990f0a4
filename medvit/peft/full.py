"""Full fine-tuning: every weight of the backbone is trained. A baseline."""

from __future__ import annotations

from typing import Literal

from medvit.backbones import Backbone
from medvit.peft import Peft, PeftConfig
from medvit.registry import register


@register
class FullConfig(PeftConfig):
    """Trains all weights of the backbone."""

    name: Literal["full"] = "full"

    def adapt(self, backbone: Backbone) -> Unchanged:
        """The backbone with every parameter trainable."""
        return Unchanged(backbone.requires_grad_(True))


class Unchanged(Peft):
    """A backbone of unchanged structure, so merging gives itself."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone

    def merge(self) -> Backbone:
        """The backbone itself."""
        return self.backbone
