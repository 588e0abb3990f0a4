"""SimMIM in 2D and 3D (Xie et al., CVPR 2022): hidden patches are replaced by a learned mask token and encoded.

One linear layer reconstructs pixels from tokens; the loss is the absolute error of the hidden pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from pydantic import Field
from torch import Tensor, nn

from medvit.backbones import Backbone, Hidden
from medvit.config import Count
from medvit.distributed import exactly
from medvit.objectives import MASK_TOKEN, Objective, ObjectiveConfig
from medvit.objectives._student_teacher import tokens_of
from medvit.objectives.figures import masked_figure
from medvit.registry import register
from medvit.transforms.patches import patchify
from medvit.transforms.views import Covered, ViewsConfig
from medvit.types import Losses, Views

COUNT_EPSILON = 1e-5
"""Value that is added to the number of hidden pixels when the loss is divided by it, as published."""


class SimMimViewsConfig(ViewsConfig):
    """Options for the crop to reconstruct, which covers at least two thirds of an image."""

    scale: tuple[Covered, Covered] = (0.67, 1.0)


@register
class SimMimConfig(ObjectiveConfig):
    """Options of SimMIM: reconstruction of hidden patches from their encoded mask tokens."""

    name: Literal["simmim"] = "simmim"
    mask_ratio: float = Field(0.6, gt=0.0, lt=1.0)
    """Fraction of the image to mask, rounded up to whole mask units."""
    mask_patches: Count = 2
    """Side of a mask unit in patches. All patches of a mask unit are masked together. SimMIM uses units of 32 pixels,
    that is, 2 patches of 16 pixels.
    """
    views: SimMimViewsConfig = Field(default_factory=SimMimViewsConfig)

    def build(self, backbone: Backbone) -> SimMim:
        """Return the objective with a new linear layer."""
        return SimMim(backbone, self)


def unit_masks(
    num_images: int, grid: tuple[int, ...], *, unit: int, ratio: float, device: torch.device
) -> Bool[Tensor, "b n"]:
    """Draw masks of whole units (`unit` patches per side), `ceil(ratio * units)` per image.

    Units at the end of an axis may be smaller.
    """
    units = tuple(-(-side // unit) for side in grid)
    noise = torch.rand(num_images, math.prod(units), device=device)
    mask = noise.argsort(dim=1).argsort(dim=1) < math.ceil(ratio * noise.shape[1])
    mask = mask.unflatten(1, units)
    for axis, side in enumerate(grid, start=1):
        mask = mask.repeat_interleave(unit, dim=axis).narrow(axis, 0, side)
    return mask.flatten(1)


def absolute_loss(
    predicted: Float[Tensor, "b n p"], target: Float[Tensor, "b n p"], mask: Bool[Tensor, "b n"], channels: int
) -> Float[Tensor, ""]:
    """Return the sum of absolute errors over hidden patches / (number of hidden pixels + 1e-5) / channels."""
    with exactly(predicted.device):
        errors = (predicted.float() - target.float()).abs().sum(dim=-1)
        hidden_pixels = mask.sum() * (target.shape[-1] // channels)
        return (errors * mask).sum() / (hidden_pixels + COUNT_EPSILON) / channels


class SimMim(Objective):
    """Encoder, which is saved after training, with a mask token and a linear layer that predicts pixels."""

    judged_by = "reconstruction"

    def __init__(self, backbone: Backbone, config: SimMimConfig) -> None:
        super().__init__()
        self.backbone, self.config, self.views = backbone, config, config.views
        self.mask_token = nn.Parameter(torch.zeros(backbone.width))
        self.predict = nn.Linear(backbone.width, backbone.channels * math.prod(backbone.patch_size))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        if backbone.mask_token is not None:
            self.mask_token = nn.Parameter(backbone.mask_token.clone())

    def forward(self, views: Views, progress: float) -> Losses:
        """Return the reconstruction loss of the first view, in float32."""
        pixels = views.crops[0]
        predicted, mask = self.reconstruct(pixels)
        target = patchify(pixels, self.backbone.patch_size)
        return Losses({"reconstruction": absolute_loss(predicted, target, mask, self.backbone.channels)})

    def kept(self) -> Mapping[str, Mapping[str, Tensor]]:
        """Return the mask token."""
        return {MASK_TOKEN: {"mask_token": self.mask_token.detach()[None]}}

    def reconstruct(self, pixels: Float[Tensor, "b c *s"]) -> tuple[Float[Tensor, "b n p"], Bool[Tensor, "b n"]]:
        """Return the prediction for every patch, and the mask of hidden patches."""
        config, grid = self.config, self.backbone.grid_of(pixels)
        mask = unit_masks(len(pixels), grid, unit=config.mask_patches, ratio=config.mask_ratio, device=pixels.device)
        tokens = tokens_of(self.backbone, pixels, Hidden(mask, self.mask_token))
        return self.predict(tokens.patches), mask

    @torch.no_grad()
    def pictures(self, views: Views) -> dict[str, Figure]:
        """Draw the original, the visible part and the reconstruction of up to four images."""
        pixels = views.crops[0][:4]
        predicted, mask = self.reconstruct(pixels)
        return {"reconstruction": masked_figure(pixels, predicted, mask, self.backbone.patch_size)}
