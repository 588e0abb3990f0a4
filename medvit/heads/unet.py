"""U-Net head: a small U-Net on the pixels alone (Ronneberger et al., MICCAI 2015). A baseline without a transformer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from medvit.backbones import Backbone
from medvit.heads import Head, HeadConfig
from medvit.registry import register
from medvit.transforms.padding import pad_to_multiple
from medvit.types import Tokens

GROUPS = 4


@register
class UNetConfig(HeadConfig):
    """Segmentation in 2D and 3D by a small U-Net; the backbone is not used."""

    name: Literal["unet"] = "unet"
    channels: int = Field(default=16, ge=4, multiple_of=4)
    """Channels at full resolution, a multiple of 4. They double with each halving of the resolution."""
    num_levels: int = Field(default=5, ge=2)
    """Number of resolutions; each is half of the one before."""

    def build(self, backbone: Backbone, num_classes: int) -> UNetHead:
        """Return the head for images like those of the backbone, 2D or 3D."""
        return UNetHead(backbone, num_classes, self.channels, self.num_levels)


class UNetHead(Head):
    """Logits (B, L, *S) of a U-Net like that of nnU-Net (Isensee et al., Nature Methods 2021), but smaller.

    Group normalization replaces instance normalization, which is undefined if the lowest resolution is a single cell.
    """

    reads_tokens: ClassVar[bool] = False

    def __init__(self, backbone: Backbone, num_classes: int, channels: int, num_levels: int) -> None:
        super().__init__()
        from monai.networks.nets.dynunet import DynUNet

        self.layers = ()
        strides = [1, *([2] * (num_levels - 1))]
        self.multiple = (2 ** (num_levels - 1),) * backbone.ndim
        self.net: nn.Module = DynUNet(
            backbone.ndim,
            backbone.channels,
            num_classes,
            kernel_size=[3] * num_levels,
            strides=strides,
            upsample_kernel_size=strides[1:],
            filters=[channels * 2**level for level in range(num_levels)],
            norm_name=("group", {"num_groups": GROUPS}),
        )

    def forward(self, tokens: Sequence[Tokens], pixels: Float[Tensor, "b c *s"]) -> Float[Tensor, "b l *s"]:
        """Return logits for every pixel or voxel; `tokens` are not used."""
        logits: Tensor = self.net(pad_to_multiple(pixels, self.multiple))
        inside: tuple[Any, ...] = (..., *(slice(size) for size in pixels.shape[2:]))
        return logits[inside]
