"""Transformer blocks of timm that can compute only selected tokens, and have a bottleneck beside their MLP."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float
from timm.models.eva import EvaBlock
from timm.models.vision_transformer import Block
from torch import Tensor, nn


class Bottleneck(nn.Module):
    """Adapter beside the MLP of a block: scale * up(ReLU(down(x))) (Chen et al., NeurIPS 2022, AdaptFormer).

    Its input is the residual stream before the norm of the MLP; `up` is zero at the start.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.dropout, self.scale = nn.Dropout(0.0), 1.0
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        for weight in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(weight)

    def forward(self, tokens: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """Return the tokens to add to the residual stream."""
        added: Tensor = self.scale * self.up(self.dropout(self.down(tokens).relu()))
        return added


class PlainBlock(Block):
    """Block of timm's vision transformer that can return selected tokens only."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.adapter: Bottleneck | None = None

    def forward(
        self, x: Tensor, *, wanted: Bool[Tensor, "b t"] | None = None, attn_mask: Float[Tensor, "b 1 1 t"] | None = None
    ) -> Tensor:
        """Return all tokens (B, T, D), or the tokens selected by `wanted` (M, D) in row-major order.

        `attn_mask` is added to the logits of attention.
        """
        masked = {} if attn_mask is None else {"attn_mask": attn_mask}
        if wanted is None and self.adapter is None:
            every: Tensor = super().forward(x, **masked)
            return every
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x), **masked)))
        return _fed_forward(x, wanted, lambda some: self.ls2(self.mlp(self.norm2(some))), self.drop_path2, self.adapter)


class RotaryBlock(EvaBlock):
    """Transformer block with rotary positions, as in DINOv3, that can return selected tokens only."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # With a bias, timm would multiply by the weights of qkv itself, bypassing an update beside the layer.
        self.attn.qkv_bias_separate = True
        self.adapter: Bottleneck | None = None

    def forward(
        self,
        x: Tensor,
        rope: Tensor | None = None,
        *,
        wanted: Bool[Tensor, "b t"] | None = None,
        attn_mask: Float[Tensor, "b 1 1 t"] | None = None,
    ) -> Tensor:
        """Return all tokens (B, T, D), or the tokens selected by `wanted` (M, D) in row-major order.

        `attn_mask` is added to the logits of attention.
        """
        if wanted is None and self.adapter is None:
            every: Tensor = super().forward(x, rope=rope, attn_mask=attn_mask)
            return every
        x = x + self.drop_path1(_scaled(self.attn(self.norm1(x), rope=rope, attn_mask=attn_mask), self.gamma_1))
        return _fed_forward(
            x, wanted, lambda some: _scaled(self.mlp(self.norm2(some)), self.gamma_2), self.drop_path2, self.adapter
        )


def stops_early(block: Any) -> bool:
    """Return whether a block can compute only selected tokens efficiently.

    A compiled block cannot: it would be recompiled for each number of tokens.
    """
    return getattr(block, "_compiled_call_impl", None) is None


def _scaled(tokens: Tensor, gamma: Tensor | None) -> Tensor:
    return tokens if gamma is None else gamma * tokens


def _fed_forward(
    tokens: Float[Tensor, "b t d"],
    wanted: Bool[Tensor, "b t"] | None,
    branch: Callable[[Tensor], Tensor],
    drop_path: nn.Module,
    adapter: Bottleneck | None,
) -> Tensor:
    """Return all or the selected tokens with the outputs of the MLP branch and of the adapter added."""
    added = 0.0 if adapter is None else adapter(tokens if wanted is None else tokens[wanted])
    if wanted is None:
        return tokens + drop_path(branch(tokens)) + added
    return _some(tokens, wanted, branch, drop_path) + added


def _some(
    tokens: Float[Tensor, "b t d"],
    wanted: Bool[Tensor, "b t"],
    branch: Callable[[Tensor], Tensor],
    drop_path: nn.Module,
) -> Float[Tensor, "m d"]:
    """Return the tokens selected by `wanted` with a residual branch applied; drop path applies to whole images."""
    some = tokens[wanted]
    added = branch(some)
    if isinstance(drop_path, nn.Identity) or not drop_path.training:
        return some + added
    kept = drop_path(torch.ones(len(tokens), 1, dtype=added.dtype, device=added.device))
    return some + added * kept[wanted.nonzero()[:, 0]]
