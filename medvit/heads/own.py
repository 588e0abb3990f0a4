"""Head that is the own decoder of a segmentation network, such as DynUNet (Isensee et al., Nature Methods 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from medvit.backbones import Backbone
from medvit.backbones.feature_pyramid import as_map, require_cells_per_image
from medvit.heads import Head
from medvit.heads._decoder import DecoderConfig
from medvit.registry import register
from medvit.types import Tokens


@register
class OwnConfig(DecoderConfig):
    """Segmentation by the network's own decoder, for the backbones dynunet and monai (swin_unetr, segresnet)."""

    name: Literal["own"] = "own"

    def build(self, backbone: Backbone, num_classes: int) -> OwnHead:
        """Return the decoder, freshly initialized.

        Raises:
            ConfigError: If the backbone has no decoder, or does not support deep supervision at that many resolutions.
        """
        return OwnHead(backbone, num_classes, self.num_supervised or 0)


class OwnHead(Head):
    """Logits (B, L, *S) at the resolution of the pixels; DynUNet also gives logits at lower resolutions."""

    def __init__(self, backbone: Backbone, num_classes: int, num_supervised: int) -> None:
        super().__init__()
        self.layers = tuple(range(backbone.depth))
        self.decoder = backbone.decoder(num_classes, num_supervised)

    def forward(self, tokens: Sequence[Tokens], pixels: Float[Tensor, "b c *s"]) -> Tensor:
        """Return logits for every pixel or voxel.

        Raises:
            DataError: If the images are too small for the norms of the decoder.
        """
        return self.at_levels(tokens, pixels)[0]

    def at_levels(self, tokens: Sequence[Tokens], pixels: Float[Tensor, "b c *s"]) -> list[Float[Tensor, "b l *t"]]:
        """Return logits for every pixel, then those of the lower resolutions that are trained, highest first.

        Raises:
            DataError: If the images are too small for the norms of the decoder.
        """
        require_cells_per_image(self.decoder, tokens[-1].grid, tuple(pixels.shape[2:]))
        logits: list[Tensor] = self.decoder(pixels, [as_map(level) for level in tokens])
        return logits
