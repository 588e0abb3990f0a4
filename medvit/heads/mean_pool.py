"""Mean of a bag and one linear layer: the baseline for attention pooling (Ilse, Tomczak and Welling, ICML 2018)."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from medvit.backbones import Backbone
from medvit.heads import BagHead, BagOutput, HeadConfig, TileEmbeddings
from medvit.registry import register


@register
class MeanConfig(HeadConfig):
    """Classification of a bag by its mean embedding.

    The bag contains the tiles of a slide, or the patches of an image.
    """

    name: Literal["mean"] = "mean"

    def build(self, backbone: Backbone, num_classes: int) -> MeanHead:
        """Return the head over the patch tokens of a backbone."""
        return self.build_for_bags(backbone.width, num_classes)

    def build_for_bags(self, width: int, num_classes: int) -> MeanHead:
        """Return the head for embeddings of the given width."""
        return MeanHead(width, num_classes)


class MeanHead(BagHead):
    """Logits (B, L) from the mean of a bag, with uniform attention."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, num_classes)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def read(self, bags: Float[Tensor, "b n d"], present: Bool[Tensor, "b n"] | None = None) -> BagOutput:
        """Return logits, and one uniform attention map."""
        shares = torch.ones(bags.shape[:2], device=bags.device) if present is None else present.float()
        attention = (shares / shares.sum(dim=1, keepdim=True))[:, None]
        return BagOutput(self.linear((attention.to(bags.dtype) @ bags)[:, 0]), attention)

    def stream(self, tiles: TileEmbeddings, chunk: int) -> BagOutput:
        """Return logits and the uniform attention map of one bag, in one pass over chunks of its embeddings."""
        total = torch.zeros(1, device=self.linear.weight.device)
        for indices in torch.arange(len(tiles)).split(chunk):
            total = total + tiles.take(indices).sum(dim=0)
        attention = torch.full((1, 1, len(tiles)), 1.0 / len(tiles), device=total.device)
        return BagOutput(self.linear((total / len(tiles))[None]), attention)
