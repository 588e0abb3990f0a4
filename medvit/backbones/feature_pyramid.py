"""Feature pyramids: backbones whose layers are feature maps of decreasing resolution instead of transformer blocks.

A layer is a level of the pyramid, with its own width and stride. The contents of a level are passed on as tokens, one
per cell of the feature map.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, Self

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from medvit.backbones import Backbone, Hidden
from medvit.errors import CheckpointError, ConfigError, DataError
from medvit.types import Tokens
from medvit.weights import Fit, adapt_patch_embedding
from medvit.weights.layouts import StateDict


class FeaturePyramid(Backbone):
    """Backbone with the feature maps of a network; `label` is the option that chose the network, for messages."""

    has_blocks = False

    def __init__(
        self,
        *,
        label: str,
        ndim: int,
        channels: int,
        widths: Sequence[int],
        strides: Sequence[tuple[int, ...]],
        channel_names: tuple[str, ...] | None = None,
    ) -> None:
        super().__init__()
        self.label, self.ndim, self.channels = label, ndim, channels
        self.channel_names = channel_names or ()
        self._widths, self._strides = tuple(widths), tuple(strides)
        self.width, self.depth = self._widths[-1], len(self._widths)
        self.patch_size = tuple(max(sides) for sides in zip(*self._strides, strict=True))
        self.num_prefix_tokens = 0
        self.norm = nn.Identity()

    @abstractmethod
    def levels(self, pixels: Float[Tensor, "b c *s"]) -> list[Tokens]:
        """Return all levels of the pyramid, from the largest feature map to the smallest."""

    def width_of(self, layer: int) -> int:
        """Return the number of channels of a level of the pyramid."""
        return self._widths[layer]

    def stride_of(self, layer: int) -> tuple[int, ...]:
        """Return the number of pixels per cell of a level of the pyramid, along each axis."""
        return self._strides[layer]

    def intermediate(self, pixels: Float[Tensor, "b c *s"], layers: Sequence[int]) -> list[Tokens]:
        """Return the cells of the levels `layers` of the pyramid, counted from 0, as tokens.

        Raises:
            DataError: If the network does not accept images of this shape.
        """
        self._require_fitting(pixels)
        self._hold_statistics()
        self._require_several_cells(pixels)
        levels = self.levels(self.filled(pixels))
        return [levels[layer] for layer in layers]

    def embed(
        self, pixels: Float[Tensor, "b c *s"], hidden: Hidden | None = None
    ) -> tuple[Float[Tensor, "b n d"], tuple[int, ...]]:
        """Raise a `ConfigError`, because the network has no tokens before its first block."""
        self._refuse()

    def encode_layers(
        self,
        patches: Float[Tensor, "b m d"],
        *,
        grid: tuple[int, ...],
        layers: Sequence[int],
        ids: Int[Tensor, "b m"] | None = None,
    ) -> list[Float[Tensor, "b t d"]]:
        """Raise a `ConfigError`, because the network does not encode tokens."""
        self._refuse()

    def of_other_rank(self, patch_size: tuple[int, ...], channels: int) -> Self:
        """Raise a `ConfigError`, because the network has no blocks that a 2D and a 3D network could share."""
        self._refuse()

    def embedding_state(self) -> dict[str, Tensor]:
        """Raise a `ConfigError`, because the network has no patch embedding."""
        self._refuse()

    def require_no_supervision(self, num_supervised: int) -> None:
        """Check that deep supervision is not requested; for networks without outputs at lower resolutions.

        Raises:
            ConfigError: If `num_supervised` is not 0.
        """
        if num_supervised:
            raise ConfigError(
                f"head.num_supervised={num_supervised} needs backbone.name=dynunet; {self.label} has no outputs at "
                "lower resolutions"
            )

    def _refuse(self) -> NoReturn:
        raise ConfigError(f"{self.label} has feature maps instead of tokens of patches; give backbone.name=vit")

    def _require_fitting(self, pixels: Tensor) -> None:
        shape = tuple(pixels.shape[2:])
        if len(shape) != self.ndim or pixels.shape[1] != self.channels:
            raise DataError(
                f"found pixels of shape {shape} with {pixels.shape[1]} channels; the backbone expects {self.ndim}D "
                f"images with {self.channels} channels: set backbone.channels, or the preprocessing"
            )
        if any(side % stride for side, stride in zip(shape, self.patch_size, strict=True)):
            raise DataError(
                f"found pixels of shape {shape}; each side must be a multiple of the largest stride {self.patch_size}"
            )

    def _hold_statistics(self) -> None:
        """Use the stored statistics of batch norms unless all of their weights are trained.

        If batch norms updated their statistics, training a head would change the features of a frozen network, and an
        adapter would not contain the change.
        """
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                weights = list(module.parameters())
                module.train(self.training and bool(weights) and all(weight.requires_grad for weight in weights))

    def _require_several_cells(self, pixels: Tensor) -> None:
        is_single = len(pixels) * math.prod(self.grid_of(pixels)) == 1
        if is_single and any(isinstance(module, _BatchNorm) and module.training for module in self.modules()):
            raise DataError(
                f"found a training batch of one image of {tuple(pixels.shape[2:])} pixels, which is too little for the "
                "statistics of batch norms; set a larger loader.batch_size or crop, or peft=bitfit"
            )
        require_cells_per_image(self, self.grid_of(pixels), tuple(pixels.shape[2:]))


def require_cells_per_image(network: nn.Module, grid: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """Check that the smallest feature map has several cells if the network normalizes each image by its own statistics.

    Raises:
        DataError: If the map has only one cell.
    """
    if math.prod(grid) == 1 and any(isinstance(module, _InstanceNorm) for module in network.modules()):
        raise DataError(
            f"images of {shape} pixels are a single cell at the lowest resolution, which is too little for the "
            "statistics of instance norms; set crop so that at least one side is twice as long"
        )


def as_tokens(features: Float[Tensor, "b d *s"]) -> Tokens:
    """Return the cells of a feature map as tokens, without prefix tokens."""
    patches = features.flatten(2).transpose(1, 2)
    return Tokens(patches[:, :0], patches, tuple(features.shape[2:]))


def as_map(tokens: Tokens) -> Float[Tensor, "b d *s"]:
    """Return the feature map whose cells are the patch tokens."""
    return tokens.patches.transpose(1, 2).unflatten(2, tokens.grid)


def require_local_file(path: str, name: str, names_of: str) -> None:
    """Check that initial weights are a local file.

    Raises:
        CheckpointError: If the file does not exist.
    """
    if not Path(path).is_file():
        raise CheckpointError(
            f"no weights at {path}; backbone.name={name} downloads nothing: give a local file with the names of "
            f"{names_of}"
        )


def load_named(
    network: nn.Module,
    state: StateDict,
    *,
    source: str,
    first_layers: Sequence[str],
    is_ignored: Callable[[str], bool],
    is_optional: Callable[[str], bool],
    advice: str,
) -> Fit:
    """Load weights with the names of the network; first convolutions are adapted to the number of channels.

    `is_ignored` selects weights of the file, by name, that the network does not need. `is_optional` selects weights of
    the network that the file may lack.

    Raises:
        CheckpointError: If any other weight is missing from the network or the file, or has another shape. The message
            ends with `advice`.
    """
    wanted, state = network.state_dict(), dict(state)
    adapted = _adapt_channels(state, wanted, first_layers)
    ignored = tuple(sorted(name for name in state.keys() - wanted.keys() if is_ignored(name)))
    loaded = {name: state[name] for name in wanted if name in state and state[name].shape == wanted[name].shape}
    required = {name for name in wanted if not is_optional(name)}
    wrong = sorted((state.keys() - loaded.keys() - set(ignored)) | required - loaded.keys())
    if wrong:
        found, need = (tuple(tree[wrong[0]].shape) if wrong[0] in tree else "none" for tree in (state, wanted))
        raise CheckpointError(
            f"{source}: {len(wrong)} weights do not fit, first {wrong[0]}: found {found}, need {need}; {advice}"
        )
    network.load_state_dict(loaded, strict=False)
    shapes = {name: tuple(state[name].shape) for name in ignored}
    return Fit(source, tuple(loaded), adapted, unexpected=ignored, shapes=shapes)


def _adapt_channels(state: StateDict, wanted: StateDict, layers: Sequence[str]) -> dict[str, str]:
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
