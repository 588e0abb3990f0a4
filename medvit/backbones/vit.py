"""Vision transformer (Dosovitskiy et al., ICLR 2021) in 2D and 3D, with the blocks and parameter names of timm.

Because of these names, public weights can be loaded by name.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, Self

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from timm.layers import SwiGLUPacked
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from medvit.backbones import Backbone, BackboneConfig, Hidden
from medvit.backbones.attention import choose_attention
from medvit.backbones.blocks import Bottleneck, PlainBlock, RotaryBlock, stops_early
from medvit.backbones.position_embeddings import rotations, sincos_positions
from medvit.config import Count
from medvit.errors import ConfigError, DataError
from medvit.registry import register
from medvit.types import Tokens
from medvit.weights import Fit, adapt_positions, resize_kernel
from medvit.weights.hub import load_public

SIZES = {
    "micro": (192, 6, 3),
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
}
"""Token width, number of blocks and number of attention heads of each preset."""


@register
class VitConfig(BackboneConfig):
    """Vision transformer. Public weights are refused if they do not match its layout."""

    name: Literal["vit"] = "vit"
    size: Literal["micro", "tiny", "small", "base", "large"] = "small"
    """Preset of width, depth and number of attention heads. micro (3 million parameters) is small enough for a CPU."""
    width: int | None = Field(default=None, gt=0)
    """Width of the tokens. Unset: given by `size`."""
    depth: int | None = Field(default=None, gt=0)
    """Number of blocks. Unset: given by `size`."""
    heads: int | None = Field(default=None, gt=0)
    """Number of attention heads in each block. Unset: given by `size`."""
    patch_size: int | tuple[int, ...] | None = None
    """Side of a patch in pixels or voxels: one number, or one per axis. Unset: 16 in 2D and 8 in 3D."""
    patch_sizes: tuple[Count | tuple[Count, ...], ...] = ()
    """Patch sizes of which one is drawn at random in each training step (FlexiViT), such as [8,16,32]: sides as in
    patch_size. Only sizes that divide the sides of the images are drawn. The weights are stored for patch_size, which
    is used outside of training, and resized for the others. Empty: the patch size is fixed.
    """
    class_token: bool = True
    """Prepend a class token to the patch tokens."""
    registers: int = Field(default=0, ge=0)
    """Number of register tokens. DINOv3 and DINOv2 with registers have 4."""
    positions: Literal["sincos", "learned", "rope"] = "sincos"
    """Position embedding: sincos (fixed), learned (as in timm, MAE and DINOv2) or rope (rotary, as in DINOv3)."""
    image_size: int | tuple[int, ...] = 224
    """Image side for which learned positions are defined: one number, or one per axis. For other sizes, the positions
    are interpolated.
    """
    layer_scale: float | None = None
    """Initial value of layer scale in each block; DINOv2 and DINOv3 use 1e-5. Unset: blocks have no layer scale."""
    mlp: Literal["gelu", "swiglu"] = "gelu"
    """Type of the MLP in each block."""
    qkv_bias: bool = True
    """Use a bias in queries, keys and values. DINOv3 has none."""
    norm_epsilon: float = 1e-6
    """Epsilon of the normalization layers. DINOv3 uses 1e-5."""
    drop_path: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Stochastic depth: probability that an image skips the last block in training. The probability decreases linearly
    to 0 at the first block.
    """
    deep_prompts: int = Field(default=0, ge=0)
    """Number of prompt tokens at the input of each block, which replace the prompts of the previous block. Set by
    `peft=vpt`; otherwise 0.
    """
    adapter_width: int = Field(default=0, ge=0)
    """Width of the bottleneck beside the MLP of each block; 0 for no bottleneck. Set by `peft=adaptformer`; otherwise
    0.
    """
    save_memory: bool = False
    """Save memory by recomputing activations in the backward pass instead of storing them (gradient checkpointing)."""
    weights: str | None = None
    """Public initial weights: a local .safetensors, .pth or .pt file, or hub:NAME, which downloads the timm model NAME.
    """
    weights_grid: tuple[Count, ...] | None = None
    """Grid of patches, such as [14,14], of the learned positions in `weights`. Unset: read from model.yaml beside the
    file. Without model.yaml, the grid is assumed to be a square (or cube), or the grid of the model to build, depending
    on which one fits the number of positions. If neither fits, or if both fit but differ, the file is refused.
    """

    def in_training_as(self, other: BackboneConfig) -> VitConfig:
        """Return the options, with drop path and activation recomputation as in `other`."""
        if not isinstance(other, VitConfig):
            return self
        return self.model_copy(update={"drop_path": other.drop_path, "save_memory": other.save_memory})

    def as_loaded(self, fit: Fit) -> VitConfig:
        """Return the options, with the grid of learned positions that was used in loading."""
        return self.model_copy(update={"weights_grid": fit.grid})

    def without_weights(self) -> VitConfig:
        """Return the options without public weights, so that `build` does not load any."""
        return self.model_copy(update={"weights": None, "weights_grid": None})

    def build(self) -> ViT:
        """Return the transformer, with public weights if the options name some.

        Raises:
            ConfigError: If the options contradict each other.
            CheckpointError: If the public weights do not match the layout.
        """
        model = ViT(self)
        self.load_weights(model)
        return model

    def load_weights(self, model: ViT) -> None:
        """Load the public weights that the options name, if any, into a newly built transformer.

        Raises:
            CheckpointError: If the public weights do not match the layout.
        """
        if self.weights is not None:
            model.fit = load_public(model, model.grid, self.weights, self.weights_grid)
            model.new_weights = frozenset(model.fit.missing)
            model.mask_token = model.fit.mask_token


