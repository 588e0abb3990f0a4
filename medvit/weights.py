"""Public weights into the backbone: other layouts by name, other shapes by rule, and a report of what did not fit.

Known layouts: timm's, and the official ones of DINO, DINOv2 (with registers), DINOv3 and MAE, bare or inside a training
checkpoint (`teacher`, `student`, `model`, `module.`, `backbone.`). Files are read without running any code in them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from medvit.errors import CheckpointError

State = dict[str, Tensor]

WRAPPERS = ("model_ema", "teacher", "model", "state_dict", "module", "student")
"""Keys under which training scripts keep the weights, the better ones first."""
PREFIXES = ("module.", "teacher.", "student.", "backbone.", "encoder.", "_orig_mod.")
IGNORED = re.compile(
    r"^(decoder_|head|fc_norm|mask_token|local_cls_norm|dino_|ibot_|projectors)|(bias_mask|periods|relative_position_index)$"
)
"""Tensors that belong to pretraining heads and decoders, or are computed."""


@dataclass(frozen=True)
class Fit:
    """What became of the tensors of a file of weights: names, and why."""

    source: str
    loaded: tuple[str, ...]
    adapted: Mapping[str, str] = field(default_factory=dict)
    """Name -> what was done to it."""
    missing: tuple[str, ...] = ()
    """Of the model, not in the file; they keep their random start."""
    unexpected: tuple[str, ...] = ()
    """In the file, not of the model."""

    def __str__(self) -> str:
        lines = [f"{self.source}: {len(self.loaded)} weights loaded, {len(self.adapted)} of them adapted"]
        lines += [f"  {name}: {what}" for name, what in self.adapted.items()]
        lines += [f"  not in the file, starts at random: {name}" for name in self.missing]
        lines += [f"  in the file, not in the model: {name}" for name in self.unexpected]
        return "\n".join(lines)


def read_weights(path: str | Path) -> State:
    """The tensors of a local .safetensors, .pth or .pt file, unwrapped, under their own names.

    Raises:
        CheckpointError: If the file is missing, holds no tensors, or would need code to be run.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no weights at {path}; give a local file, or hub:NAME to download a timm model by name")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise CheckpointError(f"{path} is not a safetensors file: {error}") from None
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises UnpicklingError, RuntimeError or EOFError, by version and by damage
        raise CheckpointError(
            f"{path} cannot be read as plain tensors ({type(error).__name__}); it is damaged or needs code to be run, "
            "which medvit never does: save its state_dict as .safetensors where you trust it"
        ) from None
    return _unwrapped(loaded, path)


def _unwrapped(loaded: object, path: Path) -> State:
    while isinstance(loaded, Mapping):
        wrapper = next((key for key in WRAPPERS if isinstance(loaded.get(key), Mapping)), None)
        if wrapper is None:
            break
        loaded = loaded[wrapper]
    tensors = (
        {key: value for key, value in loaded.items() if isinstance(value, Tensor)}
        if isinstance(loaded, Mapping)
        else {}
    )
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors; expected a state_dict")
    return tensors


