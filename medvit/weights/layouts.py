"""Layouts of public weights: what their makers call the tensors -> timm's names, which are medvit's.

Known are timm's, the official ones of DINO, DINOv2 (with registers), DINOv3 and MAE, and so RETFound in both variants,
bare or inside a training checkpoint (`teacher`, `student`, `model`, `module.`, `backbone.`); that of DINOv2 in
transformers, as RAD-DINO and Phikon-v2 are published; and that of Hi-End-MAE in 3D.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

StateDict = dict[str, Tensor]

KERNEL, POSITIONS = "patch_embed.proj.weight", "pos_embed"
WRAPPERS = ("model_ema", "teacher", "model", "state_dict", "module", "student")
"""Keys under which training scripts keep the weights, the better ones first."""
PREFIXES = ("module.", "teacher.", "student.", "backbone.", "dinov2.", "encoder.", "_orig_mod.")
IGNORED = re.compile(
    r"^(decoder[_.]|encoder_to_decoder|classifier|head|fc_norm|mask_token|local_cls_norm|dino_|ibot_|projectors)"
    r"|(bias_mask|periods|relative_position_index)$"
)
"""Tensors that belong to pretraining heads and decoders, or are computed."""
RENAMED = {
    "storage_tokens": "reg_token",
    "register_tokens": "reg_token",
    "mlp.w12.": "mlp.fc1.",
    "mlp.w1.": "mlp.fc1_g.",
    "mlp.w2.": "mlp.fc1_x.",
    "mlp.w3.": "mlp.fc2.",
}
"""Parts of names in the official code of DINOv2 and DINOv3 -> timm's."""
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
"""Names of transformers and of Hi-End-MAE without prefixes -> those of DINOv2; queries, keys and values numbered."""
PART = re.compile(r"^(.*\.attn\.qkv)\.([012])\.(weight|bias)$")


def translated(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> StateDict:
    """The tensors under medvit's names: wrappers' prefixes off, heads dropped, registers and scales renamed.

    Where a file holds a teacher and its student, the teacher is taken. Positions of prefix tokens are added to the
    tokens themselves, which changes no feature; `pos_embed` is of patches.
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
        name = re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", name)  # DINOv2 keeps its blocks in chunks
        for pattern, ours in OTHER_NAMES:
            name = re.sub(pattern, ours, name)
        for theirs, ours in renamed.items():
            name = name.replace(theirs, ours)
        if not IGNORED.search(name) or (name.endswith("periods") and not is_rope):
            names[name] = tensor
    return _qkv_bias_split(_prefix_positions_folded(_qkv_joined(names), wanted), wanted)


def _qkv_joined(state: StateDict) -> StateDict:
    """Queries, keys and values that a file keeps apart, one above the other as timm has them."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name in [name for name in state if PART.match(name)]:
        stem, number, kind = PART.sub(r"\1 \2 \3", name).split()
        parts.setdefault(f"{stem}.{kind}", {})[number] = state.pop(name)
    whole = {name: found for name, found in parts.items() if len(found) == 3}
    return state | {name: torch.cat([found[number] for number in "012"]) for name, found in whole.items()}


def fits(name: str, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> bool:
    """Whether both have a tensor of this name, of one shape."""
    return name in state and name in wanted and state[name].shape == wanted[name].shape


def rank_of(state: Mapping[str, Tensor]) -> int:
    """2 for weights of images, 3 of volumes, by their patch embedding."""
    return state[KERNEL].ndim - 2 if KERNEL in state else 2


def side_of(count: int, rank: int) -> int | None:
    """Side of the square or cube of this many patches, if they make one."""
    side = round(count ** (1 / rank))
    return side if side > 0 and side**rank == count else None


def _prefix_positions_folded(state: StateDict, wanted: Mapping[str, Tensor]) -> StateDict:
    positions, rank = state.get(POSITIONS), rank_of(state)
    tokens = [name for name in ("cls_token", "reg_token") if name in state]
    if positions is None or (rank == rank_of(wanted) and fits(POSITIONS, state, wanted)):
        return state
    for num_tokens in range(len(tokens) + 1):  # of none, of the class token, or of the registers too
        sizes = [state[name].shape[1] for name in tokens[:num_tokens]]
        if side_of(positions.shape[1] - sum(sizes), rank) is None:
            continue
        *parts, patches = positions.split([*sizes, positions.shape[1] - sum(sizes)], dim=1)
        sums = {name: state[name] + part for name, part in zip(tokens, parts, strict=False)}
        return state | sums | {POSITIONS: patches}
    return state


def _qkv_bias_split(state: StateDict, wanted: Mapping[str, Tensor]) -> StateDict:
    """The blocks of timm for DINOv3 keep apart the biases of queries and values; that of keys is masked."""
    split = dict(state)
    for name in [name for name in state if name.endswith("qkv.bias")]:
        stem = name.removesuffix("qkv.bias")
        if f"{stem}q_bias" in wanted:
            split[f"{stem}q_bias"], _, split[f"{stem}v_bias"] = split.pop(name).chunk(3)
    return split
