"""Backbones: vision transformers that turn pixels, in 2D or 3D, into tokens.

A backbone accepts any size of whole patches, in 2D or 3D, and declares how many prefix tokens precede the patch tokens:
callers must not assume one. Adding one is adding a file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Self

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from medvit.config import Config, Tree
from medvit.registry import Chosen
from medvit.types import Tokens
from medvit.weights import Fit


@dataclass(frozen=True)
class Hidden:
    """Patches to replace by a learned `token` (D), where `mask` (B, N) is true."""

    mask: Bool[Tensor, "b n"]
    token: Float[Tensor, "d"]


@dataclass(frozen=True)
class Carried:
    """Adapter of an earlier training, from a checkpoint whose backbone weights have it merged."""

    way: Tree
    """Options of `medvit.peft` by which the backbone was adapted."""
    weights: Mapping[str, Tensor]
    """Trained weights of the adapted backbone, by name."""


class Backbone(nn.Module, ABC):
    """Backbone from pixels (B, C, *S) to tokens."""

    width: int
    depth: int
    ndim: int
    channels: int
    patch_size: tuple[int, ...]
    num_prefix_tokens: int
    norm: nn.Module
    """Norm after the last block."""
    fit: Fit | None = None
    """Report on the loading of public weights, if any."""
    mask_token: Tensor | None = None
    """Mask token (D) from pretraining, which masking objectives start from."""
    carried: Carried | None = None
    """Adapter of pretraining, if the checkpoint has one; adapting may consume it."""

    @abstractmethod
    def intermediate(self, pixels: Float[Tensor, "b c *s"], layers: Sequence[int]) -> list[Tokens]:
        """Return normalized tokens after each of these blocks, counted from 0.

        Raises:
            DataError: If a side is not whole patches.
        """

    @abstractmethod
    def embed(
        self, pixels: Float[Tensor, "b c *s"], hidden: Hidden | None = None
    ) -> tuple[Float[Tensor, "b n d"], tuple[int, ...]]:
        """Return patch tokens with positions, before any block, and their grid; hidden ones have only positions."""

    @abstractmethod
    def encode_layers(
        self,
        patches: Float[Tensor, "b m d"],
        *,
        grid: tuple[int, ...],
        layers: Sequence[int],
        ids: Int[Tensor, "b m"] | None = None,
    ) -> list[Float[Tensor, "b t d"]]:
        """Return prefix and patch tokens after each of these blocks, before the norm, from embedded patches.

        `ids` are the indices of the patches in the grid, in row-major order; None means all.
        """

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
        """Return selected prefix and patch tokens after the last block and norm, in row-major order."""
        return self.encode(patches, grid=grid)[wanted]

    @abstractmethod
    def of_other_rank(self, patch_size: tuple[int, ...], channels: int) -> Self:
        """Return a backbone of the other rank, 2D or 3D: a new patch embedding before the same blocks.

        Raises:
            ConfigError: If the positions support only one rank.
        """

    @abstractmethod
    def embedding_state(self) -> dict[str, Tensor]:
        """Return the weights of the patch embedding, the only ones that the backbones of two ranks do not share."""

    def forward(self, pixels: Float[Tensor, "b c *s"]) -> Tokens:
        """Return tokens after the last block."""
        return self.intermediate(pixels, [self.depth - 1])[0]


class BackboneConfig(Config, ABC):
    """Options of a backbone."""

    name: str
    ndim: int | None = None
    """Number of spatial axes: 2 for images, 3 for volumes. Unset: given by the preprocessing."""
    channels: int | None = None
    """Channels of the input. Unset: given by the preprocessing."""

    def fitted(self, *, ndim: int, channels: int) -> Self:
        """Return the same options with unset ones filled in from the data."""
        return self.model_copy(update={"ndim": self.ndim or ndim, "channels": self.channels or channels})

    def in_training_as(self, other: BackboneConfig) -> Self:
        """Return the same backbone.

        With the options of `other` that affect training but neither weights nor features.
        """
        return self

    def as_loaded(self, fit: Fit) -> Self:
        """Return the same options, with the decisions made in loading the public weights.

        So they load the same way again.
        """
        return self

    def without_weights(self) -> Self:
        """Return the same options, to be built without loading public weights."""
        return self

    @abstractmethod
    def build(self) -> Backbone:
        """Return the backbone, with its public weights if the options name some."""


BackboneChoice = Annotated[BackboneConfig, Chosen("medvit.backbones", default="vit")]
