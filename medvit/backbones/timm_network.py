"""Networks of timm by name, such as ResNet, ConvNeXt, EfficientNet and Swin: pyramids of feature maps, in 2D.

A layer is a level of the pyramid, with its own width and stride, instead of a transformer block. The last layer is the
output of `forward_features` of timm. No weights are downloaded. The default is ResNet (He et al., CVPR 2016).
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, Self

import timm
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from medvit.backbones import Backbone, BackboneConfig, Hidden
from medvit.config import Count, Tree
from medvit.errors import CheckpointError, ConfigError, DataError
from medvit.registry import register
from medvit.types import Tokens
from medvit.weights import Fit, adapt_patch_embedding, read_weights

ANY_SIZE: tuple[Tree, ...] = ({"strict_img_size": False}, {"dynamic_img_size": True}, {})
"""Arguments by which windowed and plain transformers of timm accept images of any size; other networks have none."""
HEADS = ("head", "fc_norm", "pre_logits")
"""Modules of timm's networks after `forward_features`, which are removed."""
COMPUTED = re.compile(r"(attn_mask|relative_position_index|num_batches_tracked)$")
"""Buffers that older versions of timm stored, or that do not affect the features."""


@register
class TimmConfig(BackboneConfig):
    """Any network of timm with feature maps, by name, for fine-tuning and prediction of 2D images."""

    name: Literal["timm"] = "timm"
    model: str = "resnet18"
    """Name in timm, such as resnet50, convnext_tiny, efficientnet_b0 or swin_tiny_patch4_window7_224."""
    image_size: Count | tuple[Count, Count] | None = None
    """Image side for networks that need a fixed size, such as MaxViT: one number, or rows and columns. Give the same
    size as `crop`. Unset: the network's default.
    """
    weights: str | None = None
    """Initial weights: a local .safetensors, .pth or .pt file with the names of timm. Unset: random initialization;
    nothing is downloaded.
    """

    def without_weights(self) -> TimmConfig:
        """Return the options without weights, so that `build` does not load any."""
        return self.model_copy(update={"weights": None})

    def build(self) -> TimmNetwork:
        """Return the network, with the weights of the file if the options name one.

        Raises:
            ConfigError: If timm has no such network, or the network does not support the options.
            CheckpointError: If the weights are not those of the network.
        """
        if (self.ndim or 2) != 2:
            raise ConfigError(
                f"backbone.name=timm supports 2D images, found {self.ndim}D; give backbone.name=vit for volumes, or "
                "set slices to train on slices of volumes"
            )
        network = TimmNetwork(self)
        if self.weights is not None:
            network.fit = _load(network.network, self.weights)
        return network


