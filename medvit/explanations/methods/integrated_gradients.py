"""Integrated gradients (Sundararajan et al., ICML 2017), computed by Captum.

The sum of the map is the output for the image minus that for the baseline (completeness).
"""

from __future__ import annotations

from functools import partial

from jaxtyping import Float
from torch import Tensor

from medvit.explanations.methods import ExplanationMethod, MethodOptions, baseline_of, require_every_channel
from medvit.explanations.outputs import ExplainedOutput, output_score
from medvit.models.image import Model

BATCH = 8
"""Number of steps of the path that are computed together."""


def integrated_gradients(
    model: Model, pixels: Float[Tensor, "1 c *s"], output: ExplainedOutput, options: MethodOptions
) -> Float[Tensor, "*s"]:
    """Return the integral of the gradients along the path from the baseline to the image, summed over channels."""
    from captum.attr import IntegratedGradients

    require_every_channel(pixels)
    method = IntegratedGradients(partial(output_score, model, output=output), multiply_by_inputs=True)
    baseline = baseline_of(pixels, options).contiguous()
    found = method.attribute(
        pixels.detach().clone(), baseline, n_steps=options.steps, method="gausslegendre", internal_batch_size=BATCH
    )
    assert isinstance(found, Tensor)
    return found[0].sum(dim=0).detach().float().cpu()


METHOD = ExplanationMethod(
    name="integrated_gradients",
    title="Integrated gradients",
    meaning="Contribution of each pixel to the difference between the output for the image and for the baseline; "
    "negative values are evidence against the output.",
    not_shown="It shows contributions relative to the baseline: pixels equal to the baseline get none, another "
    "baseline gives another map, and single pixels are noisy.",
    is_signed=True,
    map_of=integrated_gradients,
)
