"""Features of an image from the tokens of a backbone: the class token, the mean of the patch tokens, or both."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from medvit.backbones import Backbone
from medvit.types import Tokens

Features = Literal["class_mean", "class", "mean"]
"""Embedding of an image or tile. class: the class token (Phikon-v2). mean: the mean of the patch tokens. class_mean:
both (Virchow2).
"""


def pooled(tokens: Tokens, features: Features) -> Float[Tensor, "b e"]:
    """Return the features of each image, as float32; `class` requires a backbone with prefix tokens."""
    parts = {"class": tokens.prefix[:, :1].flatten(1), "mean": tokens.patches.mean(dim=1)}
    chosen = ("class", "mean") if features == "class_mean" else (features,)
    return torch.cat([parts[name].float() for name in chosen], dim=1)


def available(features: Features, backbone: Backbone) -> Features:
    """Return the features, or `mean` for a backbone without a class token."""
    return features if backbone.num_prefix_tokens else "mean"


def add_weights(digest: Any, backbone: Backbone) -> None:
    """Add the names, shapes and values of the weights of a backbone to a digest of `hashlib`."""
    for chunk in _weights(backbone):
        digest.update(chunk)


def digest_of_backbone(backbone: Backbone) -> str:
    """Return the SHA-256 of the weights of a backbone: names, shapes and values as float32."""
    digest = hashlib.sha256()
    add_weights(digest, backbone)
    return digest.hexdigest()


def _weights(backbone: Backbone) -> Iterator[bytes]:
    for name, weight in sorted(backbone.state_dict().items()):
        yield f"{name}{tuple(weight.shape)}".encode()
        yield weight.detach().float().cpu().contiguous().numpy().tobytes()
