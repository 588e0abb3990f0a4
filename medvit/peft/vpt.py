"""Visual prompt tuning: trained tokens beside the patches of a frozen backbone, shallow or deep."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from medvit.backbones import Backbone, BackboneConfig
from medvit.backbones.vit import ViT
from medvit.config import Count
from medvit.errors import CheckpointError, ConfigError
from medvit.peft import PeftConfig, Removable
from medvit.registry import register

log = logging.getLogger("medvit")


@register
class VptConfig(PeftConfig):
    """Train prompt tokens alone (Jia et al., ECCV 2022); from the first step, they change the output of the backbone.

    Shallow prompts become register tokens of the merged backbone. Deep ones remain prompts: the outputs of the prompts
    of a block are replaced by the prompts of the next block.
    """

    IS_IDENTITY: ClassVar[bool] = False
    NOT_IN_HUB: ClassVar[str] = (
        "no method of huggingface/peft adds prompts to a vision transformer; to_timm writes models with shallow prompts"
    )

    name: Literal["vpt"] = "vpt"
    num_prompts: Count = 5
    """Number of prompt tokens; with depth=deep, this many for each block. The paper selects 1 to 200 by validation."""
    depth: Literal["shallow", "deep"] = "deep"
    """Blocks that get prompts. shallow: only the first block. deep: every block, each with its own prompts."""

    def adapt(self, backbone: Backbone) -> Vpt:
        """Return the backbone with prompts and without drop path. Only the prompts are trainable.

        Raises:
            ConfigError: If the backbone is not a `vit`, or has prompts already.
        """
        vit = _vit(backbone)
        if vit.prompts is not None:
            raise ConfigError(
                "the backbone has prompts of an earlier peft=vpt; give peft=continue to train these, or another peft"
            )
        vit.add_prompts(self.num_prompts, num_blocks=1 if self.depth == "shallow" else vit.depth)
        return Vpt(vit, self)

    def go_on(self, backbone: Backbone, weights: Mapping[str, Tensor]) -> Vpt:
        """Return the backbone with the prompts of an earlier training run.

        Raises:
            CheckpointError: If the backbone has no such prompts.
        """
        vit = _vit(backbone)
        if self.depth == "shallow":
            merged = vit.reg_token
            if merged is None or merged.shape[1] < self.num_prompts:
                raise CheckpointError(
                    f"the backbone has fewer registers than the adapter has prompts ({self.num_prompts}); "
                    "adapter.safetensors and model.yaml belong to different checkpoints"
                )
            vit.set_registers(merged[:, : -self.num_prompts])
            vit.add_prompts(self.num_prompts, num_blocks=1)
        adapted = Vpt(vit, self)
        adapted.load(weights)
        return adapted


class Vpt(Removable):
    """Backbone with prompts (K, P, D), of the first block (K = 1) or of each block."""

    backbone: ViT

    def __init__(self, backbone: ViT, config: VptConfig) -> None:
        self.backbone, self._config = backbone, config
        backbone.requires_grad_(False)
        if backbone.prompts is not None:
            backbone.prompts.requires_grad_(True)
        _disable_drop_path(backbone)

    def described(self, config: BackboneConfig) -> BackboneConfig:
        """Return backbone options that include the prompts. Shallow prompts are counted as register tokens."""
        if self._config.depth == "deep":
            return config.model_copy(update={"deep_prompts": self._config.num_prompts})
        num_registers = self.backbone.num_prefix_tokens - (self.backbone.cls_token is not None)
        return config.model_copy(update={"registers": num_registers})

    def merge(self) -> ViT:
        """Return the backbone with its prompts, which become registers if they are shallow."""
        if self._config.depth == "shallow":
            before, prompts = self.backbone.reg_token, self.backbone.remove_prompts()
            self.backbone.set_registers(prompts if before is None else torch.cat([before, prompts], dim=1))
        return self.backbone

    def remove(self) -> ViT:
        """Return the backbone without prompts."""
        self.backbone.remove_prompts()
        return self.backbone


def _vit(backbone: Backbone) -> ViT:
    if not isinstance(backbone, ViT):
        raise ConfigError("peft=vpt needs backbone=vit; choose another peft, such as lora")
    return backbone


def _disable_drop_path(backbone: nn.Module) -> None:
    """Turn off stochastic depth: the frozen backbone runs as in evaluation, as published."""
    dropping: list[Any] = [module for module in backbone.modules() if getattr(module, "drop_prob", None)]
    for module in dropping:
        module.drop_prob = 0.0
    if dropping:
        log.warning("backbone.drop_path is ignored: with peft=vpt, the frozen backbone runs without it")
