"""Attention pooling head: a learned query weighs the tokens of one or several depths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from medvit.backbones import Backbone
from medvit.config import Count
from medvit.errors import ConfigError
from medvit.heads import Head, HeadConfig
from medvit.heads._decoder import evenly_spaced
from medvit.registry import register
from medvit.types import Tokens


@register
class AttentionConfig(HeadConfig):
    """Classification of images by attention pooling over all tokens (Lee et al., ICML 2019)."""

    name: Literal["attention"] = "attention"
    num_depths: Count = 1
    """Number of backbone blocks whose tokens are pooled together: evenly spaced, and including the last block."""
    num_heads: Count = 1
    """Number of attention heads, which must divide the width of the backbone."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout rate of the pooled features during training."""

    def build(self, backbone: Backbone, num_classes: int) -> AttentionHead:
        """Return the head with zero bias and small weights.

        Raises:
            ConfigError: If the width of the backbone is not a multiple of the number of heads.
        """
        if backbone.width % self.num_heads:
            raise ConfigError(
                f"the backbone width {backbone.width} is not a multiple of head.num_heads={self.num_heads}"
            )
        return AttentionHead(backbone, num_classes, self)


class AttentionHead(Head):
    """Logits (B, L) from one pooled feature: a learned query attends to the prefix and patch tokens of all depths."""

    HAS_ATTENTION = True

    def __init__(self, backbone: Backbone, num_classes: int, config: AttentionConfig) -> None:
        super().__init__()
        self.layers = evenly_spaced(backbone.depth, config.num_depths)
        width = backbone.width
        self.read = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(before), nn.Linear(before, width))
            for before in map(backbone.width_of, self.layers)
        )
        self.query = nn.Parameter(torch.empty(1, 1, width))
        nn.init.trunc_normal_(self.query, std=0.02)
        self.attention = nn.MultiheadAttention(width, config.num_heads, batch_first=True)
        self.dropout = nn.Dropout(config.dropout)
        self.linear = nn.Linear(width, num_classes)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, tokens: Sequence[Tokens], pixels: Float[Tensor, "b c *s"]) -> Float[Tensor, "b l"]:
        """Return logits; `pixels` are not used."""
        bag = self._bag(tokens)
        pooled, _ = self.attention(self.query.expand(len(bag), -1, -1), bag, bag, need_weights=False)
        return self.linear(self.dropout(pooled[:, 0]))

    def attention_to_patches(self, tokens: Sequence[Tokens]) -> Float[Tensor, "b k n"]:
        """Return one map per attention head: the weight of each patch, summed over the depths.

        Weights of prefix tokens are not part of the maps, so that a map sums to at most 1.
        """
        bag = self._bag(tokens)
        query = self.query.expand(len(bag), -1, -1)
        _, weights = self.attention(query, bag, bag, need_weights=True, average_attn_weights=False)
        depths = weights[:, :, 0].unflatten(2, (len(tokens), -1))  # (B, K, depths, P + N)
        return depths[..., tokens[-1].prefix.shape[1] :].sum(dim=2)

    def _bag(self, tokens: Sequence[Tokens]) -> Float[Tensor, "b t d"]:
        joined = (torch.cat([depth.prefix, depth.patches], dim=1) for depth in tokens)
        return torch.cat([read(depth) for read, depth in zip(self.read, joined, strict=True)], dim=1)
