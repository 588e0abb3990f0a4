"""DoRA: low-rank updates of the direction of the weights beside a trained magnitude, through huggingface/peft."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from medvit.backbones import Backbone
from medvit.errors import CheckpointError
from medvit.peft._hub import ADAPTER, Tuned
from medvit.peft._low_rank import LowRankConfig
from medvit.registry import register

NORM = "direction_norm"
"""Last part of the names of the norms that an adapter stores beside its weights."""
SMALLEST_NORM = 1e-6
"""Lower bound of the norm and of the initial magnitude of an output. Without it, an output whose weights are all zero
would cause a division by zero.
"""


@register
class DoraConfig(LowRankConfig):
    """Train m (W + s B A) / ||W + s B A|| per output, with m = ||W|| and B = 0 at the start (Liu et al., ICML 2024).

    s is alpha / rank. The norm is over the inputs of each output; it is a constant for the gradient, as published, and
    at least 1e-6, for outputs whose weights are all zero.
    """

    VARIANT: ClassVar[dict[str, bool]] = {"use_dora": True}

    name: Literal["dora"] = "dora"

    def tuned(self, backbone: Backbone, layers: Sequence[str]) -> Dora:
        """Return the backbone with low-rank updates and magnitudes of these layers."""
        return Dora(backbone, self.settings(layers))


class Dora(Tuned):
    """Backbone with low-rank updates and magnitudes.

    The merged weights alone do not determine the original ones. The adapter therefore also stores the norms of W + s B
    A (D_out), with which the original weights can be restored.
    """

    def __init__(self, backbone: Backbone, settings: Any) -> None:
        super().__init__(backbone, settings)
        for _, layer in self.layers():
            vector = layer.lora_magnitude_vector[ADAPTER]
            vector.get_weight_norm = _weight_norm
            vector.weight.data.clamp_(min=SMALLEST_NORM)

    def state_of(self, names: Collection[str]) -> dict[str, Tensor]:
        """Return the adapter, with a norm per output of every adapted layer."""
        return super().state_of(names) | {f"{name}.{NORM}": _direction_norm(layer) for name, layer in self.layers()}

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Load an adapter; its norms are not needed."""
        super().load({name: weight for name, weight in weights.items() if not name.endswith(f".{NORM}")})

    def hub_state(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return adapter weights under their names in huggingface/peft.

        Raises:
            CheckpointError: If an output has weights of zero.
        """
        for name, layer in self.layers():
            if float(_direction_norm(layer).min()) <= SMALLEST_NORM:
                raise CheckpointError(
                    f"{name} has an output whose weights are all zero, by whose norm DoRA in huggingface/peft would "
                    "divide; to_timm writes the merged model"
                )
        return super().hub_state(weights)

    def unmerge(self, name: str, layer: Any, weights: Mapping[str, Tensor]) -> None:
        """Remove magnitude and update from the merged weight of a layer, in place.

        Raises:
            CheckpointError: If the norms are missing, or a magnitude is zero.
        """
        if f"{name}.{NORM}" not in weights:
            raise CheckpointError(
                f"the adapter has no {name}.{NORM}; expected an adapter.safetensors written by peft=dora"
            )
        magnitude = layer.lora_magnitude_vector[ADAPTER].weight.detach().double()
        if not magnitude.abs().min():
            raise CheckpointError(
                f"a magnitude of {name} is zero, so its original weights cannot be restored; use full"
            )
        base = layer.get_base_layer().weight
        direction = base.double() * (weights[f"{name}.{NORM}"].double() / magnitude)[:, None]
        base.data = (direction - layer.get_delta_weight(ADAPTER).double()).to(base.dtype)


def _direction_norm(layer: Any) -> Tensor:
    """Return the norms (D_out) of W + s B A of a layer."""
    return _weight_norm(layer.get_base_layer().weight.detach(), layer.get_delta_weight(ADAPTER).detach(), 1.0)


def _weight_norm(weight: Tensor, lora_weight: Tensor, scaling: float, adapter_name: str | None = None) -> Tensor:
    """Return the norms (D_out) of W + s B A, in place of the method of huggingface/peft, which may return zeros."""
    return torch.linalg.norm(weight + scaling * lora_weight, dim=1).clamp(min=SMALLEST_NORM).to(weight.dtype)
