"""Uni4Eye (Cai et al., MICCAI 2022): one encoder for images and volumes, trained on both in one run.

Images and volumes have separate patch embeddings; all blocks are shared. Two decoders reconstruct the hidden patches of
the image and of its gradient map.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
from medvit.config import Amount, Count
from medvit.distributed import exactly
from medvit.objectives import Objective, ObjectiveConfig, Twin
from medvit.objectives.figures import masked_figure
from medvit.objectives.mae import Masking, masked_loss, normalized, random_masking
from medvit.registry import register
from medvit.transforms.patches import patchify
from medvit.transforms.views import ViewsConfig
from medvit.types import Losses, Views

SLOPE, SMOOTH = (-1.0, -2.0, 0.0, 2.0, 1.0), (1.0, 4.0, 6.0, 4.0, 1.0)
"""Factors of a Sobel filter of side 5: along the axis of the derivative, and along the other axes."""


@register
class Uni4EyeConfig(ObjectiveConfig):
    """Options of Uni4Eye: reconstruction of hidden patches of images and volumes, and of their gradient maps."""

    name: Literal["uni4eye"] = "uni4eye"
    mask_ratio: float = Field(0.75, gt=0.0, lt=1.0)
    """Fraction of patches to mask."""
    gradient_weight: Amount = 1.0
    """Weight of the loss on the gradient map (edges)."""
    decoder_width: Count = 512
    """Width of both decoders, one for pixels and one for edges."""
    decoder_depth: Count = 4
    """Number of blocks of each decoder."""
    decoder_heads: Count = 16
    """Attention heads of each decoder."""
    other_patch_size: tuple[Count, ...] = ()
    """Patch size for the other kind of input, which is volumes for a 2D backbone and images for a 3D backbone. Empty:
    16 pixels in 2D and 8 voxels in 3D.
    """
    other_channels: Count | None = None
    """Channels of the other kind of input. Unset: the same number as the backbone."""
    views: ViewsConfig = Field(default_factory=ViewsConfig)
    other_views: ViewsConfig = Field(default_factory=ViewsConfig)
    """Crops of the other kind of input: volumes for a 2D backbone, images for a 3D backbone."""

    def build(self, backbone: Backbone) -> Uni4Eye:
        """Return the objective, with a patch embedding of the other dimensionality and new decoders.

        Raises:
            ConfigError: If the positions of the backbone support only 2D or only 3D.
        """
        return Uni4Eye(backbone, self)


def gradient_map(pixels: Float[Tensor, "b c *s"]) -> Float[Tensor, "b c *s"]:
    """Return the mean absolute derivative along the axes, by a Sobel filter of side 5.

    Edge values are repeated.
    """
    ndim = pixels.ndim - 2
    padded = F.pad(pixels.float(), (2,) * 2 * ndim, mode="replicate").flatten(0, 1)
    slopes = []
    for axis in range(ndim):
        values = padded
        for other in range(ndim):
            kernel = torch.tensor(SLOPE if other == axis else SMOOTH, device=pixels.device)
            values = (values.unfold(other + 1, 5, 1) * (kernel / kernel.abs().sum())).sum(dim=-1)
        slopes.append(values.abs())
    return torch.stack(slopes).mean(dim=0).unflatten(0, pixels.shape[:2])


class Decoder(nn.Module):
    """Decoder from visible tokens to the values of all patches, in 2D or 3D."""

    def __init__(self, config: Uni4EyeConfig, backbones: Sequence[Backbone]) -> None:
        super().__init__()
        width, heads = config.decoder_width, config.decoder_heads
        self.num_prefix = backbones[0].num_prefix_tokens
        self.embed = nn.Linear(backbones[0].width, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.Sequential(*(transformer_block(width, heads) for _ in range(config.decoder_depth)))
        self.norm = nn.LayerNorm(width)
        self.predict = nn.ModuleDict(
            {str(b.ndim): nn.Linear(width, b.channels * math.prod(b.patch_size)) for b in backbones}
        )
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(
        self, encoded: Float[Tensor, "b m d"], masking: Masking, grid: tuple[int, ...]
    ) -> Float[Tensor, "b n p"]:
        """Return the prediction for each patch of a grid of 2 or 3 axes."""
        tokens = self.embed(encoded)
        prefix, seen = tokens[:, : self.num_prefix], tokens[:, self.num_prefix :]
        hidden = self.mask_token.to(seen.dtype).expand(len(seen), masking.ids_restore.shape[1] - seen.shape[1], -1)
        ids = masking.ids_restore[..., None].expand(-1, -1, seen.shape[-1])
        patches = torch.cat([seen, hidden], dim=1).gather(1, ids)
        patches = patches + sincos_positions(grid, patches.shape[-1]).to(patches)
        decoded = self.blocks(torch.cat([prefix, patches], dim=1))
        return self.predict[str(len(grid))](self.norm(decoded))[:, self.num_prefix :]


class Uni4Eye(Objective):
    """Encoder, which is saved after training, the patch embedding of the other dimensionality, and two decoders.

    The decoders are discarded after training.
    """

    def __init__(self, backbone: Backbone, config: Uni4EyeConfig) -> None:
        super().__init__()
        self.backbone, self.config = backbone, config
        self.views = config.views
        ndim = 5 - backbone.ndim
        patch_size = config.other_patch_size or (16 if ndim == 2 else 8,) * ndim
        self.twin_backbone = backbone.of_other_rank(patch_size, config.other_channels or backbone.channels)
        self.twin = Twin(self.twin_backbone, config.other_views)
        self.image, self.gradient = (Decoder(config, (backbone, self.twin_backbone)) for _ in range(2))

    def forward(self, views: Views, progress: float) -> Losses:
        """Return the reconstruction losses of the first view, 2D or 3D, in float32."""
        pixels = views.crops[0]
        backbone = self._backbone_of(pixels)
        encoded, masking, grid = self._encode(backbone, pixels)
        losses = {}
        with exactly(pixels.device):
            targets = {"reconstruction": pixels.float(), "gradient": gradient_map(pixels)}
        for (name, target), decoder in zip(targets.items(), (self.image, self.gradient), strict=True):
            predicted = decoder(encoded, masking, grid)
            patches = normalized(patchify(target, backbone.patch_size))
            losses[name] = masked_loss(predicted.float(), patches, masking.mask)
        losses["gradient"] = self.config.gradient_weight * losses["gradient"]
        # Distributed training waits for a gradient of every weight: those of the other rank get zeros.
        losses["reconstruction"] = losses["reconstruction"] + self._idle(backbone)
        return Losses(losses)

    @torch.no_grad()
    def pictures(self, views: Views) -> dict[str, Figure]:
        """Draw the original, the visible part and the reconstruction of up to four images."""
        pixels = views.crops[0][:4]
        backbone = self._backbone_of(pixels)
        encoded, masking, grid = self._encode(backbone, pixels)
        patches = patchify(pixels.float(), backbone.patch_size)
        deviation, mean = torch.std_mean(patches, dim=-1, keepdim=True)
        predicted = self.image(encoded, masking, grid).float() * deviation + mean
        return {"reconstruction": masked_figure(pixels, predicted, masking.mask.bool(), backbone.patch_size)}

    def _backbone_of(self, pixels: Tensor) -> Backbone:
        return self.backbone if pixels.ndim - 2 == self.backbone.ndim else self.twin_backbone

    def _encode(
        self, backbone: Backbone, pixels: Float[Tensor, "b c *s"]
    ) -> tuple[Float[Tensor, "b m d"], Masking, tuple[int, ...]]:
        """Return the visible tokens after the last block, the masking, and the grid."""
        patches, grid = backbone.embed(pixels)
        masking = random_masking(torch.rand(patches.shape[:2], device=patches.device), self.config.mask_ratio)
        seen = patches.gather(1, masking.ids_keep[..., None].expand(-1, -1, patches.shape[-1]))
        return backbone.encode(seen, grid=grid, ids=masking.ids_keep), masking, grid

    def _idle(self, backbone: Backbone) -> Float[Tensor, ""]:
        """Return zero, computed from the weights that only the other dimensionality uses.

        Adding it to the loss gives these weights a gradient of zero.
        """
        other = self.twin_backbone if backbone is self.backbone else self.backbone
        own = {id(weight) for weight in backbone.parameters()}
        heads = [decoder.predict[str(other.ndim)] for decoder in (self.image, self.gradient)]
        weights = [weight for weight in other.parameters() if id(weight) not in own]
        weights += [weight for head in heads for weight in head.parameters()]
        return torch.stack([weight.sum() for weight in weights]).sum() * 0.0
