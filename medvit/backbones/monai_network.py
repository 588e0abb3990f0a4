"""Networks of MONAI in 2D and 3D by name: encoders of ResNet, SwinUNETR and SegResNet, and decoders of the last two.

Sources: ResNet for volumes (Hara et al., CVPR 2018), SwinUNETR (Hatamizadeh et al., BrainLes 2021) and SegResNet
(Myronenko, BrainLes 2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn

from medvit.backbones import BackboneConfig
from medvit.backbones.feature_pyramid import FeaturePyramid, as_tokens
from medvit.backbones.monai_weights import load_monai
from medvit.config import Count
from medvit.errors import ConfigError
from medvit.registry import register
from medvit.types import Tokens

MonaiModel = Literal[
    "resnet10", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnet200", "swin_unetr", "segresnet"
]


@register
class MonaiConfig(BackboneConfig):
    """Encoder of a network of MONAI, for fine-tuning and prediction of images and volumes."""

    name: Literal["monai"] = "monai"
    model: MonaiModel = "resnet18"
    """Name of the network. swin_unetr and segresnet also have a decoder of their own, `head=own`, for segmentation."""
    feature_size: Count | None = None
    """Channels of the first feature map: a multiple of 12 for swin_unetr, of 8 for segresnet. Unset: 48 for swin_unetr,
    16 for segresnet. ResNet has a fixed number.
    """
    weights: str | None = None
    """Initial weights of the encoder: a local .safetensors, .pth or .pt file with the names of MONAI. Unset: random
    initialization; nothing is downloaded.
    """

    def without_weights(self) -> MonaiConfig:
        """Return the options without weights, so that `build` does not load any."""
        return self.model_copy(update={"weights": None})

    def build(self) -> FeaturePyramid:
        """Return the encoder, with the weights of the file if the options name one.

        Raises:
            ConfigError: If the network does not support the number of channels.
            CheckpointError: If the weights are not those of the network.
        """
        own = {"swin_unetr": SwinEncoder, "segresnet": SegResNetEncoder}
        encoder: MonaiEncoder = own.get(self.model, ResNetEncoder)(self)
        if self.weights is not None:
            encoder.fit = load_monai(
                encoder.network,
                self.weights,
                name="monai",
                first_layers=[encoder.FIRST_LAYER],
                advice="set backbone.model and backbone.feature_size to those of the file",
            )
        return encoder

    def features(self, default: int, factor: int) -> int:
        """Return the channels of the first feature map.

        Raises:
            ConfigError: If their number is not a multiple of `factor`.
        """
        size = self.feature_size or default
        if size % factor:
            raise ConfigError(
                f"backbone.model={self.model} needs backbone.feature_size to be a multiple of {factor}; found {size}"
            )
        return size


class MonaiEncoder(FeaturePyramid):
    """Encoder of a network of MONAI; its weights are named as in MONAI, with the prefix `network.`."""

    FIRST_LAYER: str
    """Name of the first convolution, which is applied to the pixels."""
    network: Any

    def __init__(self, config: MonaiConfig, *, widths: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__(
            label=f"backbone.model={config.model}",
            ndim=config.ndim or 3,
            channels=config.channels or 1,
            channel_names=config.channel_names,
            widths=widths,
            strides=[(stride,) * (config.ndim or 3) for stride in strides],
        )


class ResNetEncoder(MonaiEncoder):
    """ResNet, with the feature maps of its first convolution and of its four stages."""

    FIRST_LAYER = "conv1"

    def __init__(self, config: MonaiConfig) -> None:
        from monai.networks.nets.resnet import ResNetFeatures

        if config.feature_size is not None:
            raise ConfigError(f"backbone.model={config.model} has fixed widths; leave backbone.feature_size unset")
        network = ResNetFeatures(
            config.model, pretrained=False, spatial_dims=config.ndim or 3, in_channels=config.channels or 1
        )
        expansion = network.layer4[-1].expansion
        widths = [64, *(expansion * planes for planes in (64, 128, 256, 512))]
        super().__init__(config, widths=widths, strides=(2, 4, 8, 16, 32))
        self.network = network

    def levels(self, pixels: Float[Tensor, "b c *s"]) -> list[Tokens]:
        """Return the output of the first convolution and of each stage."""
        return [as_tokens(features) for features in self.network(pixels)]


class SwinEncoder(MonaiEncoder):
    """Swin transformer of SwinUNETR, whose levels are normalized, as its decoder reads them."""

    FIRST_LAYER = "patch_embed.proj"

    def __init__(self, config: MonaiConfig) -> None:
        size = config.features(default=48, factor=12)
        super().__init__(config, widths=[size * 2**level for level in range(5)], strides=(2, 4, 8, 16, 32))
        self.network = self._whole(1).swinViT

    def levels(self, pixels: Float[Tensor, "b c *s"]) -> list[Tokens]:
        """Return the patch embedding and the output of each stage."""
        return [as_tokens(features) for features in self.network(pixels, normalize=True)]

    def decoder(self, num_classes: int, num_supervised: int = 0) -> nn.Module:
        """Return the decoder of SwinUNETR."""
        self.require_no_supervision(num_supervised)
        return SwinDecoder(self._whole(num_classes))

    def _whole(self, num_classes: int) -> Any:
        from monai.networks.nets.swin_unetr import SwinUNETR

        return SwinUNETR(
            self.channels, num_classes, feature_size=self.width_of(0), spatial_dims=self.ndim, use_checkpoint=False
        )


class SwinDecoder(nn.Module):
    """Decoder of SwinUNETR: residual blocks on pixels and levels, joined from the smallest to the largest."""

    def __init__(self, whole: Any) -> None:
        super().__init__()
        self.encoders = nn.ModuleList([whole.encoder1, whole.encoder2, whole.encoder3, whole.encoder4])
        self.bottleneck = whole.encoder10
        self.decoders = nn.ModuleList(getattr(whole, f"decoder{level}") for level in (5, 4, 3, 2, 1))
        self.out = whole.out

    def forward(self, pixels: Float[Tensor, "b c *s"], maps: Sequence[Tensor]) -> list[Float[Tensor, "b l *s"]]:
        """Return logits for every pixel or voxel, in a list of one."""
        skips = [encoder(features) for encoder, features in zip(self.encoders, [pixels, *maps[:3]], strict=True)]
        x = self.bottleneck(maps[4])
        for decoder, skip in zip(self.decoders, [maps[3], *reversed(skips)], strict=True):
            x = decoder(x, skip)
        return [self.out(x)]


class SegResNetEncoder(MonaiEncoder):
    """Encoder of SegResNet: residual blocks at four resolutions, the first of which is that of the pixels."""

    FIRST_LAYER = "convInit.conv"
    NUM_LEVELS = 4

    def __init__(self, config: MonaiConfig) -> None:
        size = config.features(default=16, factor=8)
        strides = [2**level for level in range(self.NUM_LEVELS)]
        super().__init__(config, widths=[size * stride for stride in strides], strides=strides)
        whole = self._whole(1)
        self.network = nn.ModuleDict({"convInit": whole.convInit, "down_layers": whole.down_layers})

    def levels(self, pixels: Float[Tensor, "b c *s"]) -> list[Tokens]:
        """Return the output of the blocks at each resolution."""
        found, x = [], self.network["convInit"](pixels)
        for down in self.network["down_layers"]:
            x = down(x)
            found.append(as_tokens(x))
        return found

    def decoder(self, num_classes: int, num_supervised: int = 0) -> nn.Module:
        """Return the decoder of SegResNet."""
        self.require_no_supervision(num_supervised)
        return SegResNetDecoder(self._whole(num_classes))

    def _whole(self, num_classes: int) -> Any:
        from monai.networks.nets.segresnet import SegResNet

        return SegResNet(
            spatial_dims=self.ndim, init_filters=self.width_of(0), in_channels=self.channels, out_channels=num_classes
        )


class SegResNetDecoder(nn.Module):
    """Decoder of SegResNet, which adds the levels from the smallest to the largest."""

    def __init__(self, whole: Any) -> None:
        super().__init__()
        self.up_samples, self.up_layers, self.conv_final = whole.up_samples, whole.up_layers, whole.conv_final

    def forward(self, pixels: Float[Tensor, "b c *s"], maps: Sequence[Tensor]) -> list[Float[Tensor, "b l *s"]]:
        """Return logits for every pixel or voxel, in a list of one."""
        x = maps[-1]
        for up, layer, skip in zip(self.up_samples, self.up_layers, reversed(maps[:-1]), strict=True):
            x = layer(up(x) + skip)
        return [self.conv_final(x)]
