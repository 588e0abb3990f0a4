"""Attention rollout: the attention of all blocks, multiplied (Abnar and Zuidema, ACL 2020)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from medvit.backbones.attention_maps import block_attentions
from medvit.backbones.vit import ViT
from medvit.explanations.methods import ExplanationMethod, MethodOptions, stitched, transformer_refused
from medvit.explanations.outputs import ExplainedOutput
from medvit.models.image import Model


def rollout(attentions: list[Float[Tensor, "b t t"]]) -> Float[Tensor, "b t t"]:
    """Return the product of the attention of all blocks, each averaged with the identity for the residual path."""
    size = attentions[0].shape[-1]
    identity = torch.eye(size, device=attentions[0].device)
    whole = identity.expand_as(attentions[0])
    for attention in attentions:
        whole = (0.5 * attention + 0.5 * identity) @ whole
    return whole


def rollout_map(
    model: Model, pixels: Float[Tensor, "1 c *s"], output: ExplainedOutput, options: MethodOptions
) -> Float[Tensor, "*s"]:
    """Return the rollout from the class token to the patches; without one, the mean over all patches."""
    backbone = model.backbone
    assert isinstance(backbone, ViT), "other backbones are refused"

    def of_crop(crop: Float[Tensor, "1 c *r"]) -> Float[Tensor, "*g"]:
        whole = rollout([maps.mean(dim=1) for maps in block_attentions(backbone, crop)])[0]
        prefix = backbone.num_prefix_tokens
        row = whole[0] if backbone.cls_token is not None else whole[prefix:].mean(dim=0)
        return row[prefix:].unflatten(0, backbone.grid_of(crop))

    return stitched(model, pixels, of_crop)


METHOD = ExplanationMethod(
    name="rollout",
    title="Attention rollout",
    meaning="Attention of all blocks, multiplied from the class token down to the patches.",
    not_shown="It shows how tokens are mixed, not which of them the output depends on: the map is the same for all "
    "outputs and ignores the values that are mixed, the MLPs and the head.",
    is_signed=False,
    map_of=rollout_map,
    refused=transformer_refused,
)
