"""Heads: tokens to logits.

A head declares which depths of the backbone it reads (`layers`, block indices; empty means the last) and maps their
tokens, and the pixels they came from, to logits (B, L) or (B, L, *S). Adding one is adding a file.

A `BagHead` reads a bag of tokens, at once or a chunk at a time: the patches of an image, or the tiles of a slide,
embedded in advance (multiple-instance learning).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from medvit.backbones import Backbone
from medvit.config import Config, Tree
from medvit.errors import ConfigError
from medvit.registry import Chosen
from medvit.types import Tokens


class Head(nn.Module, ABC):
    """Head from the tokens of `layers` to logits."""

    layers: tuple[int, ...]

    @abstractmethod
    def forward(self, tokens: Sequence[Tokens], pixels: Float[Tensor, "b c *s"]) -> Float[Tensor, "b l *t"]:
        """Return logits of a batch; `tokens` are in the order of `layers`."""


@dataclass(frozen=True)
class BagOutput:
    """Output of a bag head: `logits` (B, L), and `attention` (B, K, N): each of its K maps sums to 1 over a bag."""

    logits: Float[Tensor, "b l"]
    attention: Float[Tensor, "b k n"]


class TileEmbeddings(Protocol):
    """Embeddings of one bag, in memory or on disk."""

    def __len__(self) -> int:
        """Number of embeddings."""

    def take(self, indices: Int[Tensor, "m"]) -> Float[Tensor, "m d"]:
        """Return some embeddings, float32, on the device of the head."""


class BagHead(Head):
    """Head on bags of embeddings (B, N, D), without order unless the head documents otherwise."""

    layers = ()

    @abstractmethod
    def read(self, bags: Float[Tensor, "b n d"], present: Bool[Tensor, "b n"] | None = None) -> BagOutput:
        """Return logits and attention of a batch of bags; `present` is false for the padding of short bags."""

    @abstractmethod
    def stream(self, tiles: TileEmbeddings, chunk: int) -> BagOutput:
        """Return the output for one bag of any size, of which at most `chunk` embeddings are in memory at once."""

    def forward(self, tokens: Sequence[Tokens], pixels: Float[Tensor, "b c *s"]) -> Float[Tensor, "b l"]:
        """Return logits of images, whose patch tokens are the bag; the pixels are not used."""
        return self.read(tokens[-1].patches).logits


class HeadConfig(Config, ABC):
    """Options of a head."""

    name: str

    @abstractmethod
    def build(self, backbone: Backbone, num_classes: int) -> Head:
        """Return the head, freshly initialized, for a backbone and a number of classes."""

    def build_for_bags(self, width: int, num_classes: int) -> BagHead:
        """Return the head for bags of embeddings of a width, as for the tiles of a slide.

        Raises:
            ConfigError: If it does not accept bags.
        """
        raise ConfigError(
            f"head.name={self.name} does not accept bags of tiles; for slides give abmil, transmil, "
            "transformer_mil or mean"
        )


HeadChoice = Annotated[HeadConfig, Chosen("medvit.heads", default="linear")]
OptionalHeadChoice = Annotated[HeadConfig | None, Chosen("medvit.heads", default="linear", optional=True)]


def of_earlier_version(model: Tree) -> Tree:
    """Return the description of a model with its head under its present name.

    Checkpoints of earlier versions call `transformer_mil` transmil, which is now the published head: only their
    descriptions have `max_tiles`.
    """
    head = model.get("head")
    if isinstance(head, Mapping) and head.get("name") == "transmil" and "max_tiles" in head:
        return {**model, "head": {**head, "name": "transformer_mil"}}
    return model
