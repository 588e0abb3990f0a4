"""Public weights: loading files of other layouts and shapes into a backbone, with a report of mismatches.

Files are read without running any code in them. `medvit.weights.layouts` defines the supported layouts.
"""

from __future__ import annotations

import math
import re
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from medvit.errors import CheckpointError
from medvit.weights.layouts import (
    KERNEL,
    POSITIONS,
    WRAPPERS,
    StateDict,
    fits,
    mask_token_of,
    rank_of,
    translated,
    with_patch_positions,
)

ADVICE = {
    r"^blocks\.0\.ls1\.gamma$": "set backbone.layer_scale=1e-5",
    r"^blocks\.0\.gamma_1$|periods$": "set backbone.positions=rope and backbone.layer_scale=1e-5",
    r"^blocks\.0\.attn\.(qkv\.bias|q_bias)$": "set backbone.qkv_bias=true",
    r"^blocks\.0\.mlp\.fc1": "set backbone.mlp=gelu or swiglu, as in the file",
    r"^blocks\.[1-9]\d*\.norm1\.weight$": "set backbone.depth to the number of its blocks",
    r"^reg_token$": "set backbone.registers to the number of its register tokens",
    r"^cls_token$": "set backbone.class_token=true",
    r"^pos_embed$": "set backbone.positions=learned and backbone.image_size",
}
"""Name pattern of a tensor that the model lacks -> option that adds it; without the tensor, features differ."""


@dataclass(frozen=True)
class Fit:
    """Report on how each tensor of a weights file was handled, by name."""

    source: str
    loaded: tuple[str, ...]
    adapted: Mapping[str, str] = field(default_factory=dict)
    """Name of a tensor -> description of how the tensor was adapted."""
    missing: tuple[str, ...] = ()
    """Weights of the model that are not in the file; they are randomly initialized."""
    unexpected: tuple[str, ...] = ()
    """Weights in the file that are not in the model."""
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Shapes of the missing and unexpected tensors."""
    grid: tuple[int, ...] | None = None
    """Patch grid that was used for learned positions of the file."""
    is_grid_assumed: bool = False
    """Whether the grid is an assumption: neither the file nor an option gives it, and other grids have as many
    patches.
    """
    mask_token: Tensor | None = field(default=None, repr=False, compare=False)
    """Mask token (D) of the encoder, if the file has one, like DINOv2."""

    @property
    def summary(self) -> str:
        """Summary of the numbers of tensors, in one line."""
        loaded = f"{self.source}: {len(self.loaded)} weights loaded, {len(self.adapted)} adapted"
        sides = " x ".join(map(str, self.grid or ()))
        grid = f", positions read as a grid of {sides}" if sides else ""
        if self.is_grid_assumed:
            grid = f", positions assumed to be a grid of {sides} (backbone.weights_grid=[rows,columns] gives another)"
        return f"{loaded}, {len(self.missing)} missing, {len(self.unexpected)} unexpected{grid}"

    @property
    def advice(self) -> tuple[str, ...]:
        """Options to set so that the model uses more weights of the file.

        The tuple is empty if there is no such option, for example because every weight was used.
        """
        return tuple(what for part, what in ADVICE.items() if any(re.search(part, name) for name in self.unexpected))

    def __str__(self) -> str:
        lines = [self.summary] + [f"  {name}: {what}" for name, what in self.adapted.items()]
        lines += [
            f"  not in the file, randomly initialized: {name} {self.shapes.get(name, '')}" for name in self.missing
        ]
        lines += [f"  in the file, not in the model: {name} {self.shapes.get(name, '')}" for name in self.unexpected]
        lines += [f"  {what}" for what in self.advice]
        return "\n".join(line.rstrip() for line in lines)


def read_weights(path: str | Path) -> StateDict:
    """Return the tensors of a local .safetensors, .pth or .pt file under their original names, without wrappers.

    Raises:
        CheckpointError: If the file is missing, contains no tensors, or can only be read by running code in it.
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
        # MAE and RETFound keep their command line beside the weights: names and values, which run nothing.
        with torch.serialization.safe_globals([Namespace]):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises UnpicklingError, RuntimeError or EOFError, by version and by damage
        raise CheckpointError(
            f"{path} cannot be read as plain tensors ({type(error).__name__}); it is damaged or needs code to "
            "be run, which medvit never does: save its state_dict as .safetensors on a machine where you trust "
            "it"
        ) from None
    return _unwrapped(loaded, path)


