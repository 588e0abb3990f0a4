"""Dense head: a convolutional pyramid for detail, joined by tokens of several depths at their resolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from medvit.backbones import Backbone
from medvit.config import Count
from medvit.heads import Head, HeadConfig
from medvit.registry import register
from medvit.types import Tokens

MAX_CHANNELS = 256
GROUPS = 4


@register
class DenseConfig(HeadConfig):
    """Segmentation in 2D and 3D from several depths of the backbone, with a convolutional stem."""

    name: Literal["dense"] = "dense"
    channels: int = Field(default=16, ge=4, multiple_of=4)
    """Channels at full resolution, a multiple of 4. They double with each halving of the resolution, up to 256."""
    num_depths: Count = 4
    """Number of backbone blocks whose outputs the head uses: evenly spaced, and including the last block."""

    def build(self, backbone: Backbone, num_classes: int) -> DenseHead:
        """Return the head for a backbone of any patch size, 2D or 3D."""
        return DenseHead(backbone, num_classes, self.channels, self.num_depths)


class DenseHead(Head):
    """Logits (B, L, *S) at the resolution of the pixels.

    The stem halves the resolution until a cell has the size of a patch (or of the nearest power of two below it). At
    this resolution, the tokens of several backbone blocks are projected, summed and joined with the stem. A decoder
    with skip connections restores the resolution, as in UNETR (Hatamizadeh et al., WACV 2022), but detail comes from
    pixels rather than from upsampled tokens. Levels of a pyramid with smaller strides are added to the stem at theirs.
    """

    def __init__(self, backbone: Backbone, num_classes: int, channels: int, num_depths: int) -> None:
        super().__init__()
        from monai.networks.blocks.dynunet_block import UnetResBlock

        self.layers = evenly_spaced(backbone.depth, num_depths)
        dims, norm = backbone.ndim, ("group", {"num_groups": GROUPS})
        num_levels = int(math.log2(min(backbone.patch_size)))
        widths = [min(channels * 2**level, MAX_CHANNELS) for level in range(num_levels + 1)]
        convolution = nn.Conv3d if dims == 3 else nn.Conv2d

        def block(before: int, after: int, stride: int = 1) -> nn.Module:
            return UnetResBlock(dims, before, after, kernel_size=3, stride=stride, norm_name=norm)

        self.stem = nn.ModuleList([block(backbone.channels, widths[0])])
        self.stem.extend(block(before, after, 2) for before, after in pairwise(widths))
        self._levels = [int(math.log2(min(backbone.stride_of(layer)))) for layer in self.layers]
        self.read = nn.ModuleList(
            nn.Linear(backbone.width_of(layer), widths[level])
            for layer, level in zip(self.layers, self._levels, strict=True)
        )
        self.join = block(2 * widths[-1], widths[-1])
        upward = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.narrow = nn.ModuleList(convolution(before, after, kernel_size=1) for before, after in upward)
        self.up = nn.ModuleList(block(2 * after, after) for _, after in upward)
        self.logits = convolution(widths[0], num_classes, kernel_size=1)

    def forward(self, tokens: Sequence[Tokens], pixels: Float[Tensor, "b c *s"]) -> Float[Tensor, "b l *s"]:
        """Return logits for every pixel or voxel."""
        levels: list[Tensor] = []
        detail = pixels.contiguous(memory_format=_channels_last(pixels))
        for block in self.stem:
            detail = block(detail)
            levels.append(detail)
        lowest: list[Tensor] = []
        for read, level, depth in zip(self.read, self._levels, tokens, strict=True):
            features = _map(read(depth.patches), depth, levels[level].shape[2:])
            if level == len(levels) - 1:
                lowest.append(features)
            else:
                levels[level] = levels[level] + features
        x = self.join(torch.cat([levels.pop(), torch.stack(lowest).sum(0)], dim=1))
        for narrow, up in zip(self.narrow, self.up, strict=True):
            skip = levels.pop()
            x = up(torch.cat([_resized(narrow(x), skip.shape[2:]), skip], dim=1))
        return self.logits(x)


def evenly_spaced(depth: int, count: int) -> tuple[int, ...]:
    """Return `count` evenly spaced block indices, including the last block, such as (2, 5, 8, 11) for 12 blocks."""
    count = min(count, depth)
    return tuple(math.ceil(depth * (step + 1) / count) - 1 for step in range(count))


def _map(patches: Float[Tensor, "b n d"], tokens: Tokens, shape: torch.Size) -> Float[Tensor, "b d *s"]:
    axes = "i j k" if len(tokens.grid) == 3 else "h w"
    sizes = dict(zip(axes.split(), tokens.grid, strict=True))
    features = rearrange(patches, f"b ({axes}) d -> b d {axes}", **sizes)
    return _resized(features.contiguous(memory_format=_channels_last(features)), shape)


def _resized(features: Float[Tensor, "b d *s"], shape: torch.Size) -> Float[Tensor, "b d *t"]:
    if features.shape[2:] == shape:
        return features
    mode = "trilinear" if len(shape) == 3 else "bilinear"
    return F.interpolate(features, size=shape, mode=mode, align_corners=False)


def _channels_last(features: Tensor) -> torch.memory_format:
    """Return the channels-last memory layout, in which convolutions in bf16 on a CPU are five times as fast."""
    return torch.channels_last_3d if features.ndim == 5 else torch.channels_last
