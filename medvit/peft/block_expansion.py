"""Block expansion: new blocks between the old ones, which initially have no effect and are the only ones trained."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import nn

from medvit.backbones import Backbone, BackboneConfig
from medvit.config import Count
from medvit.errors import ConfigError
from medvit.peft import PeftConfig, Unchanged
from medvit.registry import register

OUTPUTS = ("attn.proj", "mlp.fc2")
"""Last layers of the two halves of a block. If the weights of both are zero, the block is the identity."""


@register
class BlockExpansionConfig(PeftConfig):
    """Divide the blocks into groups, and add to each a copy of its last block (Bafghi et al., CVPR workshops 2024).

    The outputs of the copies are zero at the start. The old weights do not change, so performance on their original
    domain is preserved; the model grows by the new blocks.
    """

    TRAINS_WHOLE_WEIGHTS: ClassVar[bool] = True
    NOT_IN_HUB: ClassVar[str] = "blocks were added, which no method of huggingface/peft does; to_timm writes the model"
    RENAMED: ClassVar[Mapping[str, str]] = {"added": "num_blocks"}

    name: Literal["block_expansion"] = "block_expansion"
    num_blocks: Count = 3
    """Number of blocks to add. The existing blocks are divided into as many groups of equal size, and one block is
    added after each group.
    """

    def adapt(self, backbone: Backbone) -> Expanded:
        """Return the backbone with new blocks. Only the new blocks are trainable.

        Raises:
            ConfigError: If the blocks cannot be divided into equal groups, or have prompts of their own.
        """
        if backbone.depth % self.num_blocks:
            raise ConfigError(
                f"peft.num_blocks is {self.num_blocks}; expected a divisor of the backbone's {backbone.depth} blocks"
            )
        if getattr(backbone, "prompts", None) is not None:
            raise ConfigError(
                "peft=block_expansion cannot add blocks to a backbone with prompts of each block; choose lora"
            )
        backbone.requires_grad_(False)
        group = backbone.depth // self.num_blocks
        blocks: Any = backbone.blocks
        grown: list[nn.Module] = []
        for number, block in enumerate(blocks, start=1):
            grown.append(block)
            if number % group == 0:
                grown.append(_silent(block))
        backbone.blocks = nn.ModuleList(grown)
        backbone.depth = len(grown)
        return Expanded(backbone)


class Expanded(Unchanged):
    """Backbone with added blocks; merging returns the backbone itself, with its increased depth."""

    def described(self, config: BackboneConfig) -> BackboneConfig:
        """Return the options with the increased depth."""
        return config.model_copy(update={"depth": self.backbone.depth})


def _silent(block: nn.Module) -> nn.Module:
    """Return a trainable copy of a block; the outputs of the copy are initially zero.

    Layer scales are copied, so that gradients reach the weights.
    """
    copied = copy.deepcopy(block).requires_grad_(True)
    for name in OUTPUTS:
        layer = copied.get_submodule(name)
        for weight in layer.parameters():
            nn.init.zeros_(weight)
    if getattr(copied, "adapter", None) is not None:  # a bottleneck of earlier fine-tuning
        for weight in copied.get_submodule("adapter.up").parameters():
            nn.init.zeros_(weight)
    return copied
