"""ChannelViT (Bao et al., ICLR 2024) in 2D and 3D: one token for each patch of each channel.

All channels share the position embeddings and one patch embedding, which takes a single channel. Each channel also has
a learned embedding that is added to all of its tokens. Images may lack channels; tokens of missing channels take no
part in the attention.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from medvit.backbones import Hidden
from medvit.backbones.vit import ViT, VitConfig
from medvit.channels import draw_channels, fill_missing, mark_missing, present_channels
from medvit.errors import ConfigError, DataError
from medvit.registry import register
from medvit.types import Tokens


@register
class ChannelVitConfig(VitConfig):
    """Vision transformer with a token for each patch of each channel, for images that may lack some channels.

    Weights of an ordinary vision transformer can be loaded: the kernels of its patch embedding are summed over its
    channels, so that for images with one channel, both transformers initially give the same features. The embeddings
    of the channels are initially zero.
    """

    name: Literal["channel_vit"] = "channel_vit"  # type: ignore[assignment]
    channel_sampling: bool = True
    """Hide a random subset of the channels in each training step (hierarchical channel sampling), so that the model
    also learns from images with missing channels.
    """

    def in_training_as(self, other: VitConfig) -> Self:  # type: ignore[override]
        """Return a copy of these options; options that affect only training are taken from `other`."""
        own = super().in_training_as(other)
        if isinstance(other, ChannelVitConfig):
            own = own.model_copy(update={"channel_sampling": other.channel_sampling})
        assert isinstance(own, type(self))
        return own

    def build(self) -> ChannelViT:
        """Return the transformer, with public weights if the options name some.

        Raises:
            ConfigError: If the options contradict each other.
            CheckpointError: If the public weights do not match the layout.
        """
        model = ChannelViT(self)
        self.load_weights(model)
        return model


class ChannelViT(ViT):
    """Vision transformer whose tokens are those of all patches of the first channel, then of the second, and so on.

    The output has one token for each patch: the mean over the channels that the image has.
    """

    has_channel_tokens = True

    def __init__(self, config: ChannelVitConfig) -> None:
        super().__init__(config.model_copy(update={"channels": 1}))
        self.channels, self.channel_sampling = config.channels or 1, config.channel_sampling
        self.channel_embed = nn.Parameter(torch.zeros(1, self.channels, self.width))

    def embed(
        self, pixels: Float[Tensor, "b c *s"], hidden: Hidden | None = None
    ) -> tuple[Float[Tensor, "b n d"], tuple[int, ...]]:
        """Return the tokens of all patches of all channels, before the first block, and the grid of patches.

        The grid is the number of patches along each axis. The tokens of channels that an image lacks have no meaning.
        Tokens in `hidden` are replaced by the mask token.
        """
        return self._embed(pixels, torch.arange(self.channels, device=pixels.device), hidden)

    def intermediate(self, pixels: Float[Tensor, "b c *s"], layers: Sequence[int]) -> list[Tokens]:
        """Return normalized tokens after each of the blocks `layers`, counted from 0.

        The token of a patch is the mean over the channels that the image has.

        Raises:
            DataError: If an image has no channel, or a side is not a multiple of the patch size.
        """
        present = present_channels(pixels)
        if not present.any(dim=1).all():
            raise DataError(f"an image has none of the {self.channels} channels of the backbone; expected at least one")
        used = present.any(dim=0).nonzero()[:, 0]  # channels that the whole batch lacks cost nothing
        present, num_prefix = present[:, used], self.num_prefix_tokens
        patches, grid = self._embed(pixels, used)
        num_patches = patches.shape[1] // len(used)
        seen = None if present.all() else present.repeat_interleave(num_patches, dim=1)
        found = [self.norm(tokens) for tokens in self._run(patches, grid, None, layers, seen=seen)]
        return [
            Tokens(tokens[:, :num_prefix], _mean_of_channels(tokens[:, num_prefix:], present), grid) for tokens in found
        ]

    def filled(self, pixels: Float[Tensor, "b c *s"]) -> Float[Tensor, "b c *s"]:
        """Return pixels in which missing channels, including those hidden in training, are `FILL`."""
        return fill_missing(pixels)

    def sampled(self, pixels: Float[Tensor, "b c *s"]) -> Float[Tensor, "b c *s"]:
        """Return pixels of a training batch in which a random subset of the channels is marked as missing."""
        if not (self.training and self.channel_sampling and self.channels > 1):
            return pixels
        return mark_missing(pixels, draw_channels(present_channels(pixels)))

    def of_other_rank(self, patch_size: tuple[int, ...], channels: int) -> Self:
        """Raise a `ConfigError`, because 2D and 3D images do not have the same named channels."""
        raise ConfigError("backbone=channel_vit supports only 2D or only 3D; choose backbone=vit to train on both")

    def _embed(
        self, pixels: Float[Tensor, "b c *s"], channels: Int[Tensor, "u"], hidden: Hidden | None = None
    ) -> tuple[Float[Tensor, "b n d"], tuple[int, ...]]:
        """Return the embedded tokens of some channels, and the number of patches along each axis."""
        self._require_channels(pixels)
        size = self._patch_size_for(pixels)
        single = fill_missing(pixels)[:, channels].flatten(0, 1)[:, None]
        features = self._projected(single, size)
        grid = tuple(features.shape[2:])
        patches = features.flatten(2).transpose(1, 2).unflatten(0, (len(pixels), -1))  # (B, U, N, D)
        if hidden is not None:
            mask = hidden.mask.unflatten(1, (len(channels), -1))[..., None]
            patches = torch.where(mask, hidden.token.to(patches.dtype), patches)
        patches = patches + self.channel_embed[:, channels, None].to(patches)
        added = self.added_positions(grid, size)
        patches = patches if added is None else patches + added.to(patches)
        return patches.flatten(1, 2), grid

    def _rotations(self, grid: tuple[int, ...], ids: Tensor | None, patches: Tensor) -> dict[str, Tensor]:
        """Return the rotary position embeddings of the tokens; they do not depend on the channel of a token."""
        num_patches = math.prod(grid)
        if ids is not None:
            return super()._rotations(grid, ids % num_patches, patches)
        rotations = super()._rotations(grid, None, patches)
        return {name: rope.repeat(patches.shape[1] // num_patches, 1) for name, rope in rotations.items()}


def _mean_of_channels(tokens: Float[Tensor, "b n d"], present: Bool[Tensor, "b u"]) -> Float[Tensor, "b m d"]:
    """Return the mean of the tokens of each patch over the channels that are present."""
    of_channels = tokens.unflatten(1, (present.shape[1], -1))  # (B, U, N, D)
    if present.shape[1] == 1:
        return of_channels[:, 0]
    weights = present.to(tokens.dtype) / present.sum(dim=1, keepdim=True).clamp(min=1)
    return (of_channels * weights[:, :, None, None]).sum(dim=1)
