"""Variant of Hi-End-MAE (Tang et al., MedIA 2025) with a smaller decoder over the same depths of the encoder.

For each depth except the last, the decoder has a transformer block, and a cross-attention without a separate MLP.
Tokens of a depth are used after the encoder's norm, and prefix tokens are not used as queries. The decoder has two
thirds of the parameters of the published one.
"""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from medvit.backbones import Backbone
from medvit.backbones.vit import transformer_block
from medvit.objectives._encoder_driven import EPSILON, CrossAttention, EncoderDriven, EncoderDrivenConfig
from medvit.objectives.mae import Masking
from medvit.registry import register


@register
class HiEndMaeLightConfig(EncoderDrivenConfig):
    """Options of the smaller Hi-End-MAE: reconstruction from four depths with fewer blocks than published."""

    name: Literal["hi_end_mae_light"] = "hi_end_mae_light"

    def build(self, backbone: Backbone) -> HiEndMaeLight:
        """Return the objective with a new decoder.

        Raises:
            ConfigError: If the depths do not increase up to the last block, or if the width is not a multiple of the
                heads.
        """
        return HiEndMaeLight(backbone, self)


class HiEndMaeLight(EncoderDriven):
    """Encoder, which is saved after training, and a decoder that is discarded."""

    def __init__(self, backbone: Backbone, config: HiEndMaeLightConfig) -> None:
        super().__init__(backbone, config)
        width, heads = config.decoder_width, config.decoder_heads
        self.blocks = nn.ModuleList(transformer_block(width, heads) for _ in self.layers[:-1])
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=EPSILON) for _ in self.layers[:-1])
        self.reading = nn.ModuleList(CrossAttention(width, heads) for _ in self.layers[:-1])

    def decode(
        self, encoded: list[Float[Tensor, "b m d"]], masking: Masking, grid: tuple[int, ...]
    ) -> Float[Tensor, "b n p"]:
        """Return the pixels of every patch."""
        normed = [self.backbone.norm(layer) for layer in encoded]
        tokens = [embed(layer) for embed, layer in zip(self.embeds, normed, strict=True)]
        asking = self.every_patch(tokens[-1][:, self.backbone.num_prefix_tokens :], masking, grid)
        steps = zip(self.blocks, self.norms, self.reading, reversed(tokens[:-1]), strict=True)
        for block, norm, reading, layer in steps:
            asking = block(asking)
            asking = asking + reading(norm(asking), layer)
        return self.predict(self.norm(asking))