def translated(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> State:
    """The tensors under medvit's names: wrappers' prefixes off, heads dropped, registers and scales renamed.

    Positions of prefix tokens are added to the tokens themselves, which changes no feature; `pos_embed` is of patches.
    """
    names: State = {}
    scales = "gamma_1" if any(name.endswith("gamma_1") for name in wanted) else "ls1.gamma"
    for name, tensor in state.items():
        while name.startswith(PREFIXES):
            name = name.partition(".")[2]
        name = re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", name)  # DINOv2 keeps its blocks in chunks
        name = name.replace("storage_tokens", "reg_token").replace("register_tokens", "reg_token")
        if scales == "gamma_1":
            name = name.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2")
        if not IGNORED.search(name):
            names[name] = tensor
    return _prefix_positions_folded(names)


def _prefix_positions_folded(state: State) -> State:
    positions, cls_token = state.get("pos_embed"), state.get("cls_token")
    if positions is None or cls_token is None:
        return state
    num_patches = positions.shape[1] - 1
    if math.isqrt(num_patches) ** 2 == num_patches and math.isqrt(positions.shape[1]) ** 2 != positions.shape[1]:
        return state | {"cls_token": cls_token + positions[:, :1], "pos_embed": positions[:, 1:]}
    return state


def load_weights(model: nn.Module, state: Mapping[str, Tensor], *, grid: tuple[int, ...], source: str) -> Fit:
    """Loads public weights into a backbone, adapting patch embedding and positions to its channels, patch and rank.

    `grid` is the grid of the model's own learned positions.

    Raises:
        CheckpointError: If tensors of the blocks have another shape, or no block is in the file.
    """
    wanted = model.state_dict()
    names = translated(state, wanted)
    adapted: dict[str, str] = {}
    for name, adapt in (("patch_embed.proj.weight", adapt_patch_embedding), ("pos_embed", adapt_positions)):
        if name in names and name in wanted and names[name].shape != wanted[name].shape:
            before = tuple(names[name].shape)
            names[name] = adapt(names[name], tuple(wanted[name].shape), grid)
            adapted[name] = f"{before} -> {tuple(wanted[name].shape)}"
    _drop_zero_qkv_bias(names, wanted, adapted)
    wrong = {name for name in names.keys() & wanted.keys() if names[name].shape != wanted[name].shape}
    loaded = tuple(name for name in wanted if name in names and name not in wrong)
    if wrong or not any(name.startswith("blocks.") for name in loaded):
        raise CheckpointError(f"{source}: {_misfit(names, wanted, sorted(wrong))}")
    model.load_state_dict({name: names[name].to(wanted[name].dtype) for name in loaded}, strict=False)
    missing = tuple(name for name in wanted if name not in loaded)
    return Fit(source, loaded, adapted, missing, tuple(sorted(names.keys() - wanted.keys())))


def _misfit(names: State, wanted: Mapping[str, Tensor], wrong: list[str]) -> str:
    if not wrong:
        return f"none of its {len(names)} weights is a block of this transformer; is it one of another kind?"
    first = wrong[0]
    return (
        f"{len(wrong)} of {len(wanted)} weights do not fit, first {first}: found {tuple(names[first].shape)}, "
        f"need {tuple(wanted[first].shape)}; set backbone.size, backbone.registers and backbone.mlp as in the file"
    )


def _drop_zero_qkv_bias(names: State, wanted: Mapping[str, Tensor], adapted: dict[str, str]) -> None:
    """DINOv3 has a bias that is all zero; a model without one is the same model."""
    for name in [name for name in names if name.endswith("qkv.bias") and name not in wanted]:
        if not names[name].any():
            del names[name]
            adapted[name] = "all zero, left out"


def adapt_patch_embedding(
    kernel: Float[Tensor, "d c *p"], shape: tuple[int, ...], grid: tuple[int, ...]
) -> Float[Tensor, "e f *q"]:
    """A patch embedding for other channels, another patch size, or volumes.

    Three channels to one: summed, so a gray image gives what it gave as RGB; one to more: shared equally among them.
    2D to 3D: each slice of the patch gets an equal part, so a volume that is constant along its last axis gives what
    its slice gave. Another patch size: the pseudo-inverse resize of FlexiViT (Beyer et al., CVPR 2023).
    """
    kernel = _adapt_channels(kernel.float(), shape[1])
    if kernel.ndim == 4 and tuple(kernel.shape[2:]) != shape[2:4]:
        kernel = _resize_kernel(kernel, (shape[2], shape[3]))
    if kernel.ndim == 4 and len(shape) == 5:
        kernel = kernel[..., None].expand(*kernel.shape, shape[4]) / shape[4]
    return kernel


def _adapt_channels(kernel: Tensor, channels: int) -> Tensor:
    found = kernel.shape[1]
    if found == channels:
        return kernel
    summed = kernel.sum(dim=1, keepdim=True)
    return summed.expand(-1, channels, *kernel.shape[2:]) / channels


def _resize_kernel(kernel: Float[Tensor, "d c p q"], size: tuple[int, int]) -> Float[Tensor, "d c r s"]:
    """The kernel that gives the resized patch the same token as the old kernel gave the patch, in least squares."""
    height, width = kernel.shape[2:]
    basis = torch.eye(height * width).reshape(height * width, 1, height, width)
    resize = F.interpolate(basis, size=size, mode="bicubic", antialias=True, align_corners=False).flatten(1)
    solved = torch.linalg.pinv(resize) @ kernel.flatten(2).movedim(-1, 0).flatten(1)
    return solved.reshape(*size, kernel.shape[0], kernel.shape[1]).permute(2, 3, 0, 1)


def adapt_positions(positions: Float[Tensor, "1 n d"], shape: tuple[int, ...], grid: tuple[int, ...]) -> Tensor:
    """Square 2D positions on another grid; in 3D, the in-plane positions are repeated along the last axis."""
    side = math.isqrt(positions.shape[1])
    table = positions.float().reshape(1, side, side, -1).movedim(-1, 1)
    table = F.interpolate(table, size=grid[:2], mode="bicubic", antialias=True, align_corners=False)
    if len(grid) == 3:
        table = table[..., None].expand(*table.shape, grid[2])
    return table.flatten(2).transpose(1, 2)
