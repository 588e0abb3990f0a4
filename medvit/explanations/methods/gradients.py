"""Gradients: the absolute derivative of the output by each pixel (Simonyan et al., 2014), computed by Captum."""

from __future__ import annotations

from functools import partial

from jaxtyping import Float
from torch import Tensor

from medvit.explanations.methods import ExplanationMethod, MethodOptions, require_every_channel
from medvit.explanations.outputs import ExplainedOutput, output_score
from medvit.models.image import Model


def gradient_map(
    model: Model, pixels: Float[Tensor, "1 c *s"], output: ExplainedOutput, options: MethodOptions
) -> Float[Tensor, "*s"]:
    """Return the largest absolute gradient over the channels."""
    from captum.attr import Saliency

    require_every_channel(pixels)
    found = Saliency(partial(output_score, model, output=output)).attribute(
        pixels.detach().clone().requires_grad_(), abs=True
    )
    return found[0].amax(dim=0).detach().cpu()


METHOD = ExplanationMethod(
    name="gradients",
    title="Gradients",
    meaning="Absolute change of the output for a small change of each pixel.",
    not_shown="It shows to which pixels the output is most sensitive, not which ones made it what it is; gradients are "
    "noisy and are close to zero where an output is saturated.",
    is_signed=False,
    map_of=gradient_map,
)
