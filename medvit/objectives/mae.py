"""Masked autoencoder in 2D and 3D (He et al., CVPR 2022).

The encoder sees a random subset of the patches. A small decoder reconstructs the other patches, and only these count in
the loss.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from matplotlib.figure import Figure
from pydantic import Field
from torch import Tensor, nn

from medvit.backbones import Backbone
from medvit.backbones.position_embeddings import sincos_positions
from medvit.backbones.vit import transformer_block
from medvit.channels import present_channels
from medvit.config import Count
from medvit.objectives import Objective, ObjectiveConfig
from medvit.objectives.figures import masked_figure
from medvit.registry import register
from medvit.transforms.patches import patchify
from medvit.transforms.views import ViewsConfig
from medvit.types import Losses, Views

PIXEL_EPSILON = 1e-6
"""Value that is added to the variance of a patch before its square root (normalized target of He et al.)."""


@register
class MaeConfig(ObjectiveConfig):
    """Options of MAE: reconstruction of masked patches from visible ones."""

    OPTIM: ClassVar[Mapping[str, object]] = {"lr": 1e-3}
    TAKES_CHANNEL_TOKENS: ClassVar[bool] = True

    name: Literal["mae"] = "mae"
    mask_ratio: float = Field(0.75, gt=0.0, lt=1.0)
    """Fraction of patches to mask: 0.75 in general, 0.9 for chest X-rays (Xiao et al., WACV 2023), 0.85 for OCT."""
    normalize_targets: bool = True
    """Normalize each target patch by its own mean and standard deviation."""
    decoder_width: Count = 512
    """Width of the decoder."""
    decoder_depth: Count = 8
    """Number of blocks of the decoder."""
    decoder_heads: Count = 16
    """Attention heads of the decoder."""
    views: ViewsConfig = Field(default_factory=ViewsConfig)

    def build(self, backbone: Backbone) -> Mae:
        """Return the objective with a new decoder."""
        return Mae(backbone, self)


@dataclass(frozen=True)
class Masking:
    """Random masking: `ids_keep` (B, N_keep), `ids_restore` (B, N), and `mask` (B, N), 1 for patches to reconstruct.

    If the backbone has a token for each channel, these are the N tokens of all channels.
    """

    ids_keep: Int[Tensor, "b m"]
    ids_restore: Int[Tensor, "b n"]
    mask: Float[Tensor, "b n"]


@dataclass(frozen=True)
class VisibleTokens:
    """Encoded visible patches: tokens (B, P + N_keep, D), the indices of the patches, and the whole grid."""

    encoded: Float[Tensor, "b m d"]
    masking: Masking
    grid: tuple[int, ...]


def random_masking(noise: Float[Tensor, "b n"], mask_ratio: float, known: Bool[Tensor, "b n"] | None = None) -> Masking:
    """Keep the patches with the lowest noise: `int(N * (1 - mask_ratio))` of them, but at least one.

    The product is truncated as in the original code: of 100 patches, a ratio of 0.9 keeps 9. With `known`, only patches
    for which it is True are kept or reconstructed, and N is the smallest number of them in an image.
    """
    num_patches = noise.shape[1] if known is None else int(known.sum(dim=1).min())
    noise = noise if known is None else noise.masked_fill(~known, torch.inf)
    num_keep = max(1, int(num_patches * (1 - mask_ratio)))
    ids_shuffle = noise.argsort(dim=1)
    ids_restore = ids_shuffle.argsort(dim=1)
    mask = torch.ones_like(noise)
    mask[:, :num_keep] = 0
    mask = mask.gather(1, ids_restore)
    return Masking(ids_shuffle[:, :num_keep], ids_restore, mask if known is None else mask * known)


def masked_loss(
    predicted: Float[Tensor, "b n p"], target: Float[Tensor, "b n p"], mask: Float[Tensor, "b n"]
) -> Float[Tensor, ""]:
    """Return the mean squared error over hidden patches; predictions for visible patches do not count."""
    per_patch = (predicted - target).square().mean(dim=-1)
    return (per_patch * mask).sum() / mask.sum()


def normalized(patches: Float[Tensor, "b n p"]) -> Float[Tensor, "b n p"]:
    """Return patches, each normalized to zero mean and unit variance (unbiased variance)."""
    mean, var = patches.mean(dim=-1, keepdim=True), patches.var(dim=-1, keepdim=True)
    return (patches - mean) / (var + PIXEL_EPSILON).sqrt()


class Mae(Objective):
    """Encoder, which is saved after training, and a decoder that is discarded."""

    judged_by = "reconstruction"

    def __init__(self, backbone: Backbone, config: MaeConfig) -> None:
        super().__init__()
        self.backbone, self.config = backbone, config
        self.views = config.views
        width = config.decoder_width
        num_channels = 1 if backbone.has_channel_tokens else backbone.channels
        patch_values = num_channels * math.prod(self.target_patch)
        self.embed = nn.Linear(backbone.width, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        of_channels = torch.zeros(1, backbone.channels, width)
        self.channel_embed = nn.Parameter(of_channels) if backbone.has_channel_tokens else None
        self.blocks = nn.Sequential(
            *(transformer_block(width, config.decoder_heads) for _ in range(config.decoder_depth))
        )
        self.norm = nn.LayerNorm(width)
        self.predict = nn.Linear(width, patch_values)
        nn.init.normal_(self.mask_token, std=0.02)

    @property
    def target_patch(self) -> tuple[int, ...]:
        """Size, in pixels of the views, of the region to reconstruct for each patch of the encoder."""
        return self.backbone.patch_size

    def forward(self, views: Views, progress: float) -> Losses:
        """Return the reconstruction loss of the first view, in float32."""
        pixels = views.crops[0]
        predicted, target, masking = self.reconstruct(pixels)
        return Losses({"reconstruction": masked_loss(predicted.float(), target, masking.mask)})

    def reconstruct(
        self, pixels: Float[Tensor, "b c *s"]
    ) -> tuple[Float[Tensor, "b n p"], Float[Tensor, "b n p"], Masking]:
        """Return the prediction for every patch, its target, and the masking."""
        seen = self.see(pixels)
        return self.decode(seen.encoded, seen.masking, seen.grid), self.target(pixels), seen.masking

    def see(self, pixels: Float[Tensor, "b c *s"]) -> VisibleTokens:
        """Encode a random subset of the patches."""
        patches, grid = self.backbone.embed(pixels)
        known = None
        if self.backbone.has_channel_tokens:
            known = present_channels(pixels).repeat_interleave(math.prod(grid), dim=1)
        noise = torch.rand(patches.shape[:2], device=patches.device)
        masking = random_masking(noise, self.config.mask_ratio, known)
        kept = patches.gather(1, masking.ids_keep[..., None].expand(-1, -1, patches.shape[-1]))
        return VisibleTokens(self.backbone.encode(kept, grid=grid, ids=masking.ids_keep), masking, grid)

    def target(self, pixels: Float[Tensor, "b c *s"]) -> Float[Tensor, "b n p"]:
        """Return the reconstruction target of every token."""
        target = self._patchified(pixels)
        return normalized(target) if self.config.normalize_targets else target

    def decode(
        self, encoded: Float[Tensor, "b m d"], masking: Masking, grid: tuple[int, ...]
    ) -> Float[Tensor, "b n p"]:
        """Return the pixels of every patch from the encoded visible patches."""
        num_prefix = self.backbone.num_prefix_tokens
        tokens = self.embed(encoded)
        prefix, seen = tokens[:, :num_prefix], tokens[:, num_prefix:]
        num_hidden = masking.ids_restore.shape[1] - seen.shape[1]
        hidden = self.mask_token.to(seen.dtype).expand(seen.shape[0], num_hidden, -1)
        ids = masking.ids_restore[..., None].expand(-1, -1, seen.shape[-1])
        patches = torch.cat([seen, hidden], dim=1).gather(1, ids)
        patches = patches + self._decoder_positions(grid, patches.shape[-1]).to(patches)
        decoded = self.blocks(torch.cat([prefix, patches], dim=1))
        return self.predict(self.norm(decoded))[:, num_prefix:]

    @torch.no_grad()
    def pictures(self, views: Views) -> dict[str, Figure]:
        """Draw the original, the visible part and the reconstruction of up to four images.

        If the backbone has a token for each channel, the first channel is drawn.
        """
        pixels = views.crops[0][:4]
        predicted, _, masking = self.reconstruct(pixels)
        predicted, hidden = predicted.float(), masking.mask.bool()
        if self.config.normalize_targets:
            patches = self._patchified(pixels)
            mean, var = patches.mean(dim=-1, keepdim=True), patches.var(dim=-1, keepdim=True)
            predicted = predicted * (var + PIXEL_EPSILON).sqrt() + mean
        if self.backbone.has_channel_tokens:
            pixels, num_patches = self.backbone.filled(pixels)[:, :1], predicted.shape[1] // self.backbone.channels
            predicted, hidden = predicted[:, :num_patches], hidden[:, :num_patches]
        return {"reconstruction": masked_figure(pixels, predicted, hidden, self.target_patch)}

    def _patchified(self, pixels: Float[Tensor, "b c *s"]) -> Float[Tensor, "b n p"]:
        """Return the pixels of every token: those of all channels of a patch, or of one channel."""
        filled = self.backbone.filled(pixels).float()
        if not self.backbone.has_channel_tokens:
            return patchify(filled, self.target_patch)
        of_channels = patchify(filled.flatten(0, 1)[:, None], self.target_patch)  # (B C, N, P)
        return of_channels.unflatten(0, (len(pixels), -1)).flatten(1, 2)

    def _decoder_positions(self, grid: tuple[int, ...], width: int) -> Float[Tensor, "1 n d"]:
        """Return the positions of the tokens, with the embeddings of their channels if they have some."""
        positions = sincos_positions(grid, width)
        if self.channel_embed is None:
            return positions
        of_channels = self.channel_embed[:, :, None]  # (1, C, 1, D)
        return (positions.to(of_channels)[:, None] + of_channels).flatten(1, 2)
