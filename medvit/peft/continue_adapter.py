"""Going on with an adapter: fine-tuning trains what pretraining had trained, and nothing else of the backbone."""

from __future__ import annotations

from typing import Literal

from medvit.backbones import Backbone, Carried
from medvit.errors import ConfigError
from medvit.peft import Peft, PeftConfig
from medvit.registry import find, register


@register
class ContinueConfig(PeftConfig):
    """Continued training of the weights in `adapter.safetensors` of the checkpoint (after Khanna et al., ICML 2025).

    Low-rank factors continue from where pretraining left them, with its rank and scale, beside the weights without
    them; blocks and norms that it trained whole continue whole. So the new adapter, put on the weights that pretraining
    started from, is the whole of both trainings: one file a task beside one public model.
    """

    name: Literal["continue"] = "continue"

    def adapt(self, backbone: Backbone) -> Peft:
        """Return the backbone as pretraining had adapted it; the output is that of the merged one, but for rounding.

        Raises:
            ConfigError: If the backbone carries no adapter.
            CheckpointError: If the adapter does not fit it.
        """
        way, weights = self.recorded(backbone), _carried(backbone).weights
        backbone.carried = None
        return way.go_on(backbone, weights)

    def recorded(self, backbone: Backbone) -> PeftConfig:
        """Return the way in which pretraining had adapted the backbone.

        Raises:
            ConfigError: If the backbone carries no adapter.
        """
        way = _carried(backbone).way
        chosen = find("medvit.peft", way["name"]).parse_saved(way, source="model.yaml")
        assert isinstance(chosen, PeftConfig)
        return chosen


def _carried(backbone: Backbone) -> Carried:
    if backbone.carried is None:
        raise ConfigError(
            "peft=continue needs a checkpoint of a pretraining that kept an adapter apart, as explora and lora do; "
            "found none: choose another peft, or give checkpoint=FOLDER with an adapter.safetensors in it"
        )
    return backbone.carried
