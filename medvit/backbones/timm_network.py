"""Networks of timm by name, such as ResNet, ConvNeXt, EfficientNet and Swin: pyramids of feature maps, in 2D.

The last level is the output of `forward_features` of timm. No weights are downloaded. The default is ResNet (He et al.,
CVPR 2016).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import timm
from jaxtyping import Float
from torch import Tensor, nn

from medvit.backbones import BackboneConfig
from medvit.backbones.feature_pyramid import FeaturePyramid, as_tokens, load_named, require_local_file
from medvit.config import Count, Tree
from medvit.errors import ConfigError, DataError
from medvit.registry import register
from medvit.types import Tokens
from medvit.weights import Fit, read_weights

ANY_SIZE: tuple[Tree, ...] = ({"strict_img_size": False}, {"dynamic_img_size": True}, {})
"""Arguments with which windowed and plain transformers of timm accept images of any size; empty for other networks."""
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
                f"backbone.name=timm supports 2D images, found {self.ndim}D; give backbone.name=monai, dynunet or vit "
                "for volumes, or set slices to train on slices of volumes"
            )
        network = TimmNetwork(self)
        if self.weights is not None:
            network.fit = _load(network.network, self.weights)
        return network


class TimmNetwork(FeaturePyramid):
    """Network of timm; its weights are named as in timm, with the prefix `network.`."""

    def __init__(self, config: TimmConfig) -> None:
        channels = config.channels or 1
        network: Any = _created(config, channels)
        levels: list[Tree] = list(network.feature_info)
        super().__init__(
            label=f"backbone.model={config.model}",
            ndim=2,
            channels=channels,
            channel_names=config.channel_names,
            widths=[*(level["num_chs"] for level in levels[:-1]), network.num_features],
            strides=[(level["reduction"],) * 2 for level in levels],
        )
        self.model, self.network = config.model, network
        self.num_prefix_tokens = getattr(network, "num_prefix_tokens", 0)

    def levels(self, pixels: Float[Tensor, "b c *s"]) -> list[Tokens]:
        """Return all levels of the pyramid; only the last has prefix tokens, if the network has any.

        Raises:
            DataError: If the network has a fixed size, and the images have another.
        """
        options: dict[str, Any] = {"norm": True} if self.num_prefix_tokens else {}
        try:
            last, maps = self.network.forward_intermediates(pixels, indices=list(range(self.depth)), **options)
        except AssertionError as error:
            raise DataError(
                f"backbone.model={self.model} does not accept images of {tuple(pixels.shape[2:])} pixels (timm: "
                f"{error}); set backbone.image_size to the size of crop, or choose another model"
            ) from None
        return [*map(as_tokens, maps[:-1]), self._last(last, maps[-1])]

    def _last(self, features: Tensor, feature_map: Tensor) -> Tokens:
        if features.ndim == 3:
            count = self.num_prefix_tokens
            return Tokens(features[:, :count], features[:, count:], tuple(feature_map.shape[2:]))
        is_last = getattr(self.network, "output_fmt", "NCHW") == "NHWC"
        return as_tokens(features.movedim(-1, 1) if is_last else features)


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
    """Return the network, built with the first of the `candidates` (sets of arguments) that it accepts."""
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
    require_local_file(path, "timm", "timm")
    settings: Mapping[str, Any] = getattr(network, "pretrained_cfg", None) or {}
    heads = tuple(f"{head}." for head in (*HEADS, *_listed(settings.get("classifier"))))
    return load_named(
        network,
        read_weights(path),
        source=path,
        first_layers=_listed(settings.get("first_conv")),
        is_ignored=lambda name: name.startswith(heads) or _is_computed(name),
        is_optional=_is_computed,
        advice="set backbone.model to the network of the file",
    )


def _listed(names: str | Sequence[str] | None) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names or ())


def _is_computed(name: str) -> bool:
    return COMPUTED.search(name) is not None
