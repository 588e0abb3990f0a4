"""TransMIL (Shao et al., NeurIPS 2021): tiles attend to one another through landmarks, and a class token pools them.

Tiles are arranged in their order as a square, and convolutions over the square encode positions. Unlike in other bag
heads, the order of tiles therefore matters; it is the order of the slide's tile grid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from medvit.backbones import Backbone
from medvit.config import Count
from medvit.heads import BagHead, BagOutput, HeadConfig, TileEmbeddings
from medvit.heads._nystrom import NystromAttention
from medvit.registry import register

SMALLEST_SHARE = 1e-12
"""Lower bound of attention: its approximation through landmarks may be negative."""
POSITION_KERNELS = (7, 5, 3)
"""Kernel sizes of the convolutions that encode positions."""


@register
class TransmilConfig(HeadConfig):
    """Classification of a bag by TransMIL; the bag contains the tiles of a slide, or the patches of an image."""

    name: Literal["transmil"] = "transmil"
    width: Count = 512
    """Width to which the tile embeddings are projected."""
    heads: Count = 8
    """Number of attention heads, a divisor of `width`. Each head yields an attention map."""
    landmarks: Count = 256
    """Number of landmarks of the Nystrom attention among tiles. The TransMIL paper uses half of `width`."""
    dropout: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Dropout rate after each attention layer during training."""

    @model_validator(mode="before")
    @classmethod
    def _is_not_the_earlier_head(cls, tree: Any) -> Any:
        if isinstance(tree, Mapping) and (found := sorted({"depth", "max_tiles"} & tree.keys())):
            raise ValueError(
                f"{' and '.join(found)} belong to the head that earlier versions called transmil, which is now "
                "transformer_mil; give head.name=transformer_mil, or remove them for the published TransMIL"
            )
        return tree

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> TransmilConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self

    def build(self, backbone: Backbone, num_classes: int) -> TransmilHead:
        """Return the head over the patch tokens of a backbone."""
        return self.build_for_bags(backbone.width, num_classes)

    def build_for_bags(self, width: int, num_classes: int) -> TransmilHead:
        """Return the head for embeddings of the given width."""
        return TransmilHead(width, num_classes, self)


class PyramidPositions(nn.Module):
    """Position encoding (PPEG) by depthwise convolutions of three sizes over tokens arranged as a square."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(width, width, side, padding=side // 2, groups=width) for side in POSITION_KERNELS
        )

    def forward(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Return the tokens of a square, row by row, with position encodings added."""
        square = rearrange(tokens, "b (h w) d -> b d h w", h=math.isqrt(tokens.shape[1]))
        for_all = square + torch.stack([convolution(square) for convolution in self.convolutions]).sum(dim=0)
        return rearrange(for_all, "b d h w -> b (h w) d")


class TransmilHead(BagHead):
    """Logits (B, L) from a class token after two layers of Nystrom attention, with position encoding in between."""

    def __init__(self, width: int, num_classes: int, config: TransmilConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.project = nn.Sequential(nn.Linear(width, config.width), nn.ReLU())
        self.class_token = nn.Parameter(torch.randn(1, 1, config.width))
        self.norms = nn.ModuleList(nn.LayerNorm(config.width) for _ in range(3))
        self.first, self.second = (
            NystromAttention(config.width, config.heads, landmarks=config.landmarks, dropout=config.dropout)
            for _ in range(2)
        )
        self.positions = PyramidPositions(config.width)
        self.linear = nn.Linear(config.width, num_classes)

    def read(self, bags: Float[Tensor, "b n d"], present: Bool[Tensor, "b n"] | None = None) -> BagOutput:
        """Return logits, and the attention of the class token to each tile in the second layer, one map per head.

        Only bags of equal size are processed together, because the square and the landmarks depend on the number of
        tiles.
        """
        tiles = self.project(bags)
        if present is None:
            return self._read(tiles)
        sizes, outputs, rows = present.sum(dim=1), [], []
        maps = torch.zeros(*present.shape, self.heads, device=bags.device)
        for size in sizes.unique().tolist():
            chosen = sizes == size
            outputs.append(self._read(tiles[chosen][present[chosen]].unflatten(0, (-1, size))))
            maps[present & chosen[:, None]] = rearrange(outputs[-1].attention, "b k n -> (b n) k")
            rows.append(chosen.nonzero()[:, 0])
        logits = torch.cat([output.logits for output in outputs])[torch.cat(rows).argsort()]
        return BagOutput(logits, maps.transpose(1, 2))

    def stream(self, tiles: TileEmbeddings, chunk: int) -> BagOutput:
        """Return the output for one whole bag.

        Its embeddings are projected in chunks, and all projections remain in memory.
        """
        parts = [self.project(tiles.take(indices)) for indices in torch.arange(len(tiles)).split(chunk)]
        return self._read(torch.cat(parts)[None])

    def _read(self, tiles: Float[Tensor, "b n d"]) -> BagOutput:
        num_tiles = tiles.shape[1]
        num_repeated = (math.isqrt(num_tiles - 1) + 1) ** 2 - num_tiles
        square = torch.cat([tiles, tiles[:, :num_repeated]], dim=1)
        tokens = torch.cat([self.class_token.to(tiles).expand(len(tiles), -1, -1), square], dim=1)
        tokens = tokens + self.first(self.norms[0](tokens))
        tokens = torch.cat([tokens[:, :1], self.positions(tokens[:, 1:])], dim=1)
        normed = self.norms[1](tokens)
        tokens = tokens[:, 0] + self.second(normed)[:, 0]
        shares = self.second.attention_of_first(normed)[..., 1:]
        repeated = torch.nn.functional.pad(shares[..., num_tiles:], (0, num_tiles - num_repeated))
        shares = (shares[..., :num_tiles] + repeated).clamp_min(SMALLEST_SHARE)
        return BagOutput(self.linear(self.norms[2](tokens)), shares / shares.sum(dim=-1, keepdim=True))
