"""Base of decoders: maps of tokens, and logits at one or several resolutions (Lee et al., AISTATS 2015)."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from einops import rearrange
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from medvit.backbones import Backbone
from medvit.errors import ConfigError
from medvit.heads import Head, HeadConfig
from medvit.types import Tokens


class DecoderConfig(HeadConfig):
    """Options of every decoder for segmentation."""

    IS_DECODER: ClassVar[bool] = True

    num_supervised: int | None = Field(default=None, ge=0)
    """Number of resolutions below the highest whose logits are trained too (deep supervision), in descending order.
    Predictions use only the highest resolution. Unset: 0, or for dynunet with head=own, all but the two lowest.
    """


class SegmentationDecoder(Head):
    """Head for segmentation that decodes features at increasing resolutions.

    `logits` maps the last features to logits. In training, `auxiliary` layers do the same at lower resolutions.
    """

    logits: nn.Module
    auxiliary: nn.ModuleList
    lower: Sequence[int]
    """Widths of the features below the highest resolution, highest first."""

    @abstractmethod
    def features(self, tokens: Sequence[Tokens], pixels: Float[Tensor, "b c *s"]) -> list[Float[Tensor, "b d *t"]]:
        """Return features at all resolutions, from the lowest to the highest."""

    def forward(self, tokens: Sequence[Tokens], pixels: Float[Tensor, "b c *s"]) -> Float[Tensor, "b l *s"]:
        """Return logits for every pixel or voxel."""
        return resized(self.logits(self.features(tokens, pixels)[-1]), pixels.shape[2:])

    def at_levels(self, tokens: Sequence[Tokens], pixels: Float[Tensor, "b c *s"]) -> list[Float[Tensor, "b l *t"]]:
        """Return logits for every pixel, followed by those of the trained lower resolutions, highest first."""
        features = self.features(tokens, pixels)
        lower = [read(each) for read, each in zip(self.auxiliary, features[-2::-1], strict=False)]
        return [resized(self.logits(features[-1]), pixels.shape[2:]), *lower]

    def supervise(self, count: int, *, num_classes: int, ndim: int) -> None:
        """Add auxiliary layers for the `count` highest of the lower resolutions.

        Raises:
            ConfigError: If the decoder has fewer resolutions.
        """
        if count > len(self.lower):
            raise ConfigError(
                f"head.num_supervised={count}, but this decoder has {len(self.lower)} lower resolutions for this patch "
                f"size; give head.num_supervised={len(self.lower)} or less"
            )
        layers = (convolution(ndim)(width, num_classes, kernel_size=1) for width in self.lower[:count])
        self.auxiliary = nn.ModuleList(layers)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each position of a map (B, D, *S)."""

    def forward(self, features: Float[Tensor, "b d *s"]) -> Float[Tensor, "b d *s"]:
        """Return the normalized map."""
        return super().forward(features.movedim(1, -1)).movedim(-1, 1)


def convolution(ndim: int) -> Any:
    """Return the class of convolutions in 2D or 3D."""
    return nn.Conv3d if ndim == 3 else nn.Conv2d


def transposed_convolution(ndim: int) -> Any:
    """Return the class of transposed convolutions in 2D or 3D."""
    return nn.ConvTranspose3d if ndim == 3 else nn.ConvTranspose2d


def num_halvings(patch_size: Sequence[int]) -> int:
    """Return how often the resolution of an image is halved until a cell is as large as the shortest side of a patch.

    A side that is not a power of two is rounded down to one.
    """
    return int(math.log2(min(patch_size)))


def evenly_spaced(depth: int, count: int) -> tuple[int, ...]:
    """Return `count` evenly spaced block indices, including the last block, such as (2, 5, 8, 11) for 12 blocks."""
    count = min(count, depth)
    return tuple(math.ceil(depth * (step + 1) / count) - 1 for step in range(count))


def require_halvings(backbone: Backbone, head: str) -> None:
    """Check that a patch has several pixels per side, so that a decoder has a resolution to restore.

    Raises:
        ConfigError: If the patches have one pixel per side.
    """
    if not num_halvings(backbone.patch_size):
        raise ConfigError(f"head={head} needs patches of at least 2 pixels per side; use head=dense")


def lowest_shape(shape: Sequence[int], halvings: int) -> tuple[int, ...]:
    """Return the shape of an image after some halvings of its resolution, rounded up."""
    return tuple(-(-side // 2**halvings) for side in shape)


def token_map(patches: Float[Tensor, "b n d"], grid: tuple[int, ...]) -> Float[Tensor, "b d *g"]:
    """Return patch tokens as a map on their grid, in the channels-last memory layout."""
    axes = "i j k" if len(grid) == 3 else "h w"
    features = rearrange(patches, f"b ({axes}) d -> b d {axes}", **dict(zip(axes.split(), grid, strict=True)))
    return features.contiguous(memory_format=channels_last(features))


def resized(features: Float[Tensor, "b d *s"], shape: Sequence[int]) -> Float[Tensor, "b d *t"]:
    """Return a map at another resolution, by linear interpolation."""
    if tuple(features.shape[2:]) == tuple(shape):
        return features
    mode = "trilinear" if len(shape) == 3 else "bilinear"
    return F.interpolate(features, size=tuple(shape), mode=mode, align_corners=False)


def channels_last(features: Tensor) -> torch.memory_format:
    """Return the channels-last memory layout, in which convolutions in bf16 on a CPU are five times as fast."""
    return torch.channels_last_3d if features.ndim == 5 else torch.channels_last
