"""MedDINOv3 decoder: concatenated tokens of several blocks, upsampled by transposed convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medvit.backbones import Backbone
from medvit.config import Count
from medvit.heads._decoder import (
    ChannelNorm,
    DecoderConfig,
    SegmentationDecoder,
    evenly_spaced,
    num_halvings,
    require_halvings,
    resized,
    token_map,
    transposed_convolution,
)
from medvit.registry import register
from medvit.types import Tokens


@register
class MedDinoV3Config(DecoderConfig):
    """Segmentation in 2D and 3D by the decoder of MedDINOv3 (Li et al., 2025), from tokens alone."""

    name: Literal["meddinov3"] = "meddinov3"
    num_depths: Count = 4
    """Number of backbone blocks whose outputs are concatenated: evenly spaced, and including the last block."""

    def build(self, backbone: Backbone, num_classes: int) -> MedDinoV3Head:
        """Return the head for a backbone of any patch size, 2D or 3D.

        Raises:
            ConfigError: If the patches have one pixel per side, or `num_supervised` exceeds the number of lower
                resolutions.
        """
        require_halvings(backbone, self.name)
        head = MedDinoV3Head(backbone, num_classes, self.num_depths)
        head.supervise(self.num_supervised or 0, num_classes=num_classes, ndim=backbone.ndim)
        return head


class MedDinoV3Head(SegmentationDecoder):
    """Logits (B, L, *S) at the resolution of the pixels.

    Transposed convolutions, with layer norm and GELU in between, double the resolution and halve the channels; the last
    one gives the logits. If the patch size is not a power of two, or differs between axes, the logits are interpolated
    to the resolution of the pixels.
    """

    def __init__(self, backbone: Backbone, num_classes: int, num_depths: int) -> None:
        super().__init__()
        self.layers = evenly_spaced(backbone.depth, num_depths)
        total, up = sum(map(backbone.width_of, self.layers)), transposed_convolution(backbone.ndim)
        widths = [max(1, total // 2**step) for step in range(num_halvings(backbone.patch_size))]
        self.up = nn.ModuleList(
            nn.Sequential(up(before, after, kernel_size=2, stride=2), ChannelNorm(after), nn.GELU())
            for before, after in pairwise(widths)
        )
        self.logits = up(widths[-1], num_classes, kernel_size=2, stride=2)
        self.lower = widths[-2::-1]

    def features(self, tokens: Sequence[Tokens], pixels: Float[Tensor, "b c *s"]) -> list[Float[Tensor, "b d *t"]]:
        """Return features at all resolutions, from that of the patches to half of that of the pixels."""
        maps = [resized(token_map(depth.patches, depth.grid), tokens[-1].grid) for depth in tokens]
        found = [torch.cat(maps, dim=1)]
        for up in self.up:
            found.append(up(found[-1]))
        return found
