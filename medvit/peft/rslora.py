"""rsLoRA: low-rank updates whose scale suits any rank, through huggingface/peft."""

from __future__ import annotations

from typing import ClassVar, Literal

from medvit.config import Positive
from medvit.peft._low_rank import LowRankConfig
from medvit.registry import register


@register
class RsLoraConfig(LowRankConfig):
    """Train W + (alpha / sqrt(rank)) B A with B = 0 at the start (Kalajdzievski, Preprint 2023).

    With the scale alpha / rank of LoRA, gradients vanish as the rank grows; with this scale, higher ranks train at the
    same learning rate.
    """

    VARIANT: ClassVar[dict[str, bool]] = {"use_rslora": True}

    name: Literal["rslora"] = "rslora"
    alpha: Positive = 16.0
    """Scale of the low-rank updates, which are multiplied by alpha / sqrt(rank)."""
