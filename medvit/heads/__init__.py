"""Heads: tokens to logits.

A head says which depths of the backbone it reads (`layers`, block indices; empty means the last) and takes their
tokens, and the pixels they came from, to logits (B, L) or (B, L, *S). Adding one is adding a file.

A `BagHead` reads a bag of tokens, at once or a chunk at a time: the patches of an image, or the tiles of a slide,
embedded before (multiple-instance learning).
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
    """Reads tokens of `layers`, gives logits."""

    layers: tuple[int, ...]

    @abstractmethod
    def forward(self, tokens: Sequence[Tokens], pixels: Float[Tensor, "b c *s"]) -> Float[Tensor, "b l *t"]:
        """Logits of a batch; `tokens` in the order of `layers`."""


@dataclass(frozen=True)
class BagOutput:
    """What a head made of bags: `logits` (B, L), and `attention` (B, K, N): each of its K maps sums to 1 over a bag."""

    logits: Float[Tensor, "b l"]
    attention: Float[Tensor, "b k n"]


class TileEmbeddings(Protocol):
    """The embeddings of one bag, in memory or on disk."""

    def __len__(self) -> int:
        """How many there are."""

    def take(self, indices: Int[Tensor, "m"]) -> Float[Tensor, "m d"]:
        """Return some of them, float32, on the device of the head."""


class BagHead(Head):
    """Reads bags of embeddings (B, N, D), whose order means nothing; a head to which it does says so."""

    layers = ()

    @abstractmethod
    def read(self, bags: Float[Tensor, "b n d"], present: Bool[Tensor, "b n"] | None = None) -> BagOutput:
        """Logits and attention of a batch of bags; `present` is false where a short bag was filled up."""

    @abstractmethod
    def stream(self, tiles: TileEmbeddings, chunk: int) -> BagOutput:
        """Return the reading of one bag of any size, of which at most `chunk` embeddings are in memory at once."""

    def forward(self, tokens: Sequence[Tokens], pixels: Float[Tensor, "b c *s"]) -> Float[Tensor, "b l"]:
        """Logits of images, whose patch tokens are the bag; the pixels are not looked at."""
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
            ConfigError: If it reads no bags.
        """
        raise ConfigError(
            f"head.name={self.name} reads no bags of tiles; for slides give abmil, transmil, transformer_mil or mean"
        )


HeadChoice = Annotated[HeadConfig, Chosen("medvit.heads", default="linear")]
OptionalHeadChoice = Annotated[HeadConfig | None, Chosen("medvit.heads", default="linear", optional=True)]


def of_earlier_version(model: Tree) -> Tree:
    """Return the description of a model with its head under its present name.

    Checkpoints of earlier versions call `transformer_mil` transmil, which is now the published head: only descriptions
    of theirs have `max_tiles`.
    """
    head = model.get("head")
    if isinstance(head, Mapping) and head.get("name") == "transmil" and "max_tiles" in head:
        return {**model, "head": {**head, "name": "transformer_mil"}}
    return model
