"""Methods that compute a map of the pixels on which an output of a model depends.

A method is a file with a constant `METHOD`. Its function gets a model, one preprocessed image (1, C, *S) and the
output, and returns a map (*S) on the grid of the preprocessed image. Higher values mean more evidence for the output;
the map of a signed method is negative where pixels are evidence against it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from medvit.backbones.vit import ViT
from medvit.config import Config, Count
from medvit.errors import ConfigError, DataError
from medvit.explanations.outputs import ExplainedOutput, crop_indices
from medvit.models.image import Model
from medvit.registry import occupants
from medvit.transforms.padding import pad_about, pad_to_multiple


class MethodOptions(Config):
    """Options of the methods."""

    baseline: Literal["mean", "blur", "lowest"] = "mean"
    """Pixels that stand for missing information in integrated gradients, occlusion and the checks. mean: the mean of
    the image. blur: the image, strongly blurred. lowest: the lowest value of the image, such as black.
    """
    steps: Count = 32
    """Number of steps of integrated gradients along the path from the baseline to the image."""
    window: float = 0.125
    """Side of the area that occlusion hides, as a share of each side of the image. It moves by half of its side."""


MapFunction = Callable[[Model, Tensor, ExplainedOutput, MethodOptions], Tensor]


@dataclass(frozen=True)
class DescribedMethod:
    """Name of a method of explanation, and the meaning and limits of its maps in words."""

    name: str
    title: str
    meaning: str
    """Meaning of the map, in one sentence."""
    not_shown: str
    """Limits of the map, in one sentence."""
    is_signed: bool


@dataclass(frozen=True)
class ExplanationMethod(DescribedMethod):
    """Method of explanation of the prediction for an image."""

    map_of: MapFunction
    refused: Callable[[Model], str] = lambda _model: ""
    """Function that returns why the method does not apply to a model; empty if it does."""


def methods() -> tuple[ExplanationMethod, ...]:
    """Return all methods, sorted by name."""
    return occupants(__name__, "METHOD")


def method_of(name: str, model: Model) -> ExplanationMethod:
    """Return the method of a name; `auto` is the attention that the head uses, else integrated gradients.

    Raises:
        ConfigError: If there is no such method, or it does not apply to the model.
    """
    known = {one.name: one for one in methods()}
    if name == "auto":
        own = (known[one] for one in ("prompt_cam", "attention"))
        return next((one for one in own if not one.refused(model)), known["integrated_gradients"])
    if name not in known:
        raise ConfigError(f"there is no method {name!r}; known are auto, {', '.join(known)}")
    reason = known[name].refused(model)
    if reason:
        raise ConfigError(f"method={name}: {reason}; give method=integrated_gradients or method=occlusion")
    return known[name]


def baseline_of(pixels: Float[Tensor, "1 c *s"], options: MethodOptions) -> Float[Tensor, "1 c *s"]:
    """Return the pixels that stand for missing information, one value per channel unless blurred."""
    axes = tuple(range(2, pixels.ndim))
    if options.baseline == "lowest":
        return pixels.amin(dim=axes, keepdim=True).expand_as(pixels)
    if options.baseline == "mean":
        return pixels.mean(dim=axes, keepdim=True).expand_as(pixels)
    from medvit.transforms.augmentation.smoothing import smoothed

    return smoothed(pixels[0], [side / 8.0 for side in pixels.shape[2:]])[None]


def require_every_channel(pixels: Tensor) -> None:
    """Check that no channel is missing, because gradients and baselines need its values.

    Raises:
        DataError: If a channel is missing.
    """
    if pixels.isnan().any():
        raise DataError("the image lacks a channel, which gradients and occlusion need; use an image with all channels")


def transformer_refused(model: Model) -> str:
    """Return why maps of attention between patches are not available for a model; empty if they are."""
    backbone = model.backbone
    if not isinstance(backbone, ViT):
        return "the backbone is not a vision transformer of medvit, so that it has no attention between patches"
    if backbone.positions == "rope":
        return "the backbone has rotary positions, for which attention is not recomputed"
    return "the backbone has a token for each channel" * backbone.has_channel_tokens


def stitched(
    model: Model, pixels: Float[Tensor, "1 c *s"], map_of_crop: Callable[[Tensor], Float[Tensor, "*g"]]
) -> Float[Tensor, "*s"]:
    """Return the map of an image from those of the crops that the model predicts; where crops overlap, their mean.

    `map_of_crop` gets a crop padded to whole patches, and returns one value per patch, row by row.
    """
    roi = model.config.roi
    padded, inside = (pixels, (...,)) if roi is None else pad_about(pixels, roi)
    total = torch.zeros(padded.shape[2:])
    count = torch.zeros_like(total)
    for window in crop_indices(model, pixels):
        crop = padded[window]
        whole = pad_to_multiple(crop, model.backbone.multiple)
        cells = map_of_crop(whole).float().cpu()
        grown = F.interpolate(cells[None, None], size=tuple(whole.shape[2:]), mode="nearest")[0, 0]
        cut = tuple(slice(side) for side in crop.shape[2:])
        place = window[1:] if len(window) > 1 else (...,)
        total[place] += grown[cut]
        count[place] += 1.0
    return (total / count)[inside[1:] if len(inside) > 1 else ...]
