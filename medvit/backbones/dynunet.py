"""DynUNet of MONAI: the U-Net of nnU-Net (Isensee et al., Nature Methods 2021), which follows crop and spacing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, cast

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from medvit.backbones import BackboneConfig
from medvit.backbones.feature_pyramid import FeaturePyramid, as_tokens
from medvit.backbones.monai_weights import load_monai
from medvit.config import Count
from medvit.errors import ConfigError
from medvit.registry import register
from medvit.types import Tokens

MIN_CELLS = 4
"""Minimum side of the smallest feature map, in cells."""
MAX_RATIO = 2.0
"""A level neither pools nor convolves along an axis whose spacing is at least this many times the smallest spacing."""
WIDTHS = {2: 512, 3: 320}
"""Maximum number of channels by default, by number of dimensions."""
FIRST_WIDTH = 32
MIN_LEVELS = 3
"""Minimum number of levels of MONAI's DynUNet."""

Sides = Annotated[tuple[Count, ...], Field(min_length=2, max_length=3)]


@dataclass(frozen=True)
class UNetPlan:
    """Stride and kernel size of each level, from the full resolution to the bottleneck."""

    strides: tuple[tuple[int, ...], ...]
    kernel_sizes: tuple[tuple[int, ...], ...]


def plan_unet(crop: Sequence[int], spacing: Sequence[float]) -> UNetPlan:
    """Return strides and kernel sizes for crops of a size and voxels of a spacing, as nnU-Net plans them.

    Each level halves the axes that are long enough and whose spacing is less than twice the smallest, so that voxels
    become isotropic. An axis has the kernel size 1 until its spacing is less than twice the smallest; from that level
    on, it has 3.
    """
    sizes, spacing = list(crop), list(spacing)
    kernel = [1] * len(sizes)
    strides, kernels = [(1,) * len(sizes)], []
    while pooled := _pooled(sizes, spacing):
        kernel = [3 if gap / min(spacing) < MAX_RATIO else side for side, gap in zip(kernel, spacing, strict=True)]
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if axis in pooled else 1 for axis in range(len(sizes))))
        for axis in pooled:
            sizes[axis], spacing[axis] = -(-sizes[axis] // 2), 2 * spacing[axis]
    return UNetPlan(tuple(strides), (*kernels, (3,) * len(sizes)))


def _pooled(sizes: Sequence[int], spacing: Sequence[float]) -> list[int]:
    """Return the axes that the next level halves."""
    long = [axis for axis, size in enumerate(sizes) if size >= 2 * MIN_CELLS]
    finest = min((spacing[axis] for axis in long), default=0.0)
    pooled = [axis for axis in long if spacing[axis] / finest < MAX_RATIO]
    return [] if len(pooled) == 1 and sizes[pooled[0]] < 3 * MIN_CELLS else pooled


@register
class DynUNetConfig(BackboneConfig):
    """U-Net of nnU-Net, usually with its own decoder (`head=own`), for segmentation of images and volumes."""

    FOLLOWS_CROP: ClassVar[bool] = True
    PLANNED: ClassVar[tuple[str, ...]] = ("strides", "kernel_sizes")

    name: Literal["dynunet"] = "dynunet"
    strides: tuple[Sides, ...] | None = None
    """Stride of each level along each axis, such as [[1, 1, 1], [2, 2, 1], [2, 2, 2]]: at least three levels, the
    first with a stride of 1. Unset: planned for the crop and the spacing of the images, as in nnU-Net.
    """
    kernel_sizes: tuple[Sides, ...] | None = None
    """Kernel size of each level along each axis. Unset: planned for the crop and the spacing of the images, as in
    nnU-Net.
    """
    widths: tuple[Count, ...] | None = None
    """Channels of each level. Unset: 32, doubled from level to level, up to 512 in 2D and 320 in 3D."""
    residual: bool = False
    """Use residual blocks instead of plain convolutional blocks."""
    weights: str | None = None
    """Initial weights of the encoder: a local .safetensors, .pth or .pt file with the names of MONAI. Unset: random
    initialization; nothing is downloaded.
    """

    def planned(self, crop: tuple[int, ...], spacing: tuple[float, ...]) -> DynUNetConfig:
        """Return the options, with unset strides and kernel sizes planned for the crop and the spacing.

        Raises:
            ConfigError: If the crop is too small for a U-Net.
        """
        plan = plan_unet(crop, spacing)
        if self.strides is None and len(plan.strides) < MIN_LEVELS:
            raise ConfigError(
                f"backbone.name=dynunet needs {MIN_LEVELS} levels, and a crop of {tuple(crop)} has "
                f"{len(plan.strides)}; set a larger crop, or backbone.strides and backbone.kernel_sizes"
            )
        strides = self.strides or plan.strides
        kernels = self.kernel_sizes or plan.kernel_sizes[: len(strides)]
        kernels += (kernels[-1],) * (len(strides) - len(kernels))
        return self.model_copy(update={"strides": strides, "kernel_sizes": kernels})

    def without_weights(self) -> DynUNetConfig:
        """Return the options without weights, so that `build` does not load any."""
        return self.model_copy(update={"weights": None})

    def build(self) -> DynUNetEncoder:
        """Return the encoder, with the weights of the file if the options name one.

        Raises:
            ConfigError: If strides, kernel sizes and widths do not fit together.
            CheckpointError: If the weights are not those of the network.
        """
        encoder = DynUNetEncoder(self)
        if self.weights is not None:
            encoder.fit = load_monai(
                encoder.network,
                self.weights,
                name="dynunet",
                first_layers=[f"input_block.{layer}.conv" for layer in ("conv1", "conv3")],
                advice="set backbone.strides, kernel_sizes, widths and residual to those of the file",
            )
        return encoder


class DynUNetEncoder(FeaturePyramid):
    """Encoder of DynUNet; its weights are named as in MONAI, with the prefix `network.`."""

    def __init__(self, config: DynUNetConfig) -> None:
        ndim = config.ndim or 3
        strides, kernels, widths = _checked(config, ndim)
        total = [(1,) * ndim]
        for step in strides:
            total.append(tuple(before * side for before, side in zip(total[-1], step, strict=True)))
        super().__init__(
            label="backbone.name=dynunet",
            ndim=ndim,
            channels=config.channels or 1,
            channel_names=config.channel_names,
            widths=widths,
            strides=total[1:],
        )
        self._options: dict[str, Any] = {
            "kernel_size": kernels,
            "strides": strides,
            "upsample_kernel_size": strides[1:],
            "filters": widths,
            "res_block": config.residual,
        }
        whole = self._whole(1)
        self.network = nn.ModuleDict(
            {"input_block": whole.input_block, "downsamples": whole.downsamples, "bottleneck": whole.bottleneck}
        )

    def levels(self, pixels: Float[Tensor, "b c *s"]) -> list[Tokens]:
        """Return the output of each block, of which the last is the bottleneck."""
        found = [self.network["input_block"](pixels)]
        for down in cast(nn.ModuleList, self.network["downsamples"]):
            found.append(down(found[-1]))
        found.append(self.network["bottleneck"](found[-1]))
        return [as_tokens(features) for features in found]

    def decoder(self, num_classes: int, num_supervised: int = 0) -> DynUNetDecoder:
        """Return the decoder, with outputs at `num_supervised` lower resolutions for training.

        Raises:
            ConfigError: If the decoder has fewer lower resolutions.
        """
        most = self.depth - 2
        if num_supervised > most:
            raise ConfigError(f"head.num_supervised={num_supervised} is more than the {most} lower resolutions")
        return DynUNetDecoder(self._whole(num_classes, num_supervised), num_supervised)

    def _whole(self, num_classes: int, num_supervised: int = 0) -> Any:
        from monai.networks.nets.dynunet import DynUNet

        return DynUNet(
            self.ndim,
            self.channels,
            num_classes,
            deep_supervision=num_supervised > 0,
            deep_supr_num=max(num_supervised, 1),
            **self._options,
        )


class DynUNetDecoder(nn.Module):
    """Decoder of DynUNet, with outputs at lower resolutions in training."""

    def __init__(self, whole: Any, num_supervised: int) -> None:
        super().__init__()
        self.upsamples, self.output_block = whole.upsamples, whole.output_block
        self.deep_supervision_heads = whole.deep_supervision_heads if num_supervised else nn.ModuleList()

    def forward(self, pixels: Float[Tensor, "b c *s"], maps: Sequence[Tensor]) -> list[Float[Tensor, "b l *t"]]:
        """Return logits for every pixel or voxel, then those of supervised lower resolutions, highest first."""
        x, decoded = maps[-1], []
        for up, skip in zip(self.upsamples, reversed(maps[:-1]), strict=True):
            x = up(x, skip)
            decoded.append(x)
        lower = zip(self.deep_supervision_heads, reversed(decoded[:-1]), strict=False)
        return [self.output_block(x), *(head(features) for head, features in lower)]


def _checked(
    config: DynUNetConfig, ndim: int
) -> tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...], tuple[int, ...]]:
    """Return strides, kernel sizes and widths, after checking that they fit together."""
    strides, kernels = config.strides, config.kernel_sizes
    if strides is None or kernels is None:
        raise ConfigError("backbone.strides and backbone.kernel_sizes are unset, and no crop is known to plan them for")
    widths = config.widths or tuple(min(FIRST_WIDTH * 2**level, WIDTHS[ndim]) for level in range(len(strides)))
    lengths = {"strides": len(strides), "kernel_sizes": len(kernels), "widths": len(widths)}
    if len(set(lengths.values())) > 1 or len(strides) < MIN_LEVELS:
        found = ", ".join(f"{count} {key}" for key, count in lengths.items())
        raise ConfigError(
            f"backbone.name=dynunet needs one stride, kernel size and width for each of at least {MIN_LEVELS} levels; "
            f"found {found}"
        )
    if any(len(sides) != ndim for sides in (*strides, *kernels)) or set(strides[0]) != {1}:
        raise ConfigError(
            f"backbone.strides and backbone.kernel_sizes need {ndim} numbers a level, and the first stride must be 1; "
            f"found {list(strides)} and {list(kernels)}"
        )
    return strides, kernels, widths
