"""ExPLoRA: continued pretraining with low-rank updates in most blocks, while one or two blocks are fully trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from medvit.backbones import Backbone
from medvit.config import Count, Positive
from medvit.errors import ConfigError
from medvit.peft import HubAdapter, PeftConfig
from medvit.peft._hub import Tuned
from medvit.peft.lora import LoraConfig
from medvit.registry import register


@register
class ExploraConfig(PeftConfig):
    """Train some blocks fully, LoRA on the attention of the others, and every norm (Khanna et al., ICML 2025).

    Low-rank updates are on the fused projection of queries, keys and values. Weights that are missing from the public
    weights, or have another shape there, such as a patch embedding for volumes, are fully trained too.
    """

    TRAINS_WHOLE_WEIGHTS: ClassVar[bool] = True
    NOT_IN_HUB: ClassVar[str] = ""

    name: Literal["explora"] = "explora"
    rank: Count = 16
    """Rank of the low-rank updates. The ExPLoRA paper uses 64 for ViT-L. With 16, less than a tenth of the parameters
    of ViT-S, ViT-B and ViT-L are trained.
    """
    alpha: Positive = 16.0
    """Scale of the low-rank updates, which are multiplied by alpha / rank."""
    targets: tuple[str, ...] = ("qkv",)
    """Linear layers that get a low-rank update, in the blocks that are not fully trained. A layer is given by the last
    part of its name, such as qkv for blocks.0.attn.qkv.
    """
    blocks: tuple[int, ...] = Field(default=(-1,), min_length=1)
    """Blocks to train fully, counted from 0; -1 is the last block. The ExPLoRA paper trains the last one or two blocks.
    """

    def adapt(self, backbone: Backbone) -> Tuned:
        """Return the backbone with low-rank updates.

        The updates, the chosen blocks, the norms and new weights are trainable.

        Raises:
            ConfigError: If a chosen block does not exist, all blocks are chosen, or a target matches no layer.
        """
        depth = backbone.depth
        outside = [number for number in self.blocks if not -depth <= number < depth]
        whole = {number % depth for number in self.blocks}
        if outside or len(whole) == depth:
            raise ConfigError(
                f"peft.blocks is {self.blocks}; expected some but not all of {depth}, from {-depth} to {depth - 1}"
            )
        kept = [name for name, _ in backbone.named_parameters() if self._is_whole(name, whole, backbone)]
        norms = [name for name, module in backbone.named_modules() if isinstance(module, nn.LayerNorm)]
        lora = LoraConfig(rank=self.rank, alpha=self.alpha, targets=self.targets)
        adapted = lora.adapt_blocks(backbone, [number for number in range(depth) if number not in whole])
        for name, weight in backbone.named_parameters():
            if name in kept or name.rpartition(".")[0] in norms:
                weight.requires_grad_(True)
        return adapted

    def go_on(self, backbone: Backbone, weights: Mapping[str, Tensor]) -> Tuned:
        """Return the backbone with the low-rank updates of an earlier run as separate weights.

        The weights of the backbone contain these updates, so the updates are subtracted from them first.
        """
        adapted = self.adapt(backbone)
        adapted.take(weights)
        return adapted

    def in_hub(self, backbone: Backbone, weights: Mapping[str, Tensor]) -> HubAdapter:
        """Return the adapter in the format of huggingface/peft; fully trained modules are among `modules_to_save`."""
        return self.go_on(backbone, weights).in_hub(weights)

    def _is_whole(self, name: str, whole: set[int], backbone: Backbone) -> bool:
        if name.startswith("blocks.") and int(name.split(".")[1]) in whole:
            return True
        return backbone.fit is not None and (name in backbone.fit.missing or name in backbone.fit.adapted)
