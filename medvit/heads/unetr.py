"""UNETR: a decoder whose skip connections are upsampled tokens of earlier blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from medvit.backbones import Backbone
from medvit.heads._decoder import (
    DecoderConfig,
    SegmentationDecoder,
    convolution,
    evenly_spaced,
    lowest_shape,
    num_halvings,
    require_halvings,
    resized,
    token_map,
)
from medvit.registry import register
from medvit.types import Tokens


@register
class UnetrConfig(DecoderConfig):
    """Segmentation in 2D and 3D by the decoder of UNETR (Hatamizadeh et al., WACV 2022)."""

    name: Literal["unetr"] = "unetr"
    channels: int = Field(default=16, ge=1)
    """Channels at full resolution. They double with each halving of the resolution."""

    def build(self, backbone: Backbone, num_classes: int) -> UnetrHead:
        """Return the head for a backbone of any patch size, 2D or 3D.

        Raises:
            ConfigError: If the patches have one pixel per side, or `num_supervised` exceeds the number of lower
                resolutions.
        """
        require_halvings(backbone, self.name)
        head = UnetrHead(backbone, num_classes, self.channels)
        head.supervise(self.num_supervised or 0, num_classes=num_classes, ndim=backbone.ndim)
        return head


class UnetrHead(SegmentationDecoder):
    """Logits (B, L, *S) at the resolution of the pixels.

    The tokens of the last block are the lowest resolution. Each resolution above it is joined with the tokens of an
    earlier block, upsampled by transposed convolutions, and the highest with convolved pixels. With patches of 16
    pixels, the tokens of four depths are used, as published. If the patch size is not a power of two, or differs
    between axes, maps are interpolated.
    """

    def __init__(self, backbone: Backbone, num_classes: int, channels: int) -> None:
        super().__init__()
        from monai.networks.blocks.unetr_block import UnetrBasicBlock, UnetrPrUpBlock, UnetrUpBlock

        halvings, dims = num_halvings(backbone.patch_size), backbone.ndim
        self.layers = evenly_spaced(backbone.depth, halvings)
        self._lowest = halvings
        self._depths = [min(level, len(self.layers)) - 1 for level in range(1, halvings)]
        widths = [channels * 2**level for level in range(halvings)]
        self.detail = UnetrBasicBlock(dims, backbone.channels, channels, 3, 1, "instance", res_block=True)
        self.skips = nn.ModuleList(
            UnetrPrUpBlock(
                dims,
                backbone.width_of(self.layers[depth]),
                widths[level],
                num_layer=halvings - level - 1,
                kernel_size=3,
                stride=1,
                upsample_kernel_size=2,
                norm_name="instance",
                conv_block=True,
                res_block=True,
            )
            for level, depth in enumerate(self._depths, start=1)
        )
        befores = [*widths[1:], backbone.width_of(self.layers[-1])]
        self.up = nn.ModuleList(
            UnetrUpBlock(dims, before, after, 3, 2, "instance", res_block=True)
            for before, after in zip(befores, widths, strict=True)
        )
        self.logits = convolution(dims)(channels, num_classes, kernel_size=1)
        self.lower = [*widths[1:], befores[-1]]

    def features(self, tokens: Sequence[Tokens], pixels: Float[Tensor, "b c *s"]) -> list[Float[Tensor, "b d *t"]]:
        """Return features at all resolutions, from that of the patches to that of the pixels."""
        lowest = lowest_shape(pixels.shape[2:], self._lowest)
        maps = [resized(token_map(depth.patches, depth.grid), lowest) for depth in tokens]
        skips = [self.detail(resized(pixels, [side * 2**self._lowest for side in lowest]))]
        skips += [skip(maps[depth]) for skip, depth in zip(self.skips, self._depths, strict=True)]
        found = [maps[-1]]
        for up, skip in zip(reversed(self.up), reversed(skips), strict=True):
            found.append(up(found[-1], skip))
        return found
