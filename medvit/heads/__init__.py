"""Heads, which map tokens to logits.

A head declares in `layers` the indices of the backbone blocks whose outputs it reads; empty means the last block. It
maps the tokens of these blocks, and the pixels they were computed from, to logits (B, L) or (B, L, *S). To add a head,
add a file.

A `BagHead` reads a bag of tokens, at once or in chunks: the patches of an image, or the tiles of a slide, embedded in
advance (multiple-instance learning).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from medvit.backbones import Backbone
from medvit.config import Config, Tree
from medvit.errors import ConfigError
from medvit.registry import Chosen
from medvit.types import Tokens


class Head(nn.Module, ABC):
    """Head that maps the tokens after the backbone blocks `layers` to logits."""

    HAS_ATTENTION: ClassVar[bool] = False
    """Whether the head pools patches by attention (`attention_to_patches`)."""

    layers: tuple[int, ...]

    @abstractmethod
    def forward(self, tokens: Sequence[Tokens], pixels: Float[Tensor, "b c *s"]) -> Float[Tensor, "b l *t"]:
        """Return logits of a batch; `tokens` has the tokens after each block in `layers`, in the same order."""

    def at_levels(self, tokens: Sequence[Tokens], pixels: Float[Tensor, "b c *s"]) -> list[Float[Tensor, "b l *t"]]:
        """Return the logits, then the logits at lower resolutions that are also trained, in descending resolution."""
        return [self(tokens, pixels)]

    def start_at(self, logits: Float[Tensor, "l"]) -> None:
        """Set the bias of the last layer, so that a new head predicts about these logits for every image.

        A head whose last layer is not a `linear` with one bias per logit is unchanged.
        """
        linear = getattr(self, "linear", None)
        if isinstance(linear, nn.Linear) and linear.bias.shape == logits.shape:
            with torch.no_grad():
                linear.bias.copy_(logits)

    def attention_to_patches(self, tokens: Sequence[Tokens]) -> Float[Tensor, "b k n"] | None:
        """Return the weights with which the head pools the patches, as K maps; None if it does not use attention."""
        return None


class SeparateHeads(Head):
    """Several heads on the same tokens, whose logits (B, L) are concatenated: one head for each label."""

    def __init__(self, heads: Sequence[Head]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)
        self.layers = heads[0].layers

    def forward(self, tokens: Sequence[Tokens], pixels: Float[Tensor, "b c *s"]) -> Float[Tensor, "b l"]:
        """Return the logits of all heads, in their order."""
        return torch.cat([head(tokens, pixels) for head in self.heads], dim=1)


@dataclass(frozen=True)
class BagOutput:
    """Output of a bag head: `logits` (B, L), and `attention` (B, K, N): K maps, each of which sums to 1 over a bag."""

    logits: Float[Tensor, "b l"]
    attention: Float[Tensor, "b k n"]


class TileEmbeddings(Protocol):
    """Embeddings of one bag, in memory or on disk."""

    def __len__(self) -> int:
        """Number of embeddings."""

    def take(self, indices: Int[Tensor, "m"]) -> Float[Tensor, "m d"]:
        """Return the embeddings with these indices as float32, on the device of the head."""


class BagHead(Head):
    """Head for bags of embeddings (B, N, D).

    The order within a bag is irrelevant unless the head documents otherwise.
    """

    HAS_ATTENTION = True
    layers = ()

    @abstractmethod
    def read(self, bags: Float[Tensor, "b n d"], present: Bool[Tensor, "b n"] | None = None) -> BagOutput:
        """Return logits and attention for a batch of bags; `present` is False for the padding of shorter bags."""

    @abstractmethod
    def stream(self, tiles: TileEmbeddings, chunk: int) -> BagOutput:
        """Return the output for one bag of any size, with at most `chunk` embeddings in memory at once."""

    def forward(self, tokens: Sequence[Tokens], pixels: Float[Tensor, "b c *s"]) -> Float[Tensor, "b l"]:
        """Return logits for images, whose patch tokens form the bag; `pixels` are not used."""
        return self.read(tokens[-1].patches).logits

    def attention_to_patches(self, tokens: Sequence[Tokens]) -> Float[Tensor, "b k n"]:
        """Return the attention maps over the patch tokens."""
        return self.read(tokens[-1].patches).attention


class HeadConfig(Config, ABC):
    """Options of a head."""

    IS_DECODER: ClassVar[bool] = False
    """Whether the logits are those of pixels (B, L, *S), for segmentation."""

    name: str

    @abstractmethod
    def build(self, backbone: Backbone, num_classes: int) -> Head:
        """Return the head, freshly initialized, for a backbone and a number of classes."""

    def build_for_labels(self, backbone: Backbone, num_outputs: Sequence[int]) -> Head:
        """Return a separate head for each of several labels, given the number of logits of each.

        Raises:
            ConfigError: If the head does not allow several labels.
        """
        return SeparateHeads([self.build(backbone, count) for count in num_outputs])

    def build_for_bags(self, width: int, num_classes: int) -> BagHead:
        """Return the head for bags of embeddings with the given width, such as the tiles of a slide.

        Raises:
            ConfigError: If the head does not accept bags.
        """
        raise ConfigError(
            f"head.name={self.name} does not accept bags of tiles; for slides give abmil, transmil, "
            "transformer_mil or mean"
        )


HeadChoice = Annotated[HeadConfig, Chosen("medvit.heads", default="linear")]
OptionalHeadChoice = Annotated[HeadConfig | None, Chosen("medvit.heads", default="linear", optional=True)]


def of_earlier_version(model: Tree) -> Tree:
    """Return a model description in which the head has its present name.

    In earlier versions, `transmil` was the name of the head that is now called `transformer_mil`. Now, `transmil` is
    the head of the TransMIL paper. The description is from an earlier version if its head has the option `max_tiles`.
    """
    head = model.get("head")
    if isinstance(head, Mapping) and head.get("name") == "transmil" and "max_tiles" in head:
        return {**model, "head": {**head, "name": "transformer_mil"}}
    return model
