"""Full fine-tuning: every weight of the backbone is trained (Yosinski et al., NeurIPS 2014). A baseline."""

from __future__ import annotations

from typing import Literal

from medvit.backbones import Backbone
from medvit.peft import PeftConfig, Unchanged
from medvit.registry import register


@register
class FullConfig(PeftConfig):
    """Train all weights of the backbone."""

    name: Literal["full"] = "full"

    def adapt(self, backbone: Backbone) -> Unchanged:
        """Return the backbone with every parameter trainable."""
        return Unchanged(backbone.requires_grad_(True))
