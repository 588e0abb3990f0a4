"""Gated attention over a bag of embeddings (Ilse, Tomczak and Welling, ICML 2018), the default head for slides."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from medvit.backbones import Backbone
from medvit.config import Count
from medvit.heads import BagHead, BagOutput, HeadConfig, TileEmbeddings
from medvit.registry import register


@register
class AbmilConfig(HeadConfig):
    """Classification of a bag by gated attention; the bag contains the tiles of a slide, or the patches of an image."""

    name: Literal["abmil"] = "abmil"
    hidden: Count = 128
    """Width of the hidden layer of the gated attention that weights the tiles."""
    maps: Count = 1
    """Number of attention maps. Each map pools the tiles of a slide separately."""
    dropout: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Dropout rate of the features during training."""

    def build(self, backbone: Backbone, num_classes: int) -> AbmilHead:
        """Return the head over the patch tokens of a backbone."""
        return self.build_for_bags(backbone.width, num_classes)

    def build_for_bags(self, width: int, num_classes: int) -> AbmilHead:
        """Return the head for bags of embeddings with the given width."""
        return AbmilHead(width, num_classes, self)


class AbmilHead(BagHead):
    """Logits (B, L) of bags pooled by attention: a_n = softmax(w . (tanh(V h_n) * sigmoid(U h_n))).

    Embeddings are pooled without a projection. The logits of a bag of one tile are therefore the output of the last,
    linear layer for that tile; they are used as class scores of tiles.
    """

    def __init__(self, width: int, num_classes: int, config: AbmilConfig) -> None:
        super().__init__()
        self.content = nn.Linear(width, config.hidden)
        self.gate = nn.Linear(width, config.hidden)
        self.score = nn.Linear(config.hidden, config.maps)
        self.dropout = nn.Dropout(config.dropout)
        self.linear = nn.Linear(config.maps * width, num_classes)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def read(self, bags: Float[Tensor, "b n d"], present: Bool[Tensor, "b n"] | None = None) -> BagOutput:
        """Return logits and the attention maps."""
        bags = self.dropout(bags)
        scores = self._scores(bags)
        if present is not None:
            scores = scores.masked_fill(~present[:, None], -torch.inf)
        attention = scores.softmax(dim=-1)
        pooled = attention.to(bags.dtype) @ bags  # (B, K, D)
        return BagOutput(self.linear(pooled.flatten(1)), attention)

    def stream(self, tiles: TileEmbeddings, chunk: int) -> BagOutput:
        """Return logits and attention maps of one bag in one pass over chunks; the result equals that of `read`.

        Sums are rescaled whenever a larger score occurs.
        """
        scores: list[Tensor] = []
        weights = self.score.weight
        highest = torch.full((len(weights), 1), -torch.inf, device=weights.device)
        total = torch.zeros_like(highest)
        pooled = torch.zeros(1, device=weights.device)
        for indices in torch.arange(len(tiles)).split(chunk):
            part = tiles.take(indices)
            scores.append(self._scores(part[None])[0])  # (K, n)
            before, highest = highest, torch.maximum(highest, scores[-1].amax(dim=1, keepdim=True))
            kept, added = (before - highest).exp(), (scores[-1] - highest).exp()
            total = total * kept + added.sum(dim=1, keepdim=True)
            pooled = pooled * kept + added @ part
        attention = (torch.cat(scores, dim=1) - highest).exp() / total
        return BagOutput(self.linear((pooled / total).flatten()[None]), attention[None])

    def _scores(self, bags: Float[Tensor, "b n d"]) -> Float[Tensor, "b k n"]:
        gated = self.content(bags).tanh() * self.gate(bags).sigmoid()
        return self.score(gated).transpose(1, 2).float()
