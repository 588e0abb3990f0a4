"""Attention of the prompt of a class to the patches (Chowdhury et al., CVPR 2025, Prompt-CAM)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from medvit.backbones.vit import ViT
from medvit.explanations.methods import ExplanationMethod, MethodOptions, stitched, transformer_refused
from medvit.explanations.outputs import ExplainedOutput
from medvit.heads.prompt_cam import PromptCamHead, class_maps
from medvit.models.image import Model


def prompt_attention(
    model: Model, pixels: Float[Tensor, "1 c *s"], output: ExplainedOutput, options: MethodOptions
) -> Float[Tensor, "*s"]:
    """Return the attention of the prompt of the class in the last block, averaged over attention heads."""
    backbone = model.backbone
    assert isinstance(backbone, ViT), "other backbones are refused"

    def of_crop(crop: Float[Tensor, "1 c *r"]) -> Float[Tensor, "*g"]:
        return class_maps(backbone, crop, output.index).maps[0].mean(dim=0)

    return stitched(model, pixels, of_crop)


def refused(model: Model) -> str:
    """Return why the model has no prompts for classes; empty if it has."""
    if not isinstance(model.head, PromptCamHead):
        return f"the head {model.config.head.name} has no prompt for each class; train with head=prompt_cam peft=vpt"
    if model.config.kind != "classification":
        return f"the prompts of a model for task={model.config.kind} do not belong to classes"
    return transformer_refused(model)


METHOD = ExplanationMethod(
    name="prompt_cam",
    title="Prompt-CAM",
    meaning="Attention of the prompt of the class to each patch in the last block, averaged over attention heads.",
    not_shown="It shows the patches that the prompt of the class attends to in the last block; such a patch can carry "
    "information from other patches, and attention does not separate evidence for the class from evidence against it.",
    is_signed=False,
    map_of=prompt_attention,
    refused=refused,
)
