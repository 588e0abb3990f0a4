"""Dense head: a convolutional pyramid for detail, joined with the tokens of several blocks at their resolution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from medvit.backbones import Backbone
from medvit.config import Count
from medvit.errors import ConfigError
from medvit.heads._decoder import (
    DecoderConfig,
    SegmentationDecoder,
    channels_last,
    convolution,
    evenly_spaced,
    num_halvings,
    resized,
    token_map,
)
from medvit.registry import register
from medvit.types import Tokens

MAX_CHANNELS = 256
GROUPS = 4


@register
class DenseConfig(DecoderConfig):
    """Segmentation in 2D and 3D from several depths of the backbone, with a convolutional stem."""

    name: Literal["dense"] = "dense"
    channels: int = Field(default=16, ge=4, multiple_of=4)
    """Channels at full resolution, a multiple of 4. They double with each halving of the resolution, up to 256."""
    num_depths: Count = 4
    """Number of backbone blocks whose outputs the head uses: evenly spaced, and including the last block."""
    stem: Literal["full", "half"] = "full"
    """Highest resolution of the stem: that of the image, or half of it. half needs less memory and time; its logits are
    interpolated to full resolution.
    """

    def build(self, backbone: Backbone, num_classes: int) -> DenseHead:
        """Return the head for a backbone of any patch size, 2D or 3D.

        Raises:
            ConfigError: If `num_supervised` exceeds the number of lower resolutions.
        """
        first = 1 if self.stem == "half" else 0
        if first > num_halvings(backbone.patch_size):
            raise ConfigError("head.stem=half needs patches of at least 2 pixels per side; set head.stem=full")
        head = DenseHead(backbone, num_classes, self.channels, self.num_depths, first=first)
        head.supervise(self.num_supervised or 0, num_classes=num_classes, ndim=backbone.ndim)
        return head


class DenseHead(SegmentationDecoder):
    """Logits (B, L, *S) at the resolution of the pixels.

    The stem halves the resolution until a cell has the size of a patch (or of the nearest power of two below it). At
    this resolution, the tokens of several backbone blocks are projected, summed and joined with the stem. A decoder
    with skip connections restores the resolution, as in UNETR (Hatamizadeh et al., WACV 2022), but detail comes from
    pixels rather than from upsampled tokens. If the backbone is a feature pyramid, its levels with smaller strides are
    added to the stem at their own resolutions. `first` is the number of halvings before the first level of the stem.
    """

    def __init__(self, backbone: Backbone, num_classes: int, channels: int, num_depths: int, *, first: int = 0) -> None:
        super().__init__()
        from monai.networks.blocks.dynunet_block import UnetResBlock

        self.layers = evenly_spaced(backbone.depth, num_depths)
        dims, norm = backbone.ndim, ("group", {"num_groups": GROUPS})
        levels = range(first, num_halvings(backbone.patch_size) + 1)
        widths = [min(channels * 2**level, MAX_CHANNELS) for level in levels]
        conv = convolution(dims)

        def block(before: int, after: int, stride: int = 1) -> nn.Module:
            return UnetResBlock(dims, before, after, kernel_size=3, stride=stride, norm_name=norm)

        self.stem = nn.ModuleList([block(backbone.channels, widths[0], 2**first)])
        self.stem.extend(block(before, after, 2) for before, after in pairwise(widths))
        self._levels = [max(0, int(math.log2(min(backbone.stride_of(layer)))) - first) for layer in self.layers]
        self.read = nn.ModuleList(
            nn.Linear(backbone.width_of(layer), widths[level])
            for layer, level in zip(self.layers, self._levels, strict=True)
        )
        self.join = block(2 * widths[-1], widths[-1])
        upward = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.narrow = nn.ModuleList(conv(before, after, kernel_size=1) for before, after in upward)
        self.up = nn.ModuleList(block(2 * after, after) for _, after in upward)
        self.logits = conv(widths[0], num_classes, kernel_size=1)
        self.lower = widths[1:]

    def features(self, tokens: Sequence[Tokens], pixels: Float[Tensor, "b c *s"]) -> list[Float[Tensor, "b d *t"]]:
        """Return features at all resolutions, from that of the patches to that of the first level of the stem."""
        levels: list[Tensor] = []
        detail = pixels.contiguous(memory_format=channels_last(pixels))
        for block in self.stem:
            detail = block(detail)
            levels.append(detail)
        lowest: list[Tensor] = []
        for read, level, depth in zip(self.read, self._levels, tokens, strict=True):
            meaning = resized(token_map(read(depth.patches), depth.grid), levels[level].shape[2:])
            if level == len(levels) - 1:
                lowest.append(meaning)
            else:
                levels[level] = levels[level] + meaning
        x = self.join(torch.cat([levels.pop(), torch.stack(lowest).sum(0)], dim=1))
        found = [x]
        for narrow, up in zip(self.narrow, self.up, strict=True):
            skip = levels.pop()
            x = up(torch.cat([resized(narrow(x), skip.shape[2:]), skip], dim=1))
            found.append(x)
        return found