class ViT(Backbone):
    """Vision transformer with the parameter names of timm.

    With the same weights, it computes the same features as timm's 2D transformer, at any image size.
    """

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        width, depth, heads = SIZES[config.size]
        self.width, self.depth, self.heads = config.width or width, config.depth or depth, config.heads or heads
        if self.width % self.heads:
            raise ConfigError(f"backbone.width {self.width} is not a multiple of backbone.heads {self.heads}")
        _refuse_unusable_positions(config, self.width // self.heads)
        self.ndim, self.channels = config.ndim or 3, config.channels or 1
        patch_size = config.patch_size or (16 if self.ndim == 2 else 8)
        self.patch_size = _sides(patch_size, self.ndim, "backbone.patch_size")
        self.patch_sizes = tuple(_sides(size, self.ndim, "backbone.patch_sizes") for size in config.patch_sizes)
        self.fixed_patch_size: tuple[int, ...] | None = None
        self.channel_names = config.channel_names or ()
        self.num_prefix_tokens = int(config.class_token) + config.registers
        self.positions, self.save_memory = config.positions, config.save_memory

        convolution: Any = nn.Conv3d if self.ndim == 3 else nn.Conv2d
        self.patch_embed = nn.ModuleDict()  # timm's name for the module of the convolution is patch_embed.proj
        self.patch_embed["proj"] = convolution(self.channels, self.width, self.patch_size, self.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, self.width)) if config.class_token else None
        self.reg_token = nn.Parameter(torch.zeros(1, config.registers, self.width)) if config.registers else None
        image_size = _sides(config.image_size, self.ndim, "backbone.image_size")
        self.grid = tuple(side // patch for side, patch in zip(image_size, self.patch_size, strict=True))
        learned = config.positions == "learned"
        if learned and not all(self.grid):
            raise ConfigError(f"backbone.image_size {image_size} is smaller than one patch {self.patch_size}")
        self.pos_embed = nn.Parameter(torch.zeros(1, math.prod(self.grid), self.width)) if learned else None
        self.blocks = nn.ModuleList(
            choose_attention(_block(config, self.width, self.heads, rate, self)) for rate in _rates(config, self.depth)
        )
        self.norm = nn.LayerNorm(self.width, eps=config.norm_epsilon)
        self.apply(_initialize)
        for token in (self.cls_token, self.reg_token, self.pos_embed):
            if token is not None:
                nn.init.trunc_normal_(token, std=0.02)
        self.prompts: nn.Parameter | None = None
        if config.deep_prompts:
            self.add_prompts(config.deep_prompts, num_blocks=self.depth)
        if config.adapter_width:
            self.add_adapters(config.adapter_width)

    def add_prompts(self, count: int, *, num_blocks: int) -> None:
        """Add learned prompt tokens (K, P, D) after the other prefix tokens (Jia et al., ECCV 2022).

        P is `count`, and K is `num_blocks`. If K is 1, only the first block has prompts. If K is the depth, each block
        has its own prompts. The initial values are uniform in +-sqrt(6 / (C * pixels of a patch + D)), as published.
        """
        bound = math.sqrt(6 / (self.channels * math.prod(self.patch_size) + self.width))
        prompts = torch.empty(num_blocks, count, self.width).uniform_(-bound, bound)
        self.prompts = nn.Parameter(prompts.to(next(self.patch_embed.parameters())))
        self._set_prefix(self.num_prefix_tokens + count)

    def remove_prompts(self) -> nn.Parameter:
        """Remove the prompts, and return them."""
        assert self.prompts is not None
        prompts, self.prompts = self.prompts, None
        self._set_prefix(self.num_prefix_tokens - prompts.shape[1])
        return prompts

    def set_registers(self, tokens: Float[Tensor, "1 r d"]) -> None:
        """Replace the register tokens."""
        before = 0 if self.reg_token is None else self.reg_token.shape[1]
        self.reg_token = nn.Parameter(tokens.detach().clone()) if tokens.shape[1] else None
        self._set_prefix(self.num_prefix_tokens + tokens.shape[1] - before)

    def add_adapters(self, hidden: int) -> None:
        """Add a bottleneck beside the MLP of each block; the output of a bottleneck is initially zero."""
        for block in self.blocks:
            block.adapter = Bottleneck(self.width, hidden).to(next(block.parameters())).train(self.training)

    def embed(
        self, pixels: Float[Tensor, "b c *s"], hidden: Hidden | None = None
    ) -> tuple[Float[Tensor, "b n d"], tuple[int, ...]]:
        """Return patch tokens with position embeddings, before the first block, and their grid.

        Patches in `hidden` are replaced by the mask token before the position embeddings are added.
        """
        self._require_channels(pixels)
        size = self._patch_size_for(pixels)
        features = self._projected(self.filled(pixels), size)
        grid = tuple(features.shape[2:])
        patches = features.flatten(2).transpose(1, 2)
        if hidden is not None:
            patches = torch.where(hidden.mask[..., None], hidden.token.to(patches.dtype), patches)
        added = self.added_positions(grid, size)
        return (patches if added is None else patches + added.to(patches)), grid

    def use_patch_size(self, size: int | tuple[int, ...] | None) -> None:
        """Set the patch size outside of training, for cheaper or finer features; None for the usual patch size."""
        self.fixed_patch_size = None if size is None else _sides(size, self.ndim, "patch_size")

    @property
    def multiple(self) -> tuple[int, ...]:
        """Number of pixels of which the sides of an image must be multiples: the patch size in use."""
        return self.fixed_patch_size or self.patch_size

    def _require_channels(self, pixels: Tensor) -> None:
        if pixels.ndim - 2 != self.ndim or pixels.shape[1] != self.channels:
            raise DataError(
                f"found pixels of shape {tuple(pixels.shape[2:])} with {pixels.shape[1]} channels; the backbone "
                f"expects {self.ndim}D images with {self.channels} channels: set backbone.ndim and backbone.channels, "
                "or the preprocessing"
            )

    def _patch_size_for(self, pixels: Tensor) -> tuple[int, ...]:
        """Return the patch size for images: drawn at random in training if there are several, else the one in use.

        Random numbers come from torch's global generator.
        """
        shape = tuple(pixels.shape[2:])
        flexible = self.training and self.patch_sizes
        sizes = self.patch_sizes if flexible else (self.multiple,)
        fitting = [size for size in sizes if not any(n % side for n, side in zip(shape, size, strict=True))]
        if not fitting:
            what = "one of the patch sizes" if flexible else "the patch size"
            known = ", ".join(map(str, sizes))
            raise DataError(f"found pixels of shape {shape}; each side must be a multiple of {what} {known}")
        return fitting[int(torch.randint(len(fitting), ()))] if len(fitting) > 1 else fitting[0]

    def _projected(self, pixels: Float[Tensor, "b c *s"], size: tuple[int, ...]) -> Float[Tensor, "b d *g"]:
        """Return the embeddings of patches of a given size."""
        projection: Any = self.patch_embed["proj"]
        if size == self.patch_size:
            features: Tensor = projection(pixels)
            return features
        convolve = F.conv3d if self.ndim == 3 else F.conv2d
        return convolve(pixels, resize_kernel(projection.weight, size), projection.bias, stride=size)

    def encode_layers(
        self,
        patches: Float[Tensor, "b m d"],
        *,
        grid: tuple[int, ...],
        layers: Sequence[int],
        ids: Int[Tensor, "b m"] | None = None,
    ) -> list[Float[Tensor, "b t d"]]:
        """Encode embedded patches; return all tokens after each block in `layers`, before the final norm."""
        return self._run(patches, grid, ids, layers)

    def encode_some(
        self, patches: Float[Tensor, "b m d"], *, grid: tuple[int, ...], wanted: Bool[Tensor, "b t"]
    ) -> Float[Tensor, "n d"]:
        """Return the tokens selected by `wanted`, after the last block and norm, in row-major order."""
        tokens: Tensor = self.norm(self._run(patches, grid, None, [self.depth - 1], wanted)[0])
        return tokens

    def intermediate(self, pixels: Float[Tensor, "b c *s"], layers: Sequence[int]) -> list[Tokens]:
        """Return normalized tokens after each of the blocks `layers`, counted from 0."""
        patches, grid = self.embed(pixels)
        num_prefix = self.num_prefix_tokens
        found = [self.norm(tokens) for tokens in self._run(patches, grid, None, layers)]
        return [Tokens(tokens[:, :num_prefix], tokens[:, num_prefix:], grid) for tokens in found]

    def of_other_rank(self, patch_size: tuple[int, ...], channels: int) -> Self:
        """Return a backbone of the other dimensionality: a new patch embedding before the same blocks and norm."""
        ndim = 5 - self.ndim
        if self.pos_embed is not None:
            raise ConfigError(
                "backbone.positions=learned supports only 2D or only 3D; choose sincos or rope to train on both"
            )
        twin = copy.copy(self)
        twin._modules, twin._parameters = dict(self._modules), dict(self._parameters)
        twin.ndim, twin.channels = ndim, channels
        twin.patch_size = _sides(patch_size, ndim, "objective.other_patch_size")
        convolution: Any = nn.Conv3d if ndim == 3 else nn.Conv2d
        twin.patch_embed = nn.ModuleDict({"proj": convolution(channels, self.width, twin.patch_size, twin.patch_size)})
        twin.patch_embed.apply(_initialize).to(next(self.patch_embed.parameters()))
        return twin

    def embedding_state(self) -> dict[str, Tensor]:
        """Return the weights of the patch embedding."""
        return {f"patch_embed.{name}": weight for name, weight in self.patch_embed.state_dict().items()}

    def added_positions(
        self, grid: tuple[int, ...], size: tuple[int, ...] | None = None
    ) -> Float[Tensor, "1 n d"] | None:
        """Return the positions added to the patches of a grid; None for rotary positions.

        `size` is the patch size in use, if it is not the usual one: patches at the same place have the same positions.
        """
        if self.positions == "sincos" and size not in (None, self.patch_size):
            step = tuple(side / usual for side, usual in zip(size or (), self.patch_size, strict=True))
            return sincos_positions(grid, self.width, step=step)
        if self.positions == "sincos":
            return sincos_positions(grid, self.width)
        return None if self.pos_embed is None else adapt_positions(self.pos_embed, self.grid, grid)

    def _run(
        self,
        patches: Tensor,
        grid: tuple[int, ...],
        ids: Tensor | None,
        layers: Sequence[int],
        wanted: Tensor | None = None,
        seen: Bool[Tensor, "b m"] | None = None,
    ) -> list[Tensor]:
        """Return tokens after each of the blocks `layers`, before the norm.

        With `wanted`, only the selected tokens are returned of the last of these blocks; the block computes only these
        tokens if it can. With `seen`, all tokens attend only to the patches for which it is True, and to the prefix.
        """
        prompts = None if self.prompts is None else self.prompts[:1]
        every = (self.cls_token, self.reg_token, prompts)
        prefix = [token.expand(len(patches), -1, -1) for token in every if token is not None]
        tokens = torch.cat([*(token.to(patches.dtype) for token in prefix), patches], dim=1)
        options = {**self._rotations(grid, ids, patches), **_attention_mask(seen, self.num_prefix_tokens, tokens)}
        kept: dict[int, Tensor] = {}
        for number, block in enumerate(self.blocks[: max(layers) + 1]):
            tokens = self._with_prompts_of(number, tokens)
            if wanted is not None and number == max(layers) and stops_early(block):
                options, wanted = {**options, "wanted": wanted}, None
            if self.save_memory and self.training:
                tokens = checkpoint(partial(block, **options), tokens, use_reentrant=False)
            else:
                tokens = block(tokens, **options)
            if number in layers:
                kept[number] = tokens if wanted is None else tokens[wanted]
        return [kept[number] for number in layers]

    def _with_prompts_of(self, number: int, tokens: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        """Return the input tokens of block `number`, with the prompts of this block inserted.

        The prompts replace the outputs of the previous block at their places. If the block has no prompts of its own,
        the tokens are unchanged.
        """
        if self.prompts is None or not 0 < number < len(self.prompts):
            return tokens
        prompts = self.prompts[number].to(tokens.dtype).expand(len(tokens), -1, -1)
        end = self.num_prefix_tokens
        return torch.cat([tokens[:, : end - prompts.shape[1]], prompts, tokens[:, end:]], dim=1)

    def _set_prefix(self, num_prefix_tokens: int) -> None:
        self.num_prefix_tokens = num_prefix_tokens
        for block in self.blocks:
            if isinstance(block, RotaryBlock):  # which does not rotate prefix tokens
                block.attn.num_prefix_tokens = num_prefix_tokens

    def _rotations(self, grid: tuple[int, ...], ids: Tensor | None, patches: Tensor) -> dict[str, Tensor]:
        if self.positions != "rope":
            return {}
        rope = rotations(grid, self.width // self.heads).to(patches.device)
        return {"rope": rope if ids is None else rope[ids][:, None]}


def _attention_mask(seen: Bool[Tensor, "b m"] | None, num_prefix: int, tokens: Tensor) -> dict[str, Tensor]:
    """Return the option of blocks that excludes patches from attention: numbers (B, 1, 1, T) to add to the logits."""
    if seen is None:
        return {}
    added = torch.zeros(len(seen), tokens.shape[1], dtype=tokens.dtype, device=tokens.device)
    added[:, num_prefix:].masked_fill_(~seen, -torch.inf)
    return {"attn_mask": added[:, None, None]}


def transformer_block(width: int, heads: int) -> nn.Module:
    """Return a plain pre-norm block, as used by decoders."""
    return choose_attention(Block(width, heads, qkv_bias=True))


def packed_swiglu_ratio(width: int) -> float:
    """Return the hidden width of a SwiGLU, as a multiple of the token width.

    The hidden width is the sum of the widths of gate and value. As in DINOv2, each of these two is 2/3 of the usual MLP
    width (4 times the token width), rounded up to a multiple of 8.
    """
    hidden = -(-(4 * width * 2 // 3) // 8) * 8
    return (2 * hidden + 0.5) / width  # timm truncates the product


def _block(config: VitConfig, width: int, heads: int, drop_path: float, model: ViT) -> nn.Module:
    shared: dict[str, Any] = {
        "qkv_bias": config.qkv_bias,
        "init_values": config.layer_scale,
        "drop_path": drop_path,
        "norm_layer": partial(nn.LayerNorm, eps=config.norm_epsilon),
    }
    if config.positions == "rope":
        prefix = {"num_prefix_tokens": model.num_prefix_tokens, "rotate_half": True}
        swiglu = {"swiglu_mlp": config.mlp == "swiglu", "swiglu_align_to": 8}
        return RotaryBlock(width, heads, **shared, **prefix, **swiglu)
    if config.mlp == "swiglu":
        ratio = packed_swiglu_ratio(width)
        return PlainBlock(width, heads, **shared, mlp_layer=SwiGLUPacked, act_layer=nn.SiLU, mlp_ratio=ratio)
    return PlainBlock(width, heads, **shared)


def _refuse_unusable_positions(config: VitConfig, head_width: int) -> None:
    ndim = config.ndim or 3
    if config.positions == "rope" and (head_width % 2 or head_width < 2 * ndim):
        raise ConfigError(
            f"rope rotates pairs of features along {ndim} axes; backbone.width / backbone.heads is {head_width}, "
            f"expected an even number of at least {2 * ndim}"
        )


def _sides(size: int | tuple[int, ...], ndim: int, key: str) -> tuple[int, ...]:
    sides = (size,) * ndim if isinstance(size, int) else size
    if len(sides) != ndim or min(sides) < 1:
        raise ConfigError(f"found {key}={size}; expected one positive side, or {ndim} of them as backbone.ndim={ndim}")
    return sides


def _rates(config: VitConfig, depth: int) -> list[float]:
    return torch.linspace(0.0, config.drop_path, depth, device="cpu").tolist()


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d | nn.Conv3d):
        nn.init.xavier_uniform_(module.weight.flatten(1))
        nn.init.zeros_(module.bias) if module.bias is not None else None
