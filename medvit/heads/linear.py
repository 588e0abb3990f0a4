"""Linear head: one layer on the first prefix token and the mean patch token (Oquab et al., TMLR 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from medvit.backbones import Backbone
from medvit.config import Count
from medvit.heads import Head, HeadConfig
from medvit.registry import register
from medvit.types import Tokens


@register
class LinearConfig(HeadConfig):
    """Classification by one linear layer."""

    name: Literal["linear"] = "linear"
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout rate of the features during training."""
    num_depths: Count = 1
    """Number of last backbone blocks whose class tokens are used (DINOv2: 1 or 4), together with the mean patch token
    of the last block. If the backbone has no class token, the mean patch tokens of all these blocks are used.
    """

    def build(self, backbone: Backbone, num_classes: int) -> LinearHead:
        """Return the head with zero bias and small weights."""
        return LinearHead(backbone, num_classes, self.dropout, self.num_depths)


class LinearHead(Head):
    """Logits (B, L) from [class token, mean of patch tokens], as in the linear evaluation of DINOv2.

    See Oquab et al. (2023), B.3. With several depths, the class tokens of the last blocks are concatenated. Without
    prefix tokens, the mean patch tokens of these blocks are used instead.
    """

    def __init__(self, backbone: Backbone, num_classes: int, dropout: float, num_depths: int = 1) -> None:
        super().__init__()
        first = max(0, backbone.depth - num_depths)
        self.layers = tuple(range(first, backbone.depth)) if num_depths > 1 else ()
        width = sum(map(backbone.width_of, self.layers or [backbone.depth - 1]))
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(width + (backbone.width if backbone.num_prefix_tokens else 0), num_classes)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, tokens: Sequence[Tokens], pixels: Float[Tensor, "b c *s"]) -> Float[Tensor, "b l"]:
        """Return logits from the tokens of the last blocks; `pixels` are not used."""
        mean = tokens[-1].patches.mean(dim=1)
        if tokens[-1].prefix.shape[1]:
            parts = [*(depth.prefix[:, 0] for depth in tokens), mean]
        else:
            parts = [depth.patches.mean(dim=1) for depth in tokens]
        return self.linear(self.dropout(torch.cat(parts, dim=1)))
