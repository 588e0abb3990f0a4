"""TAPS: full-rank changes of linear layers; training decides for each layer whether its change is active."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from medvit.backbones import Backbone
from medvit.config import Amount, Positive
from medvit.errors import CheckpointError, ConfigError
from medvit.peft import PeftConfig, Removable, require_known
from medvit.peft._hub import is_named
from medvit.registry import register

log = logging.getLogger("medvit")
SCORE, UPDATE = "layer_score", "layer_update"
"""Last parts of the names of two tensors of a layer: its score, and its change, active if the score is >= 0."""
PARAMETRIZED = ".parametrizations.weight.0."


@register
class TapsConfig(PeftConfig):
    """Train a change U and a score for each linear layer: its weight W becomes W + U if the score is >= 0.

    After Wallingford et al. (TAPS, CVPR 2022). W is frozen, and U is 0 at the start. Scores get the gradient of the
    gate g in W + g U (straight-through). The loss contains the share of active changes, so that layers that need no
    adaptation keep the weights that all tasks share.
    """

    FINETUNING_ONLY: ClassVar[bool] = True
    NOT_IN_HUB: ClassVar[str] = (
        "whole layers were changed, which no method of huggingface/peft does; to_timm writes the model"
    )

    name: Literal["taps"] = "taps"
    targets: tuple[str, ...] = ("qkv", "proj", "fc1", "fc2")
    """Linear layers of each block that may change. Give the last part of their names; fc1 includes fc1_g and fc1_x of a
    SwiGLU.
    """
    sparsity: Amount = 0.1
    """Weight of an additional loss term: the fraction of layers whose change is active. With 0, only the loss of the
    task decides which layers keep their original weights.
    """
    initial_score: Positive = 0.05
    """Score of every layer at the start. The change of a layer is inactive while its trained score is negative. At a
    learning rate of 3e-4, a score becomes negative after initial_score / 3e-4 steps at the earliest.
    """

    def adapt(self, backbone: Backbone) -> Taps:
        """Return the backbone with a change and a score for every target layer in its blocks.

        Raises:
            ConfigError: If a target matches no linear layer of the blocks.
        """
        names = [
            name
            for name, module in backbone.named_modules()
            if name.startswith("blocks.") and isinstance(module, nn.Linear) and is_named(name, self.targets)
        ]
        absent = sorted(target for target in set(self.targets) if not any(is_named(name, [target]) for name in names))
        if absent:
            raise ConfigError(
                f"peft.targets contains {', '.join(absent)}, but no linear layer of the blocks has this name"
            )
        return Taps(backbone, self, names)

    def go_on(self, backbone: Backbone, weights: Mapping[str, Tensor]) -> Taps:
        """Return the backbone with the changes of an earlier run, after subtracting them from the merged weights."""
        adapted = self.adapt(backbone)
        adapted.load(weights)
        adapted.unmerge()
        for name, weight in backbone.named_parameters():
            weight.requires_grad_(name in weights)
        return adapted


class GatedUpdate(nn.Module):
    """Parametrization of a weight: the frozen weight plus a trained change, if the change is active."""

    def __init__(self, weight: Tensor, initial_score: float) -> None:
        super().__init__()
        self.register_parameter(UPDATE, nn.Parameter(torch.zeros_like(weight)))
        self.register_parameter(SCORE, nn.Parameter(torch.full((1,), initial_score, device=weight.device)))

    @property
    def is_active(self) -> bool:
        """Whether the change is added to the weight."""
        return bool(self.get_parameter(SCORE) >= 0)

    def gate(self) -> Tensor:
        """Return 1 if the change is active, else 0; gradients pass to the score unchanged (straight-through)."""
        score = self.get_parameter(SCORE)
        return (score >= 0).to(score) + score - score.detach()

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight plus its active change; in inference without an active change, the same tensor."""
        if not torch.is_grad_enabled() and not self.is_active:
            return weight
        return weight + self.gate() * self.get_parameter(UPDATE)


class Taps(Removable):
    """Backbone with a change of each target layer, active or not."""

    def __init__(self, backbone: Backbone, config: TapsConfig, names: Collection[str]) -> None:
        self.backbone, self._config = backbone.requires_grad_(False), config
        self._layers: dict[str, Any] = {name: backbone.get_submodule(name) for name in names}
        for layer in self._layers.values():
            parametrize.register_parametrization(layer, "weight", GatedUpdate(layer.weight, config.initial_score))

    @property
    def active(self) -> list[str]:
        """Names of the layers with an active change."""
        return [name for name, update in self._updates().items() if update.is_active]

    def penalty(self) -> Tensor:
        """Return the share of active changes, times the option `sparsity`."""
        return self._config.sparsity * torch.cat([update.gate() for update in self._updates().values()]).mean()

    def state_of(self, names: Collection[str]) -> dict[str, Tensor]:
        """Return the adapter, without inactive changes."""
        inactive = {f"{name}{PARAMETRIZED}{UPDATE}" for name in self._layers.keys() - set(self.active)}
        return super().state_of(set(names) - inactive)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Load an adapter; layers whose change it does not contain keep their original weights.

        Raises:
            CheckpointError: If the adapted backbone has no such weights, or an active change is missing.
        """
        require_known(self.backbone, weights)
        for name, update in self._updates().items():
            score, change = (weights.get(f"{name}{PARAMETRIZED}{key}") for key in (SCORE, UPDATE))
            if score is None or (change is None and bool(score >= 0)):
                raise CheckpointError(
                    f"the adapter lacks the score or the active change of {name}; expected an adapter.safetensors "
                    "written by peft=taps"
                )
            with torch.no_grad():
                update.get_parameter(SCORE).copy_(score)
                update.get_parameter(UPDATE).copy_(torch.zeros(()) if change is None else change)

    @torch.no_grad()
    def merge(self) -> Backbone:
        """Return the plain backbone, with active changes merged into its weights, and log the changed layers."""
        active = self.active
        log.info("TAPS changes %d of %d layers: %s", len(active), len(self._layers), ", ".join(active))
        for name, layer in self._layers.items():
            merged = layer.weight.detach().clone() if name in active else None
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
            if merged is not None:
                layer.weight.data = merged
        return self.backbone

    def remove(self) -> Backbone:
        """Return the plain backbone with its original weights."""
        for layer in self._layers.values():
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
        return self.backbone

    @torch.no_grad()
    def unmerge(self) -> None:
        """Subtract the active changes from the weights into which they are merged."""
        for name, update in self._updates().items():
            if update.is_active:
                self._layers[name].parametrizations.weight.original.sub_(update.get_parameter(UPDATE))

    def _updates(self) -> dict[str, GatedUpdate]:
        return {name: layer.parametrizations.weight[0] for name, layer in self._layers.items()}
