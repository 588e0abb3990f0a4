"""Base of Hi-End-MAE (Tang et al., MedIA 2025) and its smaller variant: a decoder that reads several encoder depths."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from medvit.backbones import Backbone
from medvit.backbones.position_embeddings import sincos_positions
from medvit.config import Count
from medvit.distributed import exactly
from medvit.errors import ConfigError
from medvit.objectives import Objective, ObjectiveConfig
from medvit.objectives.figures import masked_figure
from medvit.objectives.mae import Masking, masked_loss, random_masking
from medvit.transforms.patches import patchify
from medvit.transforms.views import ViewsConfig
from medvit.types import Losses, Views

EPSILON = 1e-6
"""Epsilon of the decoder's norms, and of the normalization of each patch, as published."""


class EncoderDrivenConfig(ObjectiveConfig):
    """Options of an objective that reconstructs hidden patches from several depths of the encoder."""

    mask_ratio: float = Field(0.75, gt=0.0, lt=1.0)
    """Fraction of patches to mask."""
    depths: tuple[Count, ...] = ()
    """Encoder blocks whose outputs the decoder uses, counted from 1 and ending with the last block. Empty: four evenly
    spaced blocks, such as [3,6,9,12] of 12. The authors' code counts differently: its blocks 3, 6, 9, 12 are
    [4,7,10,12] here.
    """
    decoder_width: Count = 384
    """Width of the decoder. The base model of the Hi-End-MAE paper has 384, the large model 528."""
    decoder_heads: Count = 12
    """Attention heads of the decoder. The base model of the Hi-End-MAE paper has 12, the large model 16."""
    views: ViewsConfig = Field(default_factory=ViewsConfig)


class CrossAttention(nn.Module):
    """Cross-attention from queries (B, N, D) to other tokens (B, M, D)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.queries, self.pairs = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, asking: Float[Tensor, "b n d"], asked: Float[Tensor, "b m d"]) -> Float[Tensor, "b n d"]:
        """Return the values that the queries `asking` attend to among the tokens `asked`."""
        queries, keys, values = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.queries(asking), *self.pairs(asked).chunk(2, dim=-1))
        )
        found: Tensor = self.out(F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2))
        return found


class EncoderDriven(Objective):
    """Objective with an encoder, which is saved after training, and a decoder that reads several of its depths."""

    judged_by = "reconstruction"

    def __init__(self, backbone: Backbone, config: EncoderDrivenConfig) -> None:
        super().__init__()
        self.backbone, self.config, self.views = backbone, config, config.views
        depths = config.depths or quarters(backbone.depth)
        if list(depths) != sorted(set(depths)) or depths[-1] != backbone.depth:
            raise ConfigError(
                f"objective.depths is {depths}; expected increasing numbers, the last of which is {backbone.depth}"
            )
        if config.decoder_width % config.decoder_heads:
            raise ConfigError("objective.decoder_width must be a multiple of objective.decoder_heads")
        self.layers = [depth - 1 for depth in depths]
        width = config.decoder_width
        self.embeds = nn.ModuleList(nn.Linear(backbone.width, width) for _ in depths)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.predict = nn.Linear(width, backbone.channels * math.prod(backbone.patch_size))
        nn.init.normal_(self.mask_token, std=0.02)

    @abstractmethod
    def decode(
        self, encoded: list[Float[Tensor, "b m d"]], masking: Masking, grid: tuple[int, ...]
    ) -> Float[Tensor, "b n p"]:
        """Predict the pixels of every patch from the encoder's tokens at several depths, the deepest last.

        The tokens are the prefix tokens and the visible patches, before the norm.
        """

    def every_patch(
        self, seen: Float[Tensor, "b m d"], masking: Masking, grid: tuple[int, ...]
    ) -> Float[Tensor, "b n d"]:
        """Return tokens of all patches in grid order, with positions added; hidden patches are mask tokens."""
        num_hidden = masking.ids_restore.shape[1] - seen.shape[1]
        hidden = self.mask_token.to(seen.dtype).expand(len(seen), num_hidden, -1)
        ids = masking.ids_restore[..., None].expand(-1, -1, seen.shape[-1])
        patches = torch.cat([seen, hidden], dim=1).gather(1, ids)
        return patches + sincos_positions(grid, patches.shape[-1]).to(patches)

    def forward(self, views: Views, progress: float) -> Losses:
        """Return the mean squared error over hidden patches of the first view, each patch normalized."""
        pixels = views.crops[0]
        predicted, masking = self.reconstruct(pixels)
        with exactly(pixels.device):
            target = patchify(pixels.float(), self.backbone.patch_size)
            target = F.layer_norm(target, target.shape[-1:], eps=EPSILON)
            return Losses({"reconstruction": masked_loss(predicted.float(), target, masking.mask)})

    def reconstruct(self, pixels: Float[Tensor, "b c *s"]) -> tuple[Float[Tensor, "b n p"], Masking]:
        """Return the prediction for every patch, and the mask of hidden patches."""
        patches, grid = self.backbone.embed(pixels)
        masking = random_masking(torch.rand(patches.shape[:2], device=patches.device), self.config.mask_ratio)
        seen = patches.gather(1, masking.ids_keep[..., None].expand(-1, -1, patches.shape[-1]))
        encoded = self.backbone.encode_layers(seen, grid=grid, layers=self.layers, ids=masking.ids_keep)
        return self.decode(encoded, masking, grid), masking

    @torch.no_grad()
    def pictures(self, views: Views) -> dict[str, Figure]:
        """Draw the original, the visible part and the reconstruction of up to four images."""
        pixels = views.crops[0][:4]
        predicted, masking = self.reconstruct(pixels)
        patches = patchify(pixels.float(), self.backbone.patch_size)
        deviation, mean = torch.std_mean(patches, dim=-1, keepdim=True, correction=0)
        rebuilt = predicted.float() * deviation + mean
        return {"reconstruction": masked_figure(pixels, rebuilt, masking.mask.bool(), self.backbone.patch_size)}


def quarters(depth: int) -> tuple[int, ...]:
    """Return the last block of each quarter of an encoder with `depth` blocks, counted from 1.

    If there are fewer than four blocks, all blocks are returned.
    """
    return tuple(sorted({max(1, round(depth * part / 4)) for part in (1, 2, 3, 4)}))