class TimmNetwork(Backbone):
    """Network of timm; its weights have the names of timm behind `network.`."""

    has_blocks = False

    def __init__(self, config: TimmConfig) -> None:
        super().__init__()
        self.model, self.ndim, self.channels = config.model, 2, config.channels or 1
        network: Any = _created(config, self.channels)
        levels: list[Tree] = list(network.feature_info)
        self.network = network
        self._widths: list[int] = [*(level["num_chs"] for level in levels[:-1]), network.num_features]
        self._strides: list[int] = [level["reduction"] for level in levels]
        self.width, self.depth = self._widths[-1], len(levels)
        self.patch_size = (max(self._strides),) * 2
        self.num_prefix_tokens = getattr(network, "num_prefix_tokens", 0)
        self.norm = nn.Identity()

    def width_of(self, layer: int) -> int:
        """Return the number of channels of a level of the pyramid."""
        return self._widths[layer]

    def stride_of(self, layer: int) -> tuple[int, ...]:
        """Return the number of pixels per cell of a level of the pyramid, along each axis."""
        return (self._strides[layer],) * 2

    def intermediate(self, pixels: Float[Tensor, "b c *s"], layers: Sequence[int]) -> list[Tokens]:
        """Return the cells of the levels `layers` of the pyramid, counted from 0, as tokens.

        Only the last level has prefix tokens, if the network has any.

        Raises:
            DataError: If the network does not accept images of this shape.
        """
        self._require_fitting(pixels)
        self._hold_statistics()
        self._require_several_cells(pixels)
        options: dict[str, Any] = {"norm": True} if self.num_prefix_tokens else {}
        try:
            last, maps = self.network.forward_intermediates(pixels, indices=list(range(self.depth)), **options)
        except AssertionError as error:
            raise DataError(
                f"backbone.model={self.model} does not accept images of {tuple(pixels.shape[2:])} pixels (timm: "
                f"{error}); set backbone.image_size to the size of crop, or choose another model"
            ) from None
        return [_tokens(maps[layer]) if layer < self.depth - 1 else self._last(last, maps[-1]) for layer in layers]

    def embed(
        self, pixels: Float[Tensor, "b c *s"], hidden: Hidden | None = None
    ) -> tuple[Float[Tensor, "b n d"], tuple[int, ...]]:
        """Refuse: the network has no tokens before its first block."""
        self._refuse()

    def encode_layers(
        self,
        patches: Float[Tensor, "b m d"],
        *,
        grid: tuple[int, ...],
        layers: Sequence[int],
        ids: Int[Tensor, "b m"] | None = None,
    ) -> list[Float[Tensor, "b t d"]]:
        """Refuse: the network does not encode tokens."""
        self._refuse()

    def of_other_rank(self, patch_size: tuple[int, ...], channels: int) -> Self:
        """Refuse: the network exists in 2D only."""
        self._refuse()

    def embedding_state(self) -> dict[str, Tensor]:
        """Refuse: the network has no patch embedding."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise ConfigError(
            f"backbone.model={self.model} has feature maps instead of tokens of patches; give backbone.name=vit"
        )

    def _require_fitting(self, pixels: Tensor) -> None:
        shape = tuple(pixels.shape[2:])
        if len(shape) != 2 or pixels.shape[1] != self.channels:
            raise DataError(
                f"found pixels of shape {shape} with {pixels.shape[1]} channels; the backbone expects 2D images with "
                f"{self.channels} channels: set backbone.channels, or the preprocessing"
            )
        if any(side % stride for side, stride in zip(shape, self.patch_size, strict=True)):
            raise DataError(
                f"found pixels of shape {shape}; each side must be a multiple of the largest stride {self.patch_size}"
            )

    def _hold_statistics(self) -> None:
        """Use the stored statistics of batch norms unless all of their weights are trained.

        Otherwise, training a head would change the features of a frozen network, and no adapter would restore them.
        """
        for module in self.network.modules():
            if isinstance(module, _BatchNorm):
                weights = list(module.parameters())
                module.train(self.training and bool(weights) and all(weight.requires_grad for weight in weights))

    def _require_several_cells(self, pixels: Tensor) -> None:
        is_single = len(pixels) * math.prod(self.grid_of(pixels)) == 1
        if is_single and any(isinstance(module, _BatchNorm) and module.training for module in self.network.modules()):
            raise DataError(
                f"found a training batch of one image of {tuple(pixels.shape[2:])} pixels, which is too little for the "
                "statistics of batch norms; set a larger loader.batch_size or crop, or peft=bitfit"
            )

    def _last(self, features: Tensor, feature_map: Tensor) -> Tokens:
        if features.ndim == 3:
            count = self.num_prefix_tokens
            return Tokens(features[:, :count], features[:, count:], tuple(feature_map.shape[2:]))
        is_last = getattr(self.network, "output_fmt", "NCHW") == "NHWC"
        return _tokens(features.movedim(-1, 1) if is_last else features)


def _tokens(features: Float[Tensor, "b d h w"]) -> Tokens:
    patches = features.flatten(2).transpose(1, 2)
    return Tokens(patches[:, :0], patches, tuple(features.shape[2:]))


def _created(config: TimmConfig, channels: int) -> nn.Module:
    """Return the network of timm without its classifier, for images of any size if it supports this."""
    if not timm.is_model(config.model):
        close = difflib.get_close_matches(config.model, timm.list_models(), n=3)
        raise ConfigError(
            f"timm has no model named backbone.model={config.model!r}; nearest are {', '.join(close) or 'none'}"
        )
    size: Tree = {} if config.image_size is None else {"img_size": config.image_size}
    network = _first_accepted(config, [{"in_chans": channels, **size, **more} for more in ANY_SIZE])
    if not hasattr(network, "forward_intermediates") or not hasattr(network, "feature_info"):
        raise ConfigError(
            f"backbone.model={config.model} of timm does not give its feature maps; choose another, such as resnet18"
        )
    for name in HEADS:
        if isinstance(getattr(network, name, None), nn.Module):
            setattr(network, name, nn.Identity())
    return network


def _first_accepted(config: TimmConfig, candidates: Sequence[Tree]) -> nn.Module:
    """Return the network built with the first arguments that it has."""
    for arguments in candidates:
        try:
            network: nn.Module = timm.create_model(config.model, pretrained=False, num_classes=0, **arguments)
            return network
        except TypeError as error:
            reason = str(error)
    advice = "leave backbone.image_size unset" if config.image_size else "choose another model"
    raise ConfigError(f"timm does not build backbone.model={config.model} with these options ({reason}); {advice}")


def _load(network: nn.Module, path: str) -> Fit:
    """Load weights with the names of timm; the first convolution is adapted to the number of channels."""
    if not Path(path).is_file():
        raise CheckpointError(
            f"no weights at {path}; backbone.name=timm downloads nothing: give a local file with the names of timm"
        )
    wanted, state = network.state_dict(), dict(read_weights(path))
    settings: Mapping[str, Any] = getattr(network, "pretrained_cfg", None) or {}
    adapted = _adapt_channels(state, wanted, _listed(settings.get("first_conv")))
    heads = (*HEADS, *_listed(settings.get("classifier")))
    ignored = tuple(sorted(name for name in state.keys() - wanted.keys() if _is_ignored(name, heads)))
    loaded = {name: state[name] for name in wanted if name in state and state[name].shape == wanted[name].shape}
    wrong = sorted((state.keys() - loaded.keys() - set(ignored)) | _required(wanted) - loaded.keys())
    if wrong:
        found, need = (tuple(tree[wrong[0]].shape) if wrong[0] in tree else "none" for tree in (state, wanted))
        raise CheckpointError(
            f"{path}: {len(wrong)} weights do not fit, first {wrong[0]}: found {found}, need {need}; set "
            "backbone.model to the network of the file"
        )
    network.load_state_dict(loaded, strict=False)
    shapes = {name: tuple(state[name].shape) for name in ignored}
    return Fit(path, tuple(loaded), adapted, unexpected=ignored, shapes=shapes)


def _adapt_channels(state: dict[str, Tensor], wanted: Mapping[str, Tensor], layers: Sequence[str]) -> dict[str, str]:
    """Adapt the first convolutions in place to the channels of the network; return a description of each change."""
    adapted: dict[str, str] = {}
    for name in (f"{layer}.weight" for layer in layers):
        if name not in state or name not in wanted or state[name].ndim != wanted[name].ndim:
            continue
        before, after = tuple(state[name].shape), tuple(wanted[name].shape)
        if before[1] != after[1] and before[2:] == after[2:]:
            state[name] = adapt_patch_embedding(state[name], after)
            adapted[name] = f"{before} -> {after}"
    return adapted


def _listed(names: str | Sequence[str] | None) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names or ())


def _required(wanted: Mapping[str, Tensor]) -> set[str]:
    return {name for name in wanted if not COMPUTED.search(name)}


def _is_ignored(name: str, heads: Sequence[str]) -> bool:
    return name.startswith(tuple(f"{head}." for head in heads)) or COMPUTED.search(name) is not None
