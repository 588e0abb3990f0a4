"""Linear probe: the backbone is frozen and only the head is trained (Alain and Bengio 2016). A baseline."""

from __future__ import annotations

from typing import ClassVar, Literal

from medvit.backbones import Backbone
from medvit.peft import PeftConfig, Unchanged
from medvit.registry import register


@register
class FrozenConfig(PeftConfig):
    """Train no weight of the backbone."""

    NEEDS_BLOCKS: ClassVar[bool] = False
    NOT_IN_HUB: ClassVar[str] = "no weight of the backbone was trained; to_timm writes the model"

    name: Literal["frozen"] = "frozen"

    def adapt(self, backbone: Backbone) -> Unchanged:
        """Return the backbone without trainable parameters."""
        return Unchanged(backbone.requires_grad_(False))
