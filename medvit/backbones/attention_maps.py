"""Attention maps of the class token or a prompt, one per head (Chen and Krishnan, 2022).

On tiles, the heads of a self-supervised transformer attend to different structures, such as nuclei, stroma and glass.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from medvit.backbones.vit import ViT
from medvit.errors import DataError


@dataclass(frozen=True)
class HeadMaps:
    """Attention of a prefix token, such as the class token, in the last block, for each of K heads.

    `whole` (B, K, P + N) is the attention to all P prefix and N patch tokens, which sums to 1. `maps` (B, K, *grid) is
    the part of it for the patches.
    """

    whole: Float[Tensor, "b k t"]
    maps: Float[Tensor, "b k *g"]

    @property
    def likeness(self) -> float:
        """Mean correlation between the maps of two heads: 1 if all heads attend to the same patches."""
        flat = self.maps.flatten(2) - self.maps.flatten(2).mean(dim=2, keepdim=True)
        unit = torch.nn.functional.normalize(flat, dim=2)
        cosines = unit @ unit.transpose(1, 2)  # (B, K, K)
        heads = cosines.shape[1]
        if heads == 1:
            return 1.0
        return float((cosines.sum(dim=(1, 2)) - heads).mean() / (heads * (heads - 1)))


@torch.no_grad()
def head_maps(vit: ViT, pixels: Float[Tensor, "b c *s"], *, token: int | None = None) -> HeadMaps:
    """Return the attention of a prefix token in the last block, one map per head: by default of the class token.

    `token` is the number of another prefix token, such as a prompt, counted from 0.

    Raises:
        DataError: If the transformer has no class token and `token` is unset, or if it has rotary positions or a token
            for each channel, which are not supported.
    """
    _require_supported(vit)
    if token is None:
        if vit.cls_token is None:
            raise DataError("the backbone has no class token; attention maps require one, or the number of a token")
        token = 0
    blocks = [vit.blocks[-1]]
    seen = _inputs_of_attention(vit, pixels, blocks)
    whole = _attention(vit, blocks[0], seen[0], slice(token, token + 1))[:, :, 0]
    return HeadMaps(whole, whole[:, :, vit.num_prefix_tokens :].unflatten(2, vit.grid_of(pixels)))


@torch.no_grad()
def block_attentions(vit: ViT, pixels: Float[Tensor, "b c *s"]) -> list[Float[Tensor, "b k t t"]]:
    """Return the attention between all tokens in each block: rows attend to columns, and each row sums to 1.

    Raises:
        DataError: If the transformer has rotary positions or a token for each channel, which are not supported.
    """
    _require_supported(vit)
    seen = _inputs_of_attention(vit, pixels, vit.blocks)
    return [_attention(vit, block, tokens, slice(None)) for block, tokens in zip(vit.blocks, seen, strict=True)]


def _require_supported(vit: ViT) -> None:
    if vit.has_channel_tokens:
        raise DataError("the backbone has a token for each channel of a patch, which attention maps do not support")
    if vit.positions == "rope":
        raise DataError("the backbone has rotary positions; attention maps require backbone.positions other than rope")


def _inputs_of_attention(vit: ViT, pixels: Tensor, blocks: Iterable[Any]) -> list[Float[Tensor, "b t d"]]:
    seen: list[Tensor] = []
    hooks = [block.attn.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])) for block in blocks]
    try:
        vit(pixels)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _attention(vit: ViT, block: Any, tokens: Float[Tensor, "b t d"], rows: slice) -> Float[Tensor, "b k r t"]:
    batch, count, width = tokens.shape
    parts = block.attn.qkv(tokens).reshape(batch, count, 3, vit.heads, width // vit.heads).permute(2, 0, 3, 1, 4)
    query, key = block.attn.q_norm(parts[0][:, :, rows]), block.attn.k_norm(parts[1])
    return (query @ key.transpose(-2, -1) * (width // vit.heads) ** -0.5).softmax(dim=-1)
