"""Selective LoRA: low-rank updates that training switches on and off layer by layer."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from medvit.backbones import Backbone
from medvit.config import Amount, Positive
from medvit.errors import CheckpointError
from medvit.peft import HubAdapter
from medvit.peft._hub import ADAPTER, Tuned
from medvit.peft._low_rank import LowRankConfig
from medvit.registry import register

log = logging.getLogger("medvit")
SCORE = "selection_score"
"""Last part of the name of a layer's score. The update of the layer is active if the score is not negative."""


@register
class SelectiveLoraConfig(LowRankConfig):
    """Train W + g (alpha / rank) B A with g = 1 if the score of the layer is >= 0, else 0.

    After Bafghi et al., arXiv 2025 (2501.15377), with one gate per layer. The gradient of the score is that of g
    (straight-through). The loss contains the share of active updates, so that layers that need no adaptation keep their
    original weights.
    """

    FINETUNING_ONLY: ClassVar[bool] = True

    name: Literal["selective_lora"] = "selective_lora"
    sparsity: Amount = 0.1
    """Weight of an additional loss term: the fraction of layers whose update is switched on. With 0, only the loss of
    the task decides which updates are switched off.
    """
    initial_score: Positive = 0.05
    """Score of every layer at the start. The update of a layer is switched off while its trained score is negative. At
    a learning rate of 3e-4, this can happen after initial_score / 3e-4 steps at the earliest.
    """

    def tuned(self, backbone: Backbone, layers: Sequence[str]) -> SelectiveLora:
        """Return the backbone with low-rank updates and scores of these layers."""
        return SelectiveLora(backbone, self.settings(layers), self)


class SelectiveLora(Tuned):
    """Backbone with low-rank updates, each of which is active or not."""

    def __init__(self, backbone: Backbone, settings: Any, config: SelectiveLoraConfig) -> None:
        super().__init__(backbone, settings)
        self._config = config
        for _, layer in self.layers():
            score = torch.full((1,), config.initial_score, device=layer.get_base_layer().weight.device)
            layer.register_parameter(SCORE, nn.Parameter(score))
            layer.lora_B[ADAPTER].register_forward_hook(_Gate(layer))

    @property
    def active(self) -> list[str]:
        """Names of the layers with an active update."""
        return [name for name, layer in self.layers() if _is_active(layer)]

    def penalty(self) -> Tensor:
        """Return the share of active updates, times its weight."""
        gates = torch.cat([_gate(layer) for _, layer in self.layers()])
        return self._config.sparsity * gates.mean()

    def unmerge(self, name: str, layer: Any, weights: Mapping[str, Tensor]) -> None:
        """Subtract an active update from the merged weight of a layer, in place."""
        if _is_active(layer):
            super().unmerge(name, layer, weights)

    def merge(self) -> Backbone:
        """Return the plain backbone, with active updates merged; the log names them."""
        names = self.active
        log.info("selective LoRA adapts %d of %d layers: %s", len(names), len(list(self.layers())), ", ".join(names))
        self._silence()
        return super().merge()

    def attached(self) -> Backbone:
        """Return the backbone with each active update merged only while its layer runs."""
        self._silence()
        return super().attached()

    def in_hub(self, weights: Mapping[str, Tensor]) -> HubAdapter:
        """Return the adapter as LoRA of the active layers in huggingface/peft.

        Raises:
            CheckpointError: If no layer is active.
        """
        if not self.active:
            raise CheckpointError(
                "selective LoRA adapts no layer: huggingface/peft refuses an adapter without layers, and the backbone "
                "is the one that training started from; to_timm writes it"
            )
        active = tuple(f"{name}." for name in self.active)
        self._settings.target_modules = set(self.active)
        scores = {name for name in weights if name.endswith(f".{SCORE}")}
        return super().in_hub({name: weights[name] for name in weights.keys() - scores if name.startswith(active)})

    @torch.no_grad()
    def _silence(self) -> None:
        for _, layer in self.layers():
            if not _is_active(layer):
                layer.lora_B[ADAPTER].weight.zero_()


class _Gate:
    """Forward hook that multiplies the update of a layer by its gate.

    The hook is an object, so that a copy of the backbone has hooks for its own layers.
    """

    def __init__(self, layer: Any) -> None:
        self.layer = layer

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], update: Tensor) -> Tensor:
        return update * _gate(self.layer).to(update.dtype)


def _is_active(layer: Any) -> bool:
    return bool(getattr(layer, SCORE) >= 0)


def _gate(layer: Any) -> Tensor:
    """Return the gate of a layer as a tensor of size 1: 1 or 0, with the gradient of the layer's score."""
    score: Tensor = getattr(layer, SCORE)
    return (score >= 0).to(score) + score - score.detach()
