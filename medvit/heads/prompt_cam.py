"""Prompt-CAM head: one prompt per class, whose attention to the patches explains its logit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from medvit.backbones import Backbone
from medvit.backbones.attention_maps import HeadMaps, head_maps
from medvit.backbones.vit import ViT
from medvit.errors import ConfigError
from medvit.heads import Head, HeadConfig
from medvit.registry import register
from medvit.types import Tokens


@register
class PromptCamConfig(HeadConfig):
    """Classification by the outputs of deep prompts, one per class (Chowdhury et al., CVPR 2025, Prompt-CAM).

    Set peft=vpt with peft.num_prompts equal to the number of classes. One linear unit, shared by all classes, turns the
    output of a prompt into the logit of its class.
    """

    name: Literal["prompt_cam"] = "prompt_cam"

    def build(self, backbone: Backbone, num_classes: int) -> PromptCamHead:
        """Return the head.

        Raises:
            ConfigError: If the backbone does not have one deep prompt per class.
        """
        prompts = backbone.prompts if isinstance(backbone, ViT) else None
        found = 0 if prompts is None or len(prompts) != backbone.depth else prompts.shape[1]
        if found != num_classes:
            raise ConfigError(
                f"head=prompt_cam needs one deep prompt for each of {num_classes} classes, and the backbone has "
                f"{found}; set peft=vpt peft.depth=deep peft.num_prompts={num_classes}"
            )
        return PromptCamHead(backbone.width, num_classes)

    def build_for_labels(self, backbone: Backbone, num_outputs: Sequence[int]) -> PromptCamHead:
        """Refuse several labels, because the prompts are the classes of one label.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(
            f"head=prompt_cam has prompts for the classes of one label, and tasks names {len(num_outputs)} labels; "
            "give another head, such as linear or attention"
        )


class PromptCamHead(Head):
    """Logits (B, L) from the outputs (B, L, D) of the prompts after the last block, by one linear unit."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.layers, self._num_classes = (), num_classes
        self.linear = nn.Linear(width, 1)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, tokens: Sequence[Tokens], pixels: Float[Tensor, "b c *s"]) -> Float[Tensor, "b l"]:
        """Return logits from the tokens of the last block; `pixels` are not used."""
        logits: Tensor = self.linear(tokens[-1].prefix[:, -self._num_classes :])
        return logits[..., 0]


def class_maps(vit: ViT, pixels: Float[Tensor, "b c *s"], class_index: int) -> HeadMaps:
    """Return the attention of the prompt of a class in the last block, one map per head: the regions it looks at.

    Raises:
        DataError: If the transformer has rotary positions, which are not supported.
    """
    assert vit.prompts is not None
    return head_maps(vit, pixels, token=vit.num_prefix_tokens - vit.prompts.shape[1] + class_index)
