"""Backbones: vision transformers and networks of timm and MONAI, which turn pixels into tokens, in 2D or 3D.

A backbone accepts images of any size that is a multiple of its patch size. It declares how many prefix tokens precede
the patch tokens; callers must not assume that there is one. To add a backbone, add a file.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from medvit.channels import fill_missing
from medvit.config import Config, Tree
from medvit.errors import ConfigError
from medvit.registry import Chosen
from medvit.types import Tokens
from medvit.weights import Fit


@dataclass(frozen=True)
class Hidden:
    """Patches to replace by the mask token `token` (D): those for which `mask` (B, N) is True."""

    mask: Bool[Tensor, "b n"]
    token: Float[Tensor, "d"]


@dataclass(frozen=True)
class Carried:
    """Adapter from an earlier training run, which is already merged into the backbone weights of the checkpoint."""

    way: Tree
    """Options of `medvit.peft` with which the adapter was trained."""
    weights: Mapping[str, Tensor]
    """Trained weights of the adapted backbone, keyed by name."""


class Backbone(nn.Module, ABC):
    """Network, usually a vision transformer, that maps pixels (B, C, *S) to tokens."""

    width: int
    depth: int
    ndim: int
    channels: int
    patch_size: tuple[int, ...]
    num_prefix_tokens: int
    norm: nn.Module
    """Norm after the last block."""
    has_blocks: bool = True
    """Whether the backbone is a sequence of transformer blocks (`blocks`) on tokens of patches. Without blocks, as in
    convolutional networks, layers are levels of a pyramid, and methods that need tokens or blocks are refused.
    """
    has_channel_tokens: bool = False
    """Whether each channel of a patch has a token of its own inside the backbone. `Tokens.patches` have one token per
    patch nevertheless.
    """
    channel_names: tuple[str, ...] = ()
    """Names of the channels; if they have names, an image may lack some, which are NaN (`medvit.channels`)."""
    channel_sampling: bool = False
    """Whether training hides random channels (`sampled`)."""
    patch_sizes: tuple[tuple[int, ...], ...] = ()
    """Patch sizes of which one is drawn at random in each training step. Empty: the patch size is fixed."""
    fit: Fit | None = None
    """Report on the loading of public weights, if any."""
    new_weights: frozenset[str] = frozenset()
    """Names of randomly initialized weights among pretrained ones, such as tokens that a public file lacks."""
    mask_token: Tensor | None = None
    """Mask token (D) from pretraining; masking objectives continue to train it."""
    sensitivity: Mapping[str, Tensor] | None = None
    """Sum of squared gradients of the weights that `peft=spt` may choose, keyed by name. None after the choice."""
    carried: Carried | None = None
    """Adapter from pretraining, if the checkpoint has one. None after `peft=continue` has resumed it."""

    @abstractmethod
    def intermediate(self, pixels: Float[Tensor, "b c *s"], layers: Sequence[int]) -> list[Tokens]:
        """Return normalized tokens after each of the blocks `layers`, counted from 0.

        Raises:
            DataError: If a side is not a multiple of the patch size.
        """

    @abstractmethod
    def embed(
        self, pixels: Float[Tensor, "b c *s"], hidden: Hidden | None = None
    ) -> tuple[Float[Tensor, "b n d"], tuple[int, ...]]:
        """Return patch tokens with position embeddings, before the first block, and their grid.

        Patches in `hidden` are replaced by the mask token before the position embeddings are added.
        """

    @abstractmethod
    def encode_layers(
        self,
        patches: Float[Tensor, "b m d"],
        *,
        grid: tuple[int, ...],
        layers: Sequence[int],
        ids: Int[Tensor, "b m"] | None = None,
    ) -> list[Float[Tensor, "b t d"]]:
        """Encode embedded patches; return all tokens after each block in `layers`, before the final norm.

        If `patches` are only some patches of the grid, `ids` are their row-major indices within it. None: all patches.
        """

    def width_of(self, layer: int) -> int:
        """Return the width of the tokens of a layer; in a transformer, all layers have the same width."""
        return self.width

    def stride_of(self, layer: int) -> tuple[int, ...]:
        """Return the number of pixels per token of a layer, along each axis; in a transformer, the patch size."""
        return self.patch_size

    def use_patch_size(self, size: int | tuple[int, ...] | None) -> None:
        """Set the patch size outside of training, for cheaper or finer features; None for the usual patch size.

        Raises:
            ConfigError: If the patch size is fixed.
        """
        raise ConfigError("the patch size of this backbone is fixed; choose backbone=vit with backbone.patch_sizes")

    @property
    def multiple(self) -> tuple[int, ...]:
        """Number of pixels of which the sides of an image must be multiples; in a transformer, the patch size."""
        return self.patch_size

    @property
    def crop_multiple(self) -> tuple[int, ...]:
        """Number of pixels of which the sides of training crops must be multiples, so that all patch sizes fit."""
        sizes = (self.patch_size, *self.patch_sizes)
        return tuple(math.lcm(*sides) for sides in zip(*sizes, strict=True))

    def filled(self, pixels: Float[Tensor, "b c *s"]) -> Float[Tensor, "b c *s"]:
        """Return pixels in which channels that an image lacks have the value `medvit.channels.FILL`."""
        return fill_missing(pixels) if self.channel_names else pixels

    def sampled(self, pixels: Float[Tensor, "b c *s"]) -> Float[Tensor, "b c *s"]:
        """Return pixels of a training batch, of which the backbone may hide some channels; by default, unchanged."""
        return pixels

    def grid_of(self, pixels: Float[Tensor, "b c *s"]) -> tuple[int, ...]:
        """Return the number of patches along each axis."""
        return tuple(side // patch for side, patch in zip(pixels.shape[2:], self.patch_size, strict=True))

    def encode(
        self, patches: Float[Tensor, "b m d"], *, grid: tuple[int, ...], ids: Int[Tensor, "b m"] | None = None
    ) -> Float[Tensor, "b t d"]:
        """Return prefix and patch tokens after the last block and norm; `ids` as in `encode_layers`."""
        tokens: Tensor = self.norm(self.encode_layers(patches, grid=grid, layers=[self.depth - 1], ids=ids)[0])
        return tokens

    def encode_some(
        self, patches: Float[Tensor, "b m d"], *, grid: tuple[int, ...], wanted: Bool[Tensor, "b t"]
    ) -> Float[Tensor, "n d"]:
        """Return the tokens selected by `wanted`, after the last block and norm, in row-major order."""
        return self.encode(patches, grid=grid)[wanted]

    @abstractmethod
    def of_other_rank(self, patch_size: tuple[int, ...], channels: int) -> Self:
        """Return a backbone of the other dimensionality, 2D or 3D: a new patch embedding before the same blocks.

        Raises:
            ConfigError: If the position embeddings support only one dimensionality.
        """

    @abstractmethod
    def embedding_state(self) -> dict[str, Tensor]:
        """Return the weights of the patch embedding, which a 2D and a 3D backbone with the same blocks do not share."""

    def decoder(self, num_classes: int, num_supervised: int = 0) -> nn.Module:
        """Return the network's own decoder, newly initialized.

        It maps pixels and the feature maps of all levels to a list: the logits, then the logits at `num_supervised`
        lower resolutions, in descending resolution.

        Raises:
            ConfigError: If the network has no decoder, or does not support that many lower resolutions.
        """
        raise ConfigError(
            "head=own needs a network with a decoder of its own, and this backbone has none; give "
            "backbone.name=dynunet, or backbone.name=monai with backbone.model=swin_unetr or segresnet, or head=dense"
        )

    def forward(self, pixels: Float[Tensor, "b c *s"]) -> Tokens:
        """Return tokens after the last block."""
        return self.intermediate(pixels, [self.depth - 1])[0]


class BackboneConfig(Config, ABC):
    """Options of a backbone."""

    FOLLOWS_CROP: ClassVar[bool] = False
    """Whether options depend on the size of the crops. If they do, `planned` fills these options in."""
    PLANNED: ClassVar[tuple[str, ...]] = ()
    """Options that `planned` fills in."""

    name: str
    ndim: int | None = None
    """Number of spatial axes: 2 for images, 3 for volumes. Unset: given by the preprocessing."""
    channels: int | None = None
    """Channels of the input. Unset: given by the preprocessing."""
    channel_names: tuple[str, ...] | None = None
    """Names of the channels of the input, such as T1 and FLAIR, of which an image may lack some. Empty: the channels
    have no names. Unset: given by the preprocessing.
    """

    def fitted(self, *, ndim: int, channels: int, channel_names: tuple[str, ...] = ()) -> Self:
        """Return the options, with unset ones filled in from the data.

        Raises:
            ConfigError: If the names of the channels are given, and differ from those of the data.
        """
        if self.channel_names is not None and self.channel_names != channel_names:
            raise ConfigError(
                f"backbone.channel_names is {list(self.channel_names)}, and the preprocessing gives "
                f"{list(channel_names)}; leave it unset, and set preprocess.channel_names"
            )
        known = {"ndim": self.ndim or ndim, "channels": self.channels or channels}
        return self.model_copy(update={**known, "channel_names": channel_names})

    def planned(self, crop: tuple[int, ...], spacing: tuple[float, ...]) -> Self:
        """Return the options, with unset ones planned for the crops and the spacing of the voxels along each axis.

        It is called if `FOLLOWS_CROP` is True.
        """
        return self

    def in_training_as(self, other: BackboneConfig) -> Self:
        """Return these options, except for options that affect only training, which are taken from `other`.

        Such options, for example drop path, change neither the weights nor the features of the backbone.
        """
        return self

    def as_loaded(self, fit: Fit) -> Self:
        """Return the options with choices made in loading public weights, such as the grid of positions, filled in.

        With these options, the weights are loaded in the same way again.
        """
        return self

    def without_weights(self) -> Self:
        """Return the options without public weights, so that `build` does not load any."""
        return self

    @abstractmethod
    def build(self) -> Backbone:
        """Return the backbone, with its public weights if the options name some."""


BackboneChoice = Annotated[BackboneConfig, Chosen("medvit.backbones", default="vit")]
