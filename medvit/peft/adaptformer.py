"""AdaptFormer: a trained bottleneck beside the MLP of every block of a frozen backbone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from medvit.backbones import Backbone, BackboneConfig
from medvit.backbones.blocks import Bottleneck
from medvit.backbones.vit import ViT
from medvit.config import Count, Positive
from medvit.errors import CheckpointError, ConfigError
from medvit.peft import PeftConfig, Removable, require_known
from medvit.registry import register


@register
class AdaptformerConfig(PeftConfig):
    """Add scale * up(ReLU(down(x))) to the output of each MLP, with up = 0 at the start (Chen et al., NeurIPS 2022).

    A bottleneck is nonlinear and cannot be merged into the original weights, so it remains a separate part of the
    backbone.
    """

    NOT_IN_HUB: ClassVar[str] = (
        "neither huggingface/peft nor timm has bottlenecks beside the MLP; use medvit to load it"
    )

    name: Literal["adaptformer"] = "adaptformer"
    hidden: Count = 64
    """Width of the bottlenecks."""
    scale: Positive = 0.1
    """Factor of the outputs of the bottlenecks."""
    dropout: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Dropout rate of the hidden features of the bottlenecks during training."""

    def adapt(self, backbone: Backbone) -> Adaptformer:
        """Return the backbone with a bottleneck in each block. Only the bottlenecks are trainable.

        Raises:
            ConfigError: If the backbone is not a `vit`, or has bottlenecks already.
        """
        if not isinstance(backbone, ViT):
            raise ConfigError("peft=adaptformer needs backbone=vit; choose another peft, such as lora")
        if any(block.adapter is not None for block in backbone.blocks):
            raise ConfigError(
                "the backbone has bottlenecks of an earlier peft=adaptformer; give peft=continue to train these, or "
                "another peft"
            )
        backbone.add_adapters(self.hidden)
        return Adaptformer(backbone, self)

    def go_on(self, backbone: Backbone, weights: Mapping[str, Tensor]) -> Adaptformer:
        """Return the backbone with the bottlenecks of an earlier training run.

        Raises:
            CheckpointError: If the backbone has no such bottlenecks.
        """
        require_known(backbone, weights)
        if not isinstance(backbone, ViT) or any(block.adapter is None for block in backbone.blocks):
            raise CheckpointError(
                "the backbone has no bottlenecks; adapter.safetensors and model.yaml belong to different checkpoints"
            )
        adapted = Adaptformer(backbone, self)
        adapted.load(weights)
        return adapted


class Adaptformer(Removable):
    """Backbone with bottlenecks; merging multiplies their last layers by the scale."""

    backbone: ViT

    def __init__(self, backbone: ViT, config: AdaptformerConfig) -> None:
        self.backbone, self._hidden = backbone, config.hidden
        backbone.requires_grad_(False)
        for adapter in self._adapters():
            adapter.requires_grad_(True)
            adapter.scale, adapter.dropout.p = config.scale, config.dropout

    def described(self, config: BackboneConfig) -> BackboneConfig:
        """Return the options with the width of the bottlenecks."""
        return config.model_copy(update={"adapter_width": self._hidden})

    @torch.no_grad()
    def merge(self) -> ViT:
        """Return the backbone, with the scale multiplied into the weights of the bottlenecks."""
        for adapter in self._adapters():
            for weight in adapter.up.parameters():
                weight.mul_(adapter.scale)
            adapter.scale, adapter.dropout.p = 1.0, 0.0
        return self.backbone

    def remove(self) -> ViT:
        """Return the backbone without bottlenecks."""
        for block in self.backbone.blocks:
            block.adapter = None  # type: ignore[assignment]
        return self.backbone

    def _adapters(self) -> list[Bottleneck]:
        found = (block.adapter for block in self.backbone.blocks)
        return [adapter for adapter in found if isinstance(adapter, Bottleneck)]
