"""Continued training of an adapter: fine-tuning trains exactly the weights that pretraining trained."""

from __future__ import annotations

from typing import Literal

from medvit.backbones import Backbone, Carried
from medvit.errors import ConfigError
from medvit.peft import Peft, PeftConfig
from medvit.registry import find, register


@register
class ContinueConfig(PeftConfig):
    """Continued training of the weights in `adapter.safetensors` of the checkpoint (after Khanna et al., ICML 2025).

    Low-rank factors continue from their pretrained values, with the same rank and scale; fully trained blocks and norms
    remain fully trainable. The new adapter is relative to the initial weights of pretraining and contains the changes
    of pretraining and fine-tuning: one file per task is enough in addition to one public model.
    """

    name: Literal["continue"] = "continue"

    def adapt(self, backbone: Backbone) -> Peft:
        """Return the backbone with the adapter of pretraining.

        Its output equals that of the merged backbone, up to rounding.

        Raises:
            ConfigError: If the backbone does not have an adapter.
            CheckpointError: If the adapter does not match the backbone.
        """
        way, weights = self.recorded(backbone), _carried(backbone).weights
        backbone.carried = None
        return way.go_on(backbone, weights)

    def recorded(self, backbone: Backbone) -> PeftConfig:
        """Return the method by which pretraining adapted the backbone.

        Raises:
            ConfigError: If the backbone does not have an adapter.
        """
        way = _carried(backbone).way
        chosen = find("medvit.peft", way["name"]).parse_saved(way, source="model.yaml")
        assert isinstance(chosen, PeftConfig)
        return chosen


def _carried(backbone: Backbone) -> Carried:
    if backbone.carried is None:
        raise ConfigError(
            "peft=continue requires a pretrained checkpoint with a separate adapter, as explora and lora write; "
            "found none: choose another peft, or give checkpoint=FOLDER with an adapter.safetensors in it"
        )
    return backbone.carried
