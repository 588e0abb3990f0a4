"""Layouts of public weights: conversion of the tensor names of official code to timm's names, which medvit uses.

Supported layouts:

- timm;
- the official code of DINO, DINOv2 (with registers), DINOv3 and MAE, which both variants of RETFound use too;
- DINOv2 in Hugging Face transformers, used by RAD-DINO and Phikon-v2;
- Hi-End-MAE in 3D.

In each layout, the weights may be the whole file or an entry of a training checkpoint (`teacher`, `student`, `model`),
and their names may begin with `module.` or `backbone.`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from medvit.errors import CheckpointError

StateDict = dict[str, Tensor]

KERNEL, POSITIONS = "patch_embed.proj.weight", "pos_embed"
WRAPPERS = ("model_ema", "teacher", "model", "state_dict", "module", "student")
"""Keys under which training scripts store the weights, in order of preference."""
PREFIXES = ("module.", "teacher.", "student.", "backbone.", "dinov2.", "encoder.", "_orig_mod.")
IGNORED = re.compile(
    r"^(decoder[_.]|encoder_to_decoder|classifier|head|fc_norm|mask_token|local_cls_norm|dino_|ibot_|projectors)"
    r"|(bias_mask|periods|relative_position_index)$"
)
"""Names of tensors that are not loaded: those of pretraining heads and decoders, and those that the model computes."""
RENAMED = {
    "storage_tokens": "reg_token",
    "register_tokens": "reg_token",
    "mlp.w12.": "mlp.fc1.",
    "mlp.w1.": "mlp.fc1_g.",
    "mlp.w2.": "mlp.fc1_x.",
    "mlp.w3.": "mlp.fc2.",
}
"""Parts of names in the official code of DINOv2 and DINOv3 -> parts of timm's names."""
OTHER_NAMES = (
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.position_embeddings$|^encoder_pos_embed$", "pos_embed"),
    (r"^embeddings\.(cls_token|mask_token|register_tokens)$", r"\1"),
    (r"^layer\.(\d+)\.", r"blocks.\1."),
    (r"^layernorm\.", "norm."),
    (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.attention\.(?:attention\.)?(?:query|q_proj)\.", ".attn.qkv.0."),
    (r"\.attention\.(?:attention\.)?(?:key|k_proj)\.", ".attn.qkv.1."),
    (r"\.attention\.(?:attention\.)?(?:value|v_proj)\.", ".attn.qkv.2."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.weights_in\.", ".mlp.fc1."),
    (r"\.mlp\.weights_out\.", ".mlp.fc2."),
)
"""Pattern of a name in Hugging Face transformers or Hi-End-MAE -> name in DINOv2; queries, keys, values are numbered.
"""
PART = re.compile(r"^(.*\.attn\.qkv)\.([012])\.(weight|bias)$")


def translated(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> StateDict:
    """Return the tensors under medvit's names: prefixes and heads are removed, registers and layer scales are renamed.

    If a file contains a teacher and its student, the teacher is used.
    """
    names: StateDict = {}
    is_rope = any(name.endswith("gamma_1") for name in wanted)
    renamed = RENAMED | ({"ls1.gamma": "gamma_1", "ls2.gamma": "gamma_2"} if is_rope else {})
    passed_over = "student." if any("teacher." in name for name in state) else None
    for name, tensor in state.items():
        if passed_over and passed_over in name:
            continue
        while name.startswith(PREFIXES):
            name = name.partition(".")[2]
        name = re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", name)  # DINOv2 stores its blocks in chunks
        for pattern, ours in OTHER_NAMES:
            name = re.sub(pattern, ours, name)
        for theirs, ours in renamed.items():
            name = name.replace(theirs, ours)
        if not IGNORED.search(name) or (name.endswith("periods") and not is_rope):
            names[name] = tensor
    return _qkv_bias_split(_qkv_joined(names), wanted)


def _qkv_joined(state: StateDict) -> StateDict:
    """Return the tensors, in which separate queries, keys and values are stacked as in timm."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name in [name for name in state if PART.match(name)]:
        stem, number, kind = PART.sub(r"\1 \2 \3", name).split()
        parts.setdefault(f"{stem}.{kind}", {})[number] = state.pop(name)
    whole = {name: found for name, found in parts.items() if len(found) == 3}
    return state | {name: torch.cat([found[number] for number in "012"]) for name, found in whole.items()}


def fits(name: str, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> bool:
    """Return whether file and model both have a tensor of this name with the same shape."""
    return name in state and name in wanted and state[name].shape == wanted[name].shape


def rank_of(state: Mapping[str, Tensor]) -> int:
    """Return the dimensionality of weights (2 for images, 3 for volumes), derived from their patch embedding."""
    return state[KERNEL].ndim - 2 if KERNEL in state else 2


def side_of(count: int, rank: int) -> int | None:
    """Return the side of the square or cube with this many patches; None if they do not form one."""
    side = round(count ** (1 / rank))
    return side if side > 0 and side**rank == count else None


def with_patch_positions(
    state: StateDict, model_grid: tuple[int, ...], file_grid: tuple[int, ...] | None
) -> tuple[StateDict, tuple[int, ...] | None]:
    """Return the tensors with learned positions for patches only, and the grid of these positions.

    Positions of prefix tokens are added to the prefix tokens themselves. Without learned positions, the grid is None.

    Raises:
        CheckpointError: If the number of positions fits no grid, or fits several.
    """
    positions, rank = state.get(POSITIONS), rank_of(state)
    if positions is None or rank > len(model_grid):
        return state, None
    tokens = [name for name in ("cls_token", "reg_token") if name in state]
    sizes = [state[name].shape[1] for name in tokens]
    count = positions.shape[1]
    num_tokens, grid = _reading(count, sizes, rank, model_grid, file_grid)
    *parts, patches = positions.split([*sizes[:num_tokens], count - sum(sizes[:num_tokens])], dim=1)
    sums = {name: state[name] + part for name, part in zip(tokens, parts, strict=False)}
    return state | sums | {POSITIONS: patches}, grid


def _reading(
    count: int, sizes: list[int], rank: int, model_grid: tuple[int, ...], file_grid: tuple[int, ...] | None
) -> tuple[int, tuple[int, ...]]:
    """Return how the `count` learned positions in a file are divided between prefix tokens and patches.

    The first result is the number of types of prefix tokens with positions: class token, then registers. The second
    result is the grid of the patches.
    """
    patches = [count - sum(sizes[:num_tokens]) for num_tokens in range(len(sizes) + 1)]
    if file_grid is not None:
        if math.prod(file_grid) in patches and len(file_grid) == rank:
            return patches.index(math.prod(file_grid)), file_grid
        raise CheckpointError(
            f"its {count} learned positions are not those of backbone.weights_grid={list(file_grid)}, which has "
            f"{math.prod(file_grid)} patches; expected one of {', '.join(map(str, patches))} in {rank}D"
        )
    equal = [
        (number, (side,) * rank) for number, size in enumerate(patches) if (side := side_of(size, rank)) is not None
    ]
    own = [(number, model_grid) for number, size in enumerate(patches) if size == math.prod(model_grid)]
    own = own if rank == len(model_grid) else []
    other = [grid for _, grid in equal if grid != model_grid]
    if own and other and len(set(model_grid)) > 1:
        raise CheckpointError(
            f"its {count} learned positions may be of a grid of {_sides(other[0])} or of {_sides(model_grid)} patches; "
            f"give backbone.weights_grid={list(other[0])} or {list(model_grid)}"
        )
    if not own and not equal:
        raise CheckpointError(
            f"the file has {count} learned positions, which do not form a square or cube of patches; give their grid "
            "as "
            "backbone.weights_grid=[rows,columns]"
        )
    return (own or equal)[0]


def _sides(grid: tuple[int, ...]) -> str:
    return " x ".join(map(str, grid))


def mask_token_of(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Tensor | None:
    """Return the mask token (D) of an encoder; None if the file has none.

    The mask token in a file with a decoder, such as MAE's, belongs to the decoder and is not returned.
    """
    if KERNEL not in wanted or any("decoder" in name for name in state):
        return None
    names = [name for name in state if name.rpartition(".")[2] == "mask_token"]
    names.sort(key=lambda name: "student." in name)
    found = next((state[name] for name in names if state[name].numel() == wanted[KERNEL].shape[0]), None)
    return None if found is None else found.detach().float().flatten().clone()


def _qkv_bias_split(state: StateDict, wanted: Mapping[str, Tensor]) -> StateDict:
    """Return the tensors with the bias of qkv split as in timm's DINOv3, if the model expects this.

    The biases of queries and values become separate tensors; the bias of keys, which is zero, is dropped.
    """
    split = dict(state)
    for name in [name for name in state if name.endswith("qkv.bias")]:
        stem = name.removesuffix("qkv.bias")
        if f"{stem}q_bias" in wanted:
            split[f"{stem}q_bias"], _, split[f"{stem}v_bias"] = split.pop(name).chunk(3)
    return split
