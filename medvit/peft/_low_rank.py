"""Options that LoRA and its variants share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import Field

from medvit.config import Count, Positive
from medvit.peft._hub import HubConfig


class LowRankConfig(HubConfig):
    """Options of low-rank updates W + s B A of linear layers, with B = 0 at the start."""

    VARIANT: ClassVar[dict[str, bool]] = {}
    """Settings of huggingface/peft that select a variant of LoRA."""

    rank: Count = 8
    """Rank of the low-rank updates."""
    alpha: Positive = 16.0
    """Scale of the low-rank updates, which are multiplied by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout rate of the inputs of the low-rank updates during training."""
    targets: tuple[str, ...] = ("qkv", "proj", "fc1", "fc2")
    """Linear layers of each block that get a low-rank update: the fused qkv, the projection and both layers of the MLP.
    Give the last part of their names; fc1 includes fc1_g and fc1_x of a SwiGLU.
    """

    def settings(self, layers: Sequence[str]) -> Any:
        """Return the configuration of huggingface/peft."""
        from peft import LoraConfig as HubLoraConfig

        return HubLoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=list(layers),
            bias="none",
            **self.VARIANT,
        )
