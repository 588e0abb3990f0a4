"""Transformer over a bag: tiles attend to one another, then a learned query attends to all of them.

The head applies plain pre-norm transformer layers to a limited number of tiles. It does not use positions, so the order
of tiles is irrelevant. The tiles are pooled by attention as in the Set Transformer (Lee et al., ICML 2019).
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from medvit.backbones import Backbone
from medvit.config import Count
from medvit.heads import BagHead, BagOutput, HeadConfig, TileEmbeddings
from medvit.registry import register


@register
class TransformerMilConfig(HeadConfig):
    """Classification of a bag by self-attention; the bag contains the tiles of a slide, or the patches of an image."""

    name: Literal["transformer_mil"] = "transformer_mil"
    width: Count = 256
    """Width to which the tile embeddings are projected."""
    depth: Count = 2
    """Number of self-attention layers."""
    heads: Count = 4
    """Number of attention heads, a divisor of `width`. Each head yields an attention map."""
    max_tiles: Count = 4096
    """Maximum number of tiles that attend to each other. A slide with more tiles is split into several parts, whose
    logits are averaged.
    """
    dropout: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Dropout rate of the features during training."""

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> TransformerMilConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self

    def build(self, backbone: Backbone, num_classes: int) -> TransformerMilHead:
        """Return the head over the patch tokens of a backbone."""
        return self.build_for_bags(backbone.width, num_classes)

    def build_for_bags(self, width: int, num_classes: int) -> TransformerMilHead:
        """Return the head for embeddings of the given width."""
        return TransformerMilHead(width, num_classes, self)


class TransformerMilHead(BagHead):
    """Logits (B, L) from a learned query that attends to tiles after self-attention."""

    def __init__(self, width: int, num_classes: int, config: TransformerMilConfig) -> None:
        super().__init__()
        self.max_tiles = config.max_tiles
        self.project = nn.Linear(width, config.width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                config.width,
                config.heads,
                4 * config.width,
                dropout=config.dropout,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width)
        self.query = nn.Parameter(torch.empty(1, 1, config.width))
        nn.init.trunc_normal_(self.query, std=0.02)
        self.pool = nn.MultiheadAttention(config.width, config.heads, batch_first=True)
        self.linear = nn.Linear(config.width, num_classes)

    def read(self, bags: Float[Tensor, "b n d"], present: Bool[Tensor, "b n"] | None = None) -> BagOutput:
        """Return logits and the attention of the query, one map per head."""
        absent = None if present is None else ~present
        tiles = self.project(bags)
        for block in self.blocks:
            tiles = block(tiles, src_key_padding_mask=absent)
        tiles = self.norm(tiles)
        query = self.query.to(tiles.dtype).expand(len(tiles), -1, -1)
        pooled, attention = self.pool(query, tiles, tiles, key_padding_mask=absent, average_attn_weights=False)
        return BagOutput(self.linear(pooled[:, 0]), attention[:, :, 0].float())

    def stream(self, tiles: TileEmbeddings, chunk: int) -> BagOutput:
        """Return the output for one bag, as the mean over its parts.

        A bag of more than `max_tiles` or `chunk` tiles is split into p parts. Each part contains every p-th tile, so it
        is a sample of the whole slide.
        """
        num_parts = -(-len(tiles) // min(chunk, self.max_tiles))
        attention: Tensor | None = None
        logits = []
        for start in range(num_parts):
            indices = torch.arange(start, len(tiles), num_parts)
            reading = self.read(tiles.take(indices)[None])
            logits.append(reading.logits)
            if attention is None:
                shape = (1, reading.attention.shape[1], len(tiles))
                attention = torch.zeros(shape, device=reading.attention.device)
            attention[..., indices] = reading.attention / num_parts
        assert attention is not None
        return BagOutput(torch.stack(logits).mean(dim=0), attention)
