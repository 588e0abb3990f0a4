"""Linear head: one layer on the first prefix token and the mean patch token (Oquab et al., TMLR 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from medvit.backbones import Backbone
from medvit.heads import Head, HeadConfig
from medvit.registry import register
from medvit.types import Tokens


@register
class LinearConfig(HeadConfig):
    """Classification by one linear layer."""

    name: Literal["linear"] = "linear"
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout rate of the features during training."""

    def build(self, backbone: Backbone, num_classes: int) -> LinearHead:
        """Return the head with zero bias and small weights."""
        return LinearHead(backbone, num_classes, self.dropout)


class LinearHead(Head):
    """Logits (B, L) from [class token, mean of patch tokens], as in the linear evaluation of DINOv2.

    See Oquab et al. (2023), B.3. Without prefix tokens, only the mean patch token is used.
    """

    def __init__(self, backbone: Backbone, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.layers = ()
        num_parts = 2 if backbone.num_prefix_tokens else 1
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(num_parts * backbone.width, num_classes)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, tokens: Sequence[Tokens], pixels: Float[Tensor, "b c *s"]) -> Float[Tensor, "b l"]:
        """Return logits from the tokens of the last block; `pixels` are not used."""
        last = tokens[-1]
        mean = last.patches.mean(dim=1)
        features = torch.cat([last.prefix[:, 0], mean], dim=1) if last.prefix.shape[1] else mean
        return self.linear(self.dropout(features))
