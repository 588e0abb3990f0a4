"""Backbones: vision transformers that turn pixels, in 2D or 3D, into tokens.

A backbone takes any size that is whole patches, in 2D or 3D, and says how many prefix tokens it puts before the patch
tokens: nobody assumes one. Adding one is adding a file.
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
    """Patches that a learned `token` (D) takes the place of, where `mask` (B, N) is true."""

    mask: Bool[Tensor, "b n"]
    token: Float[Tensor, "d"]


@dataclass(frozen=True)
class Carried:
    """What an earlier training changed of a backbone that is merged by now, as its checkpoint keeps it apart."""

    way: Tree
    """Options of `medvit.peft` by which the backbone was adapted."""
    weights: Mapping[str, Tensor]
    """The weights of the adapted backbone that were trained, by name."""


class Backbone(nn.Module, ABC):
    """Pixels (B, C, *S) to tokens."""

    width: int
    depth: int
    ndim: int
    channels: int
    patch_size: tuple[int, ...]
    num_prefix_tokens: int
    norm: nn.Module
    """The norm after the last block."""
    fit: Fit | None = None
    """How public weights fitted, where some were loaded."""
    mask_token: Tensor | None = None
    """Token (D) of hidden patches when the weights were trained, from which objectives that hide patches start."""
    carried: Carried | None = None
    """What pretraining changed, where a checkpoint keeps it apart; adapting may use it up."""

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
        """Patch tokens with their positions but before any block, and their grid; hidden ones keep only positions."""

    @abstractmethod
    def encode_layers(
        self,
        patches: Float[Tensor, "b m d"],
        *,
        grid: tuple[int, ...],
        layers: Sequence[int],
        ids: Int[Tensor, "b m"] | None = None,
    ) -> list[Float[Tensor, "b t d"]]:
        """Prefix and patch tokens after each of these blocks, before the norm, from embedded patches.

        `ids` says which patches of the grid they are, in row-major order; unset means all of them.
        """

    def grid_of(self, pixels: Float[Tensor, "b c *s"]) -> tuple[int, ...]:
        """Patches along each axis."""
        return tuple(side // patch for side, patch in zip(pixels.shape[2:], self.patch_size, strict=True))

    def encode(
        self, patches: Float[Tensor, "b m d"], *, grid: tuple[int, ...], ids: Int[Tensor, "b m"] | None = None
    ) -> Float[Tensor, "b t d"]:
        """Prefix and patch tokens after the last block and norm; `ids` as in `encode_layers`."""
        tokens: Tensor = self.norm(self.encode_layers(patches, grid=grid, layers=[self.depth - 1], ids=ids)[0])
        return tokens

    def encode_some(
        self, patches: Float[Tensor, "b m d"], *, grid: tuple[int, ...], wanted: Bool[Tensor, "b t"]
    ) -> Float[Tensor, "n d"]:
        """Of the prefix and patch tokens after the last block and norm, those wanted, in row-major order."""
        return self.encode(patches, grid=grid)[wanted]

    @abstractmethod
    def of_other_rank(self, patch_size: tuple[int, ...], channels: int) -> Self:
        """Return a backbone of 2D to one of 3D, or back: a fresh patch embedding of its own before these very blocks.

        Raises:
            ConfigError: If the positions are of one rank alone.
        """

    @abstractmethod
    def embedding_state(self) -> dict[str, Tensor]:
        """Return the weights of the patch embedding, all that backbones of two ranks do not share."""

    def forward(self, pixels: Float[Tensor, "b c *s"]) -> Tokens:
        """Tokens after the last block."""
        return self.intermediate(pixels, [self.depth - 1])[0]


class BackboneConfig(Config, ABC):
    """Options of a backbone."""

    name: str
    ndim: int | None = None
    """2 for images, 3 for volumes. Unset: as the data."""
    channels: int | None = None
    """Channels of the pixels. Unset: as the data."""

    def fitted(self, *, ndim: int, channels: int) -> Self:
        """Return the same options with what follows the data filled in; what was given stays."""
        return self.model_copy(update={"ndim": self.ndim or ndim, "channels": self.channels or channels})

    def in_training_as(self, other: BackboneConfig) -> Self:
        """Return the same backbone.

        With the options of `other` that touch training and neither weights nor features.
        """
        return self

    def as_loaded(self, fit: Fit) -> Self:
        """Return the same options, with what reading the public weights settled, so that they are read alike again."""
        return self

    def without_weights(self) -> Self:
        """Return the same options, to be built without reading public weights."""
        return self

    @abstractmethod
    def build(self) -> Backbone:
        """Return the backbone, with its public weights where the options name some."""


BackboneChoice = Annotated[BackboneConfig, Chosen("medvit.backbones", default="vit")]
