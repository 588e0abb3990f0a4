"""Attention of the head: the weights with which it pools the patches of an image."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from medvit.explanations.methods import ExplanationMethod, MethodOptions, stitched
from medvit.explanations.outputs import ExplainedOutput
from medvit.models.image import Model


@torch.no_grad()
def head_attention(
    model: Model, pixels: Float[Tensor, "1 c *s"], output: ExplainedOutput, options: MethodOptions
) -> Float[Tensor, "*s"]:
    """Return the mean attention of the head over its maps; it is the same for every output."""

    def of_crop(crop: Float[Tensor, "1 c *r"]) -> Float[Tensor, "*g"]:
        tokens = model.tokens(crop)
        maps = model.head.attention_to_patches(tokens)
        assert maps is not None, "heads without attention are refused"
        return maps[0].mean(dim=0).unflatten(0, tokens[-1].grid)

    return stitched(model, pixels, of_crop)


def refused(model: Model) -> str:
    """Return why the head has no attention; empty if it has."""
    return "" if model.head.HAS_ATTENTION else f"the head {model.config.head.name} does not pool patches by attention"


METHOD = ExplanationMethod(
    name="attention",
    title="Attention of the head",
    meaning="Weight of each patch in the pooled feature from which the head computes its outputs.",
    not_shown="It shows which patches are pooled, not whether they are evidence for or against the output: the map is "
    "the same for all outputs, and a patch can carry information from other patches.",
    is_signed=False,
    map_of=head_attention,
    refused=refused,
)
