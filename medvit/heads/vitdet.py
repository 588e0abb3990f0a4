"""Simple feature pyramid of ViTDet: several resolutions from the tokens of the last block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from medvit.backbones import Backbone
from medvit.heads._decoder import (
    ChannelNorm,
    DecoderConfig,
    SegmentationDecoder,
    convolution,
    num_halvings,
    resized,
    token_map,
    transposed_convolution,
)
from medvit.registry import register
from medvit.types import Tokens


@register
class VitDetConfig(DecoderConfig):
    """Segmentation in 2D and 3D from the simple feature pyramid of ViTDet (Li et al., ECCV 2022)."""

    name: Literal["vitdet"] = "vitdet"
    channels: int = Field(default=64, ge=4)
    """Channels of each level of the pyramid. The paper has 256, in 2D."""

    def build(self, backbone: Backbone, num_classes: int) -> VitDetHead:
        """Return the head for a backbone of any patch size, 2D or 3D.

        Raises:
            ConfigError: If `num_supervised` exceeds the number of lower resolutions.
        """
        head = VitDetHead(backbone, num_classes, self.channels)
        head.supervise(self.num_supervised or 0, num_classes=num_classes, ndim=backbone.ndim)
        return head


class VitDetHead(SegmentationDecoder):
    """Logits (B, L, *S) at the resolution of the pixels, from strides of 2, 1, 1/2 and 1/4 patches.

    With patches of 16 pixels, these are the strides 32, 16, 8 and 4 of the paper. Strides below a pixel are omitted.
    Transposed convolutions and max pooling make the levels. Each is projected to the same number of channels, and they
    are summed from the lowest resolution to the highest (Kirillov et al., CVPR 2019). Logits are interpolated to the
    pixels.
    """

    def __init__(self, backbone: Backbone, num_classes: int, channels: int) -> None:
        super().__init__()
        self.layers = ()
        width, dims = backbone.width, backbone.ndim
        conv = convolution(dims)
        scales = [_halved(dims), nn.Identity(), _doubled(dims, width), _quadrupled(dims, width)]
        widths = [width, width, width // 2, width // 4]
        count = 2 + min(2, num_halvings(backbone.patch_size))
        self.pyramid = nn.ModuleList(
            nn.Sequential(
                scale,
                conv(before, channels, kernel_size=1, bias=False),
                ChannelNorm(channels),
                conv(channels, channels, kernel_size=3, padding=1, bias=False),
                ChannelNorm(channels),
            )
            for scale, before in zip(scales[:count], widths[:count], strict=True)
        )
        self.logits = conv(channels, num_classes, kernel_size=1)
        self.lower = [channels] * (count - 1)

    def levels(self, tokens: Tokens) -> list[Float[Tensor, "b d *t"]]:
        """Return the levels of the pyramid, from the lowest resolution to the highest."""
        features = token_map(tokens.patches, tokens.grid)
        return [level(features) for level in self.pyramid]

    def features(self, tokens: Sequence[Tokens], pixels: Float[Tensor, "b c *s"]) -> list[Float[Tensor, "b d *t"]]:
        """Return features at each resolution: the sum of this level of the pyramid and all levels below."""
        lowest, *others = self.levels(tokens[-1])
        found = [lowest]
        for level in others:
            found.append(level + resized(found[-1], level.shape[2:]))
        return found


def _halved(ndim: int) -> nn.Module:
    pool = nn.MaxPool3d if ndim == 3 else nn.MaxPool2d
    return pool(kernel_size=2, stride=2, ceil_mode=True)


def _doubled(ndim: int, width: int) -> nn.Module:
    return transposed_convolution(ndim)(width, width // 2, kernel_size=2, stride=2)


def _quadrupled(ndim: int, width: int) -> nn.Module:
    up = transposed_convolution(ndim)
    return nn.Sequential(
        up(width, width // 2, kernel_size=2, stride=2),
        ChannelNorm(width // 2),
        nn.GELU(),
        up(width // 2, width // 4, kernel_size=2, stride=2),
    )
