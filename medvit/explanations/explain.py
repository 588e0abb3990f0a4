"""Explanation of the prediction for one image, on the grid of the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray as Array
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from medvit.config import Count
from medvit.dataset.slices import across_of, stacked
from medvit.errors import DataError
from medvit.explanations.checks import (
    MapChecks,
    cell_values,
    deletion_and_insertion,
    order_of,
    random_orders,
    rank_correlation,
    with_random_weights,
)
from medvit.explanations.methods import ExplanationMethod, MethodOptions, baseline_of
from medvit.explanations.outputs import ExplainedOutput, chosen_output, output_score, shown_value, with_region
from medvit.inference.predictor import Predictor, parts_of
from medvit.models.ensemble import Ensemble
from medvit.models.image import Model
from medvit.transforms.preprocess import Prepared
from medvit.types import Image, Prediction

CELLS = 14
"""Number of cells of the checks along each axis of an image, unless its patches are larger; of a volume, half."""


class ExplanationOptions(MethodOptions):
    """Options of an explanation."""

    target: str = ""
    """Class, or name of the number, to explain. Empty: the predicted class, or the only number."""
    check_steps: Count = 16
    """Number of steps of the deletion and insertion checks."""
    random_orders: Count = Field(5)
    """Number of random orders with which deletion and insertion are compared."""


@dataclass(frozen=True)
class ImageExplanation:
    """Map (*S) on the grid of the image, the explained output with its value, and checks of the map.

    `value` is the probability of a class or label, or the predicted number.
    """

    values: Float[Array, "*s"]
    output: str
    value: float
    checks: MapChecks
    prediction: Prediction


def explain(
    predictor: Predictor, image: Image, method: ExplanationMethod, options: ExplanationOptions, *, seed: int = 0
) -> ImageExplanation:
    """Return the explanation of the prediction for an image.

    A model of slices explains each slice of a volume; the checks are those of the slice with the highest output. Of an
    ensemble, the maps and checks are means over its models.

    Raises:
        ConfigError: If the model has no such output.
        DataError: If the model does not accept the image, the image lacks a channel that the method needs, or a map is
            not finite.
    """
    prediction = predictor(image)
    output = chosen_output(predictor.config, prediction, options.target)
    parts = [(part, predictor.preprocess.prepared(part)) for part in parts_of(image, predictor.config.slices)]
    models = models_of(predictor)
    scores = [_score_of_part(models, prepared, output) for _, prepared in parts]
    maps = [_map_of_part(models, prepared, output, method, options) for _, prepared in parts]
    chosen = int(np.argmax(scores))
    checks = _mean_checks(
        [_checks(model, parts[chosen][1], output, maps[chosen], method, options, seed) for model in models]
    )
    native = [on_native(found, part, prepared) for found, (part, prepared) in zip(maps, parts, strict=True)]
    slices = predictor.config.slices
    is_whole = slices is None or image.kind != "volume"
    values = native[0] if slices is None or is_whole else stacked(native, across_of(image, slices))
    if not np.isfinite(values).all():
        raise DataError("the map of the explanation has values that are not finite; check the intensities of the image")
    config = predictor.config
    value = float(shown_value(config, torch.tensor(scores, dtype=torch.float64)).mean())
    return ImageExplanation(values.astype(np.float32), output.name, value, checks, prediction)


def models_of(predictor: Predictor) -> list[Model]:
    """Return the models of a predictor: one, or those of an ensemble."""
    if isinstance(predictor.model, Ensemble):
        return [model for model in predictor.model.members if isinstance(model, Model)]
    return [predictor.model]


def on_native(values: Float[Tensor, "*s"], image: Image, prepared: Prepared) -> Float[Array, "*t"]:
    """Return a map of a preprocessed image on the grid of the image; zero outside of a crop to the field of view."""
    shape = tuple(image.pixels.shape[1:])
    grid = shape if prepared.crop is None else (prepared.crop.side, prepared.crop.side)
    if tuple(values.shape) != grid:
        mode = "trilinear" if values.ndim == 3 else "bilinear"
        values = F.interpolate(values[None, None], size=grid, mode=mode, align_corners=False)[0, 0]
    found = np.asarray(values.numpy())
    return found if prepared.crop is None else prepared.crop.back(found, shape)


def _batch(model: Model, prepared: Prepared) -> Float[Tensor, "1 c *s"]:
    return prepared.pixels[None].to(next(model.parameters()).device)


@torch.no_grad()
def _score_of_part(models: Sequence[Model], prepared: Prepared, output: ExplainedOutput) -> float:
    scores = []
    for model in models:
        pixels = _batch(model, prepared)
        scores.append(float(output_score(model, pixels, with_region(model, pixels, output))))
    return float(np.mean(scores))


def _map_of_part(
    models: Sequence[Model],
    prepared: Prepared,
    output: ExplainedOutput,
    method: ExplanationMethod,
    options: MethodOptions,
) -> Float[Tensor, "*s"]:
    maps = []
    for model in models:
        pixels = _batch(model, prepared)
        maps.append(method.map_of(model, pixels, with_region(model, pixels, output), options))
    return torch.stack(maps).mean(dim=0)


def _checks(
    model: Model,
    prepared: Prepared,
    output: ExplainedOutput,
    found: Float[Tensor, "*s"],
    method: ExplanationMethod,
    options: ExplanationOptions,
    seed: int,
) -> MapChecks:
    pixels = _batch(model, prepared)
    output = with_region(model, pixels, output)
    cell = _cell(model, pixels)
    values = cell_values(found, cell)
    baseline = baseline_of(pixels, options)

    def value_of(images: Float[Tensor, "b c *s"]) -> Float[Tensor, "b"]:
        return shown_value(model.config, output_score(model, images, output)).cpu()

    own = deletion_and_insertion(value_of, pixels, baseline, order_of(values), cell, steps=options.check_steps)
    others = [
        deletion_and_insertion(value_of, pixels, baseline, order, cell, steps=options.check_steps)
        for order in random_orders(values.numel(), options.random_orders, seed)
    ]
    random = with_random_weights(model, seed)
    assert isinstance(random, Model)
    other = cell_values(method.map_of(random, pixels, output, options), cell)
    return MapChecks(
        deletion=own[0],
        deletion_random=float(np.mean([deletion for deletion, _ in others])),
        insertion=own[1],
        insertion_random=float(np.mean([insertion for _, insertion in others])),
        correlation=rank_correlation(values, other),
    )


def _cell(model: Model, pixels: Float[Tensor, "1 c *s"]) -> tuple[int, ...]:
    """Return the sides of a cell: those of a patch of a transformer, unless there would be too many."""
    cells = CELLS if pixels.ndim == 4 else CELLS // 2
    patch = model.backbone.patch_size if model.backbone.has_blocks else (1,) * (pixels.ndim - 2)
    return tuple(max(side // cells, min(one, side)) for side, one in zip(pixels.shape[2:], patch, strict=True))


def _mean_checks(each: Sequence[MapChecks]) -> MapChecks:
    names = ("deletion", "deletion_random", "insertion", "insertion_random", "correlation")
    return MapChecks(**{name: float(np.mean([getattr(one, name) for one in each])) for name in names})
