"""Hi-End-MAE (Tang et al., MedIA 2025) for volumes and images: a decoder that queries the encoder at four depths.

Hidden patches are reconstructed by cross-attention to the visible tokens of the encoder, from deep to shallow, so that
every depth learns dense features. The decoder is that of the authors' code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from medvit.backbones import Backbone
from medvit.backbones.vit import transformer_block
from medvit.errors import CheckpointError
from medvit.objectives._encoder_driven import EPSILON, CrossAttention, EncoderDriven, EncoderDrivenConfig
from medvit.objectives.mae import Masking
from medvit.registry import register


@register
class HiEndMaeConfig(EncoderDrivenConfig):
    """Options of Hi-End-MAE: reconstruction of hidden patches from four depths of the encoder."""

    name: Literal["hi_end_mae"] = "hi_end_mae"
    decoder_depth: int = Field(2, ge=0)
    """Number of self-attention blocks in the decoder, before its blocks that also attend to the encoder."""

    def build(self, backbone: Backbone) -> HiEndMae:
        """Return the objective with a new decoder.

        Raises:
            ConfigError: If the depths do not increase up to the last block, or if the width is not a multiple of the
                heads.
        """
        return HiEndMae(backbone, self)


class ReadingBlock(nn.Module):
    """Self-attention, cross-attention to one depth of the encoder, and an MLP, each pre-normed and with a residual.

    Tokens of the encoder are used without a norm.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        block: Any = transformer_block(width, heads)
        self.norm, self.attention = block.norm1, block.attn
        self.norm_before_reading, self.reading = nn.LayerNorm(width, eps=EPSILON), CrossAttention(width, heads)
        self.norm_before_mlp, self.mlp = block.norm2, block.mlp

    def forward(self, asking: Float[Tensor, "b n d"], asked: Float[Tensor, "b m d"]) -> Float[Tensor, "b n d"]:
        """Return the queries after the block."""
        asking = asking + self.attention(self.norm(asking))
        asking = asking + self.reading(self.norm_before_reading(asking), asked)
        result: Tensor = asking + self.mlp(self.norm_before_mlp(asking))
        return result


class HiEndMae(EncoderDriven):
    """Encoder, which is saved after training, and a decoder that is discarded."""

    def __init__(self, backbone: Backbone, config: HiEndMaeConfig) -> None:
        super().__init__(backbone, config)
        width, heads = config.decoder_width, config.decoder_heads
        self.blocks = nn.ModuleList(transformer_block(width, heads) for _ in range(config.decoder_depth))
        self.reading = nn.ModuleList(ReadingBlock(width, heads) for _ in self.layers[:-1])
        self._initialize()
        self.register_load_state_dict_pre_hook(_refuse_earlier_decoder)

    def decode(
        self, encoded: list[Float[Tensor, "b m d"]], masking: Masking, grid: tuple[int, ...]
    ) -> Float[Tensor, "b n p"]:
        """Return the pixels of every patch; prefix tokens are used as queries too.

        The final norm of the backbone is applied to the tokens of the last depth only.
        """
        layers = [*encoded[:-1], self.backbone.norm(encoded[-1])]
        tokens = [embed(layer) for embed, layer in zip(self.embeds, layers, strict=True)]
        num_prefix = self.backbone.num_prefix_tokens
        prefix, seen = tokens[-1][:, :num_prefix], tokens[-1][:, num_prefix:]
        asking = torch.cat([prefix, self.every_patch(seen, masking, grid)], dim=1)
        for block in self.blocks:
            asking = block(asking)
        for reading, layer in zip(self.reading, reversed(tokens[:-1]), strict=True):
            asking = reading(asking, layer)
        return self.predict(self.norm(asking))[:, num_prefix:]

    def _initialize(self) -> None:
        """Initialize as published: Xavier for every layer of the decoder, zero biases in its blocks."""
        for part in (self.embeds, self.blocks, self.reading, self.predict):
            for module in part.modules():
                if isinstance(module, nn.Linear):
                    nn.init.xavier_uniform_(module.weight)
                    if part is not self.embeds:
                        nn.init.zeros_(module.bias)


def _refuse_earlier_decoder(module: nn.Module, state: Mapping[str, Any], prefix: str, *rest: Any) -> None:
    if f"{prefix}reading.0.queries.weight" in state:
        raise CheckpointError(
            "the unfinished run has the hi_end_mae decoder of an earlier version, which is now hi_end_mae_light; "
            "start the run again in another folder"
        )