def _unwrapped(loaded: object, path: Path) -> StateDict:
    while isinstance(loaded, Mapping):
        wrapper = next((key for key in WRAPPERS if isinstance(loaded.get(key), Mapping)), None)
        if wrapper is None:
            break
        loaded = loaded[wrapper]
    items = loaded.items() if isinstance(loaded, Mapping) else ()
    if tensors := {key: value for key, value in items if isinstance(value, Tensor)}:
        return tensors
    raise CheckpointError(f"{path} contains no tensors; expected a state_dict")


def load_weights(
    model: nn.Module,
    state: Mapping[str, Tensor],
    *,
    grid: tuple[int, ...],
    source: str,
    file_grid: tuple[int, ...] | None = None,
) -> Fit:
    """Load public weights into a backbone, adapting patch embedding and positions to its shape.

    `grid` is the grid of the learned positions in the model; `file_grid` is the grid in the file, if known.

    Raises:
        CheckpointError: If tensors of the blocks have another shape, no block is in the file, or the grid of the file's
            positions is unknown.
    """
    wanted = model.state_dict()
    names = translated(state, wanted)
    try:
        names, found_grid = with_patch_positions(names, grid, file_grid)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from None
    adapted = _adapt(names, wanted, grid, found_grid)
    _drop_zero_qkv_bias(names, wanted, adapted)
    loaded = tuple(name for name in wanted if fits(name, names, wanted))
    wrong = names.keys() & wanted.keys() - set(loaded)
    if wrong or not any(name.startswith("blocks.") for name in loaded):
        raise CheckpointError(f"{source}: {_misfit(names, wanted, sorted(wrong))}")
    model.load_state_dict({name: names[name].to(wanted[name].dtype) for name in loaded}, strict=False)
    missing = tuple(name for name in wanted if name not in loaded)
    unexpected = tuple(sorted(names.keys() - wanted.keys()))
    shapes = {name: tuple((wanted | names)[name].shape) for name in missing + unexpected}
    used = found_grid if POSITIONS in loaded else None
    is_assumed = used is not None and file_grid is None
    return Fit(source, loaded, adapted, missing, unexpected, shapes, used, is_assumed, mask_token_of(state, wanted))


def _adapt(
    names: StateDict, wanted: Mapping[str, Tensor], grid: tuple[int, ...], found_grid: tuple[int, ...] | None
) -> dict[str, str]:
    """Adapt patch embedding and positions in place if their shapes differ; return a description of each change."""
    adapted: dict[str, str] = {}
    rank = rank_of(names)
    if rank > len(grid):
        return adapted  # volumes to images: the patch embedding is refused unchanged
    if KERNEL in names and not fits(KERNEL, names, wanted):
        before, after = tuple(names[KERNEL].shape), tuple(wanted[KERNEL].shape)
        names[KERNEL] = adapt_patch_embedding(names[KERNEL], after)
        adapted[KERNEL] = f"{before} -> {after}"
    if POSITIONS in names.keys() & wanted.keys() and found_grid is not None and found_grid != grid:
        names[POSITIONS] = adapt_positions(names[POSITIONS], found_grid, grid)
        adapted[POSITIONS] = f"grid {found_grid} -> {grid}"
    return adapted


def _misfit(names: StateDict, wanted: Mapping[str, Tensor], wrong: list[str]) -> str:
    if not wrong:
        return f"none of its {len(names)} weights is a block of this transformer; is it one of another kind?"
    first = wrong[0]
    return (
        f"{len(wrong)} of {len(wanted)} weights do not fit, first {first}: found {tuple(names[first].shape)}, "
        f"need {tuple(wanted[first].shape)}; set size, patch_size, registers and mlp of the backbone as in the file"
    )


