"""Features of every layer of a backbone, which all probes share, so that each image is encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray as Array
from torch import Tensor

from medvit.backbones import Backbone
from medvit.config import Tree
from medvit.models.features import Features, available, pooled


@dataclass(frozen=True)
class EveryLayer:
    """Pooling of all layers: for each layer, the class token (if there is one) and the mean of the patch tokens."""

    def __call__(self, backbone: Backbone, pixels: Float[Tensor, "b c *s"]) -> Float[Tensor, "b e"]:
        """Return the features of each image, layer after layer, as float32."""
        layers = backbone.intermediate(pixels, list(range(backbone.depth)))
        return torch.cat([pooled(tokens, available("class_mean", backbone)) for tokens in layers], dim=1)

    def tree(self) -> Tree:
        """Return a description of the features."""
        return {"features": "class_mean of every layer"}


@dataclass(frozen=True)
class LayerFeatures:
    """Features (N, E) of images from `EveryLayer`, of which single layers and tokens can be taken."""

    vectors: Float[Array, "n e"]
    widths: tuple[int, ...]
    """Width of the tokens of each layer."""
    has_class_token: bool

    @classmethod
    def of(cls, vectors: Float[Array, "n e"], backbone: Backbone) -> LayerFeatures:
        """Return the features that a backbone gave for images."""
        widths = tuple(backbone.width_of(layer) for layer in range(backbone.depth))
        return cls(vectors, widths, backbone.num_prefix_tokens > 0)

    def at(self, indices: Sequence[int]) -> LayerFeatures:
        """Return the features of the images at these indices."""
        return replace(self, vectors=self.vectors[np.asarray(indices, dtype=int)])

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self.widths)

    def layer(self, layer: int, features: Features = "class_mean") -> Float[Array, "n d"]:
        """Return the features of a layer, counted from 0; without a class token, the mean of the patch tokens."""
        tokens = 2 if self.has_class_token else 1
        start, width = tokens * sum(self.widths[:layer]), self.widths[layer]
        both = self.vectors[:, start : start + tokens * width]
        if not self.has_class_token or features == "class_mean":
            return both
        return both[:, :width] if features == "class" else both[:, width:]

    def last_blocks(self, number: int, *, with_mean: bool) -> Float[Array, "n d"]:
        """Return the class tokens of the last layers, and the mean of the patch tokens of the last one if requested.

        A backbone without a class token has means in place of class tokens (Oquab et al. 2024, linear evaluation).
        """
        first = max(0, self.depth - number)
        parts = [self.layer(layer, "class") for layer in range(first, self.depth)]
        if with_mean and self.has_class_token:
            parts.append(self.layer(self.depth - 1, "mean"))
        return np.concatenate(parts, axis=1)
