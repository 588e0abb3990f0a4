"""Occlusion: the fall of the output when an area is hidden (Zeiler and Fergus, ECCV 2014), computed by Captum."""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from medvit.explanations.methods import ExplanationMethod, MethodOptions, baseline_of, require_every_channel
from medvit.explanations.outputs import ExplainedOutput, output_score
from medvit.models.image import Model

BATCH = 8
"""Number of hidden areas that are computed together."""


@torch.no_grad()
def occlusion_map(
    model: Model, pixels: Float[Tensor, "1 c *s"], output: ExplainedOutput, options: MethodOptions
) -> Float[Tensor, "*s"]:
    """Return the mean fall of the output over all hidden areas that contain a pixel."""
    from captum.attr import Occlusion

    require_every_channel(pixels)
    sides = tuple(max(2, round(options.window * side)) for side in pixels.shape[2:])
    found = Occlusion(partial(output_score, model, output=output)).attribute(
        pixels,
        sliding_window_shapes=(pixels.shape[1], *sides),
        strides=(pixels.shape[1], *(max(1, side // 2) for side in sides)),
        baselines=baseline_of(pixels, options).contiguous(),
        perturbations_per_eval=BATCH,
    )
    return found[0].mean(dim=0).float().cpu()


METHOD = ExplanationMethod(
    name="occlusion",
    title="Occlusion",
    meaning="Fall of the output when an area around the pixel is replaced by the baseline; negative values are areas "
    "whose absence raises the output.",
    not_shown="It shows the effect of hiding one area at a time: findings of which one suffices get little, and the "
    "edges of a hidden area are themselves new to the model.",
    is_signed=True,
    map_of=occlusion_map,
)
