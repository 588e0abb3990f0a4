"""BitFit: only the biases of the backbone are trained."""

from __future__ import annotations

from typing import ClassVar, Literal

from medvit.backbones import Backbone
from medvit.errors import ConfigError
from medvit.peft import PeftConfig, Unchanged
from medvit.registry import register


@register
class BitfitConfig(PeftConfig):
    """Train every bias of the backbone, those of norms and of the patch embedding too (Ben-Zaken et al., ACL 2022)."""

    NEEDS_BLOCKS: ClassVar[bool] = False

    name: Literal["bitfit"] = "bitfit"

    def adapt(self, backbone: Backbone) -> Unchanged:
        """Return the backbone, in which only the biases are trainable.

        Raises:
            ConfigError: If the backbone has no biases.
        """
        for name, weight in backbone.named_parameters():
            weight.requires_grad_(_is_bias(name))
        if not any(weight.requires_grad for weight in backbone.parameters()):
            raise ConfigError("peft=bitfit trains biases, but the backbone has none; choose another peft, such as lora")
        return Unchanged(backbone)


def _is_bias(name: str) -> bool:
    """Return whether a weight is a bias; rotary attention has `q_bias` and `v_bias`."""
    last = name.rpartition(".")[2]
    return last == "bias" or last.endswith("_bias")
