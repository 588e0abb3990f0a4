"""Head that is the own decoder of a segmentation network, such as DynUNet (Isensee et al., Nature Methods 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from medvit.backbones import Backbone
from medvit.backbones.feature_pyramid import as_map, require_cells_per_image
from medvit.heads import Head, HeadConfig
from medvit.registry import register
from medvit.types import Tokens


@register
class OwnConfig(HeadConfig):
    """Segmentation by the decoder that belongs to the network: of dynunet, or of monai (swin_unetr, segresnet)."""

    name: Literal["own"] = "own"
    deep_supervision: int = Field(default=0, ge=0)
    """Number of lower resolutions at which dynunet is trained as well; the loss has half the weight of the next higher
    resolution. 0: only at full resolution.
    """

    def build(self, backbone: Backbone, num_classes: int) -> OwnHead:
        """Return the decoder, freshly initialized.

        Raises:
            ConfigError: If the backbone has no decoder, or no deep supervision at so many resolutions.
        """
        return OwnHead(backbone, num_classes, self.deep_supervision)


class OwnHead(Head):
    """Logits (B, L, *S) at the resolution of the pixels; in training with deep supervision, (B, K, L, *S)."""

    def __init__(self, backbone: Backbone, num_classes: int, num_supervised: int) -> None:
        super().__init__()
        self.layers = tuple(range(backbone.depth))
        self.decoder = backbone.decoder(num_classes, num_supervised)

    def forward(self, tokens: Sequence[Tokens], pixels: Float[Tensor, "b c *s"]) -> Tensor:
        """Return logits for every pixel or voxel.

        Raises:
            DataError: If the images are too small for the norms of the decoder.
        """
        require_cells_per_image(self.decoder, tokens[-1].grid, tuple(pixels.shape[2:]))
        logits: Tensor = self.decoder(pixels, [as_map(level) for level in tokens])
        return logits
