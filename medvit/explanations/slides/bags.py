"""Embeddings of the tiles of a slide in memory, and the output of a model of slides for some of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from medvit.explanations.outputs import log_odds
from medvit.heads import BagHead
from medvit.models.embedding_store import Embeddings
from medvit.models.slide import CHUNK


@dataclass(frozen=True)
class TileBag:
    """Embeddings (N, D) of the tiles of a slide, in the order of its grid."""

    tiles: Float[Tensor, "n d"]

    @classmethod
    def of(cls, embeddings: Embeddings, device: torch.device | str) -> TileBag:
        """Read all embeddings of a slide onto a device."""
        return cls(embeddings.to(device).take(torch.arange(len(embeddings))))

    def __len__(self) -> int:
        return len(self.tiles)

    def take(self, indices: Int[Tensor, "m"]) -> Float[Tensor, "m d"]:
        """Return the embeddings with these indices."""
        return self.tiles[indices.to(self.tiles.device)]

    def only(self, kept: Int[Tensor, "m"]) -> TileBag:
        """Return the bag of these tiles alone, in the order of the grid."""
        return TileBag(self.take(kept.sort().values))


def bag_score(heads: Sequence[BagHead], bag: TileBag, index: int) -> Float[Tensor, "1"]:
    """Return the log-odds of a class for a slide, with gradients; the logits of the heads are averaged."""
    logits = torch.stack([head.stream(bag, CHUNK).logits.float() for head in heads]).mean(dim=0)
    return log_odds(logits, index)
