"""Partial fine-tuning: only the last blocks and the norm after them are trained."""

from __future__ import annotations

from typing import ClassVar, Literal

from medvit.backbones import Backbone
from medvit.config import Count
from medvit.errors import ConfigError
from medvit.peft import PeftConfig, Unchanged
from medvit.registry import register


@register
class LastBlocksConfig(PeftConfig):
    """Train the last blocks of the backbone and its final norm (He et al., CVPR 2022, partial fine-tuning)."""

    TRAINS_WHOLE_WEIGHTS: ClassVar[bool] = True

    name: Literal["last_blocks"] = "last_blocks"
    num_blocks: Count = 1
    """Number of blocks to train, at most the depth of the backbone. In the paper, one to four blocks give most of the
    gain.
    """

    def adapt(self, backbone: Backbone) -> Unchanged:
        """Return the backbone, in which only the last blocks and the final norm are trainable.

        Raises:
            ConfigError: If the backbone has fewer blocks.
        """
        if self.num_blocks > backbone.depth:
            raise ConfigError(
                f"peft.num_blocks is {self.num_blocks}; expected at most the backbone's {backbone.depth} blocks"
            )
        first = backbone.depth - self.num_blocks
        for name, weight in backbone.named_parameters():
            is_last = name.startswith("blocks.") and int(name.split(".")[1]) >= first
            weight.requires_grad_(is_last or name.startswith("norm."))
        return Unchanged(backbone)
