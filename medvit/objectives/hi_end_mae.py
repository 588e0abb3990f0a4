"""Hi-End-MAE (Tang et al., 2025): a decoder that asks the encoder at four depths, for volumes, and images as well.

What is hidden is rebuilt by cross-attention to visible tokens of the encoder, from deep to shallow, so that every depth
learns to be dense.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from medvit.backbones import Backbone
from medvit.backbones.position_embeddings import sincos_positions
from medvit.backbones.vit import transformer_block
from medvit.config import Count
from medvit.distributed import exactly
from medvit.errors import ConfigError
from medvit.objectives import Objective, ObjectiveConfig
from medvit.objectives.figures import masked_figure
from medvit.objectives.mae import Masking, masked_loss, random_masking
from medvit.registry import register
from medvit.transforms.patches import patchify
from medvit.transforms.views import ViewsConfig
from medvit.types import Losses, Views


@register
class HiEndMaeConfig(ObjectiveConfig):
    """Rebuilds hidden patches from four depths of the encoder."""

    name: Literal["hi_end_mae"] = "hi_end_mae"
    mask_ratio: float = Field(0.75, gt=0.0, lt=1.0)
    """Share of patches hidden."""
    depths: tuple[Count, ...] = ()
    """Blocks that the decoder reads, counted from 1, the last one last; empty takes each quarter: 3, 6, 9, 12 of 12."""
    decoder_width: Count = 384
    """Width of the decoder."""
    decoder_heads: Count = 12
    """Attention heads of the decoder."""
    views: ViewsConfig = Field(default_factory=ViewsConfig)

    def build(self, backbone: Backbone) -> HiEndMae:
        """The objective with a fresh decoder.

        Raises:
            ConfigError: If the depths are not rising up to the last block, or the heads do not divide the width.
        """
        return HiEndMae(backbone, self)


class CrossAttention(nn.Module):
    """Queries (B, N, D) that read from others (B, M, D), added to themselves."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.queries, self.pairs = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, asking: Float[Tensor, "b n d"], asked: Float[Tensor, "b m d"]) -> Float[Tensor, "b n d"]:
        """What was asked, with what was found."""
        queries, keys, values = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.queries(self.norm(asking)), *self.pairs(asked).chunk(2, dim=-1))
        )
        found = F.scaled_dot_product_attention(queries, keys, values)
        return asking + self.out(found.transpose(1, 2).flatten(2))


class HiEndMae(Objective):
    """The encoder to hand on, and the decoder that is thrown away."""

    judged_by = "reconstruction"

    def __init__(self, backbone: Backbone, config: HiEndMaeConfig) -> None:
        super().__init__()
        self.backbone, self.config, self.views = backbone, config, config.views
        depths = config.depths or quarters(backbone.depth)
        if list(depths) != sorted(set(depths)) or depths[-1] != backbone.depth:
            raise ConfigError(f"objective.depths is {depths}; expected rising numbers up to {backbone.depth}, the last")
        if config.decoder_width % config.decoder_heads:
            raise ConfigError("objective.decoder_width is not a multiple of objective.decoder_heads")
        self.layers = [depth - 1 for depth in depths]
        width = config.decoder_width
        self.embeds = nn.ModuleList(nn.Linear(backbone.width, width) for _ in depths)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.reading = nn.ModuleList(CrossAttention(width, config.decoder_heads) for _ in depths[:-1])
        self.blocks = nn.ModuleList(transformer_block(width, config.decoder_heads) for _ in depths[:-1])
        self.norm = nn.LayerNorm(width)
        self.predict = nn.Linear(width, backbone.channels * math.prod(backbone.patch_size))
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, views: Views, progress: float) -> Losses:
        """The mean squared error of hidden patches of the first view, each to zero mean and unit variance."""
        pixels = views.crops[0]
        predicted, masking = self.reconstruct(pixels)
        with exactly(pixels.device):
            target = patchify(pixels.float(), self.backbone.patch_size)
            target = F.layer_norm(target, target.shape[-1:])
            return Losses({"reconstruction": masked_loss(predicted.float(), target, masking.mask)})

    def reconstruct(self, pixels: Float[Tensor, "b c *s"]) -> tuple[Float[Tensor, "b n p"], Masking]:
        """What is predicted for every patch, and which patches were hidden."""
        patches, grid = self.backbone.embed(pixels)
        masking = random_masking(torch.rand(patches.shape[:2], device=patches.device), self.config.mask_ratio)
        seen = patches.gather(1, masking.ids_keep[..., None].expand(-1, -1, patches.shape[-1]))
        encoded = self.backbone.encode_layers(seen, grid=grid, layers=self.layers, ids=masking.ids_keep)
        return self.decode(encoded, masking, grid), masking

    def decode(
        self, encoded: list[Float[Tensor, "b m d"]], masking: Masking, grid: tuple[int, ...]
    ) -> Float[Tensor, "b n p"]:
        """Pixels of every patch from the visible tokens at each depth, the deepest last."""
        tokens = [embed(layer) for embed, layer in zip(self.embeds, encoded, strict=True)]
        seen = tokens[-1][:, self.backbone.num_prefix_tokens :]
        num_hidden = masking.ids_restore.shape[1] - seen.shape[1]
        hidden = self.mask_token.to(seen.dtype).expand(len(seen), num_hidden, -1)
        ids = masking.ids_restore[..., None].expand(-1, -1, seen.shape[-1])
        asking = torch.cat([seen, hidden], dim=1).gather(1, ids)
        asking = asking + sincos_positions(grid, asking.shape[-1]).to(asking)
        for block, reading, layer in zip(self.blocks, self.reading, reversed(tokens[:-1]), strict=True):
            asking = reading(block(asking), layer)
        return self.predict(self.norm(asking))

    @torch.no_grad()
    def pictures(self, views: Views) -> dict[str, Figure]:
        """Original, what the encoder saw, and the reconstruction, of up to four images."""
        pixels = views.crops[0][:4]
        predicted, masking = self.reconstruct(pixels)
        patches = patchify(pixels.float(), self.backbone.patch_size)
        deviation, mean = torch.std_mean(patches, dim=-1, keepdim=True, correction=0)
        rebuilt = predicted.float() * deviation + mean
        return {"reconstruction": masked_figure(pixels, rebuilt, masking.mask.bool(), self.backbone.patch_size)}


def quarters(depth: int) -> tuple[int, ...]:
    """The blocks at the end of each quarter of an encoder, counted from 1; all of a shallow one."""
    return tuple(sorted({max(1, round(depth * part / 4)) for part in (1, 2, 3, 4)}))
