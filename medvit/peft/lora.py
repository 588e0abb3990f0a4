"""LoRA: low-rank updates of the linear layers of the blocks, through huggingface/peft."""

from __future__ import annotations

from typing import Literal

from medvit.peft._low_rank import LowRankConfig
from medvit.registry import register


@register
class LoraConfig(LowRankConfig):
    """Train W + (alpha / rank) B A with B = 0 at the start (Hu et al., ICLR 2022)."""

    name: Literal["lora"] = "lora"