def _drop_zero_qkv_bias(names: StateDict, wanted: Mapping[str, Tensor], adapted: dict[str, str]) -> None:
    """Drop the biases of queries, keys and values of DINOv3 if they have no effect.

    They have no effect if the biases of queries and values are all zero, because DINOv3 masks the biases of keys.
    """
    for name in [name for name in names if name.endswith(("qkv.bias", "q_bias", "v_bias")) and name not in wanted]:
        parts = names[name].chunk(3 if name.endswith("qkv.bias") else 1)
        if not parts[0].any() and not parts[-1].any():
            del names[name]
            adapted[name] = "all zero, dropped"


def adapt_patch_embedding(kernel: Float[Tensor, "d c *p"], shape: tuple[int, ...]) -> Float[Tensor, "e f *q"]:
    """Return a patch embedding for another number of channels, another patch size, or volumes.

    From three channels to one, kernels are summed, so a gray image gives the same tokens as in RGB. From one channel to
    several, the kernel is divided equally among them. From 2D to 3D, each slice of the patch gets an equal part of the
    kernel, so a volume that is constant along its last axis gives the same tokens as its slice. For another patch size,
    kernels are resized by the pseudo-inverse of FlexiViT (Beyer et al., CVPR 2023).
    """
    kernel = _adapt_channels(kernel.float(), shape[1])
    size = shape[2 : kernel.ndim]
    if kernel.shape[2:] != size:
        kernel = resize_kernel(kernel, size)
    if kernel.ndim == 4 and len(shape) == 5:
        kernel = kernel[..., None].expand(*kernel.shape, shape[4]) / shape[4]
    return kernel


def _adapt_channels(kernel: Tensor, channels: int) -> Tensor:
    found = kernel.shape[1]
    if found == channels:
        return kernel
    summed = kernel.sum(dim=1, keepdim=True)
    return summed.expand(-1, channels, *kernel.shape[2:]) / channels


def _resized(table: Float[Tensor, "b d *s"], size: tuple[int, ...]) -> Float[Tensor, "b d *t"]:
    if len(size) == 2:
        return F.interpolate(table, size=size, mode="bicubic", antialias=True, align_corners=False)
    return F.interpolate(table, size=size, mode="trilinear", align_corners=False)


def resize_kernel(kernel: Float[Tensor, "d c *p"], size: tuple[int, ...]) -> Float[Tensor, "d c *q"]:
    """Return the kernel that maps a resized patch to the same token as the old kernel maps the original patch.

    The tokens are equal if the patch is enlarged, and in the least-squares sense if it is reduced, which loses detail
    (PI-resize; Beyer et al., CVPR 2023, FlexiViT). A kernel of this size is returned unchanged.
    """
    before = tuple(kernel.shape[2:])
    if before == tuple(size):
        return kernel
    inverse = _inverse_resize(before, tuple(size)).to(kernel)
    solved = inverse @ kernel.flatten(2).movedim(-1, 0).flatten(1)
    return solved.T.reshape(*kernel.shape[:2], *size)


@lru_cache(maxsize=64)
def _inverse_resize(before: tuple[int, ...], after: tuple[int, ...]) -> Float[Tensor, "q p"]:
    """Return the pseudo-inverse of the operator that resizes patches from one size to another."""
    resize = _resized(torch.eye(math.prod(before)).reshape(-1, 1, *before), after).flatten(1)
    return torch.linalg.pinv(resize)


def adapt_positions(
    positions: Float[Tensor, "1 n d"], grid: tuple[int, ...], new_grid: tuple[int, ...]
) -> Float[Tensor, "1 m d"]:
    """Return learned patch positions resampled to another grid: bicubic in 2D as in timm, trilinear in 3D.

    From 2D to 3D, the in-plane positions are repeated along the last axis.
    """
    if grid == new_grid:
        return positions
    table = positions.float().reshape(1, *grid, -1).movedim(-1, 1)
    table = _resized(table, new_grid[: len(grid)])
    if len(new_grid) > len(grid):
        table = table[..., None].expand(*table.shape, new_grid[-1])
    return table.flatten(2).transpose(1, 2).to(positions.dtype)
