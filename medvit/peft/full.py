"""Full fine-tuning: every weight of the backbone is trained (Yosinski et al., NeurIPS 2014). A baseline."""

from __future__ import annotations

from typing import ClassVar, Literal

from medvit.backbones import Backbone
from medvit.peft import PeftConfig, Unchanged
from medvit.registry import register


@register
class FullConfig(PeftConfig):
    """Train all weights of the backbone."""

    TRAINS_WHOLE_WEIGHTS: ClassVar[bool] = True
    NEEDS_BLOCKS: ClassVar[bool] = False
    NOT_IN_HUB: ClassVar[str] = (
        "all weights were trained, so a separate adapter does not exist; to_timm writes the model"
    )

    name: Literal["full"] = "full"

    def adapt(self, backbone: Backbone) -> Unchanged:
        """Return the backbone with every parameter trainable."""
        return Unchanged(backbone.requires_grad_(True))
