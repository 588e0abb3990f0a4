"""LoRA: low-rank updates of the linear layers of the blocks, through huggingface/peft."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from medvit.backbones import Backbone
from medvit.config import Count, Positive
from medvit.errors import ConfigError
from medvit.peft import Peft, PeftConfig, require_known
from medvit.registry import register


@register
class LoraConfig(PeftConfig):
    """Train W + (alpha / rank) B A with B = 0 at the start (Hu et al., ICLR 2022)."""

    name: Literal["lora"] = "lora"
    rank: Count = 8
    """Rank of the low-rank updates."""
    alpha: Positive = 16.0
    """Scale of the low-rank updates, which are multiplied by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout rate of the inputs of the low-rank updates during training."""
    targets: tuple[str, ...] = ("qkv", "proj", "fc1", "fc2")
    """Linear layers of each block that get a low-rank update. By default: the fused qkv, the projection and both layers
    of the MLP. A layer is given by the last part of its name, such as qkv for blocks.0.attn.qkv.
    """

    def adapt(self, backbone: Backbone) -> Lora:
        """Return the backbone with low-rank updates of every target layer in its blocks.

        Only the updates are trainable.

        Raises:
            ConfigError: If a target matches no linear layer of the blocks.
        """
        return self.adapt_blocks(backbone, range(backbone.depth))

    def go_on(self, backbone: Backbone, weights: Mapping[str, Tensor]) -> Lora:
        """Return the backbone with the low-rank updates of an earlier run, which are subtracted from merged weights."""
        adapted = self.adapt(backbone)
        adapted.take(weights)
        return adapted

    def adapt_blocks(self, backbone: Backbone, blocks: Iterable[int]) -> Lora:
        """Return the backbone with low-rank updates of every target layer in these blocks (counted from 0).

        Only the updates are trainable.

        Raises:
            ConfigError: If a target matches no linear layer of these blocks.
        """
        chosen = {f"blocks.{number}" for number in blocks}
        names = {
            name
            for name, module in backbone.named_modules()
            if ".".join(name.split(".")[:2]) in chosen
            and isinstance(module, nn.Linear)
            and name.rpartition(".")[2] in self.targets
        }
        absent = sorted(set(self.targets) - {name.rpartition(".")[2] for name in names})
        if absent:
            raise ConfigError(
                f"peft.targets contains {', '.join(absent)}, but no linear layer of the blocks has this name"
            )
        return Lora(backbone, self, sorted(names))


class Lora(Peft):
    """Backbone with low-rank updates."""

    def __init__(self, backbone: Backbone, config: LoraConfig, names: list[str]) -> None:
        from peft import LoraConfig as HubLoraConfig
        from peft import LoraModel

        settings = HubLoraConfig(
            r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=names, bias="none"
        )
        # LoraModel replaces the target layers inside `backbone`, which keeps its own type and methods.
        self._model = LoraModel(backbone, settings, "default")
        self.backbone = backbone

    def take(self, weights: Mapping[str, Tensor]) -> None:
        """Load low-rank updates that are already merged into the weights, and subtract them from the weights.

        Other `weights`, such as norms, become trainable as well. The output does not change, up to rounding.

        Raises:
            CheckpointError: If the adapted backbone has no such weights.
        """
        from peft.tuners.lora import LoraLayer

        require_known(self.backbone, weights)
        self.backbone.load_state_dict(dict(weights), strict=False)
        for layer in self.backbone.modules():
            if isinstance(layer, LoraLayer):
                base = layer.get_base_layer().weight
                base.data = (base.double() - layer.get_delta_weight("default").double()).to(base.dtype)
        for name, weight in self.backbone.named_parameters():
            weight.requires_grad_(name in weights)

    def merge(self) -> Backbone:
        """Return the plain backbone, with the updates added to its weights."""
        merged: Backbone = self._model.merge_and_unload()
        return merged
