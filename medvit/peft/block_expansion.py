"""Block expansion: new blocks among the old ones, which say nothing at first, and only they are trained."""

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
"""The last layers of the two halves of a block. With both at zero, a block adds nothing to what passes it."""


@register
class BlockExpansionConfig(PeftConfig):
    """After every group of blocks, a copy of its last one with zeroed outputs (Bafghi et al., CVPR workshops 2024).

    The old weights stay as they are, so what they knew of their own domain is kept; the model grows by these blocks.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {"added": "num_blocks"}

    name: Literal["block_expansion"] = "block_expansion"
    num_blocks: Count = 3
    """New blocks; the old ones are shared out in as many groups of equal size."""

    def adapt(self, backbone: Backbone) -> Expanded:
        """Return the backbone with its new blocks, which alone are trainable.

        Raises:
            ConfigError: If the blocks cannot be shared out equally.
        """
        if backbone.depth % self.num_blocks:
            raise ConfigError(
                f"peft.num_blocks is {self.num_blocks}; expected a divisor of the backbone's {backbone.depth} blocks"
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
    """A backbone that has grown; merging gives itself, with more blocks than its options said."""

    def described(self, config: BackboneConfig) -> BackboneConfig:
        """Return the same options with the depth of now."""
        return config.model_copy(update={"depth": self.backbone.depth})


def _silent(block: nn.Module) -> nn.Module:
    """Return a trainable copy whose outputs are zero; their scales are copied, so that gradients reach the weights."""
    copied = copy.deepcopy(block).requires_grad_(True)
    for name in OUTPUTS:
        layer = copied.get_submodule(name)
        for weight in layer.parameters():
            nn.init.zeros_(weight)
    return copied
