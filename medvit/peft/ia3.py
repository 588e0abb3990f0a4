"""(IA)^3: learned scales of keys, values and hidden features of the MLP, through huggingface/peft."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor

from medvit.backbones import Backbone
from medvit.errors import CheckpointError, ConfigError
from medvit.peft._hub import ADAPTER, HubConfig, Tuned, is_named
from medvit.registry import register

SMALLEST_SCALE = 1e-3
"""Smallest scale by which merged weights are divided: float32 weights then remain exact to about 1e-4."""


@register
class Ia3Config(HubConfig):
    """Train a factor for each feature of some layers, 1 at the start (Liu et al., NeurIPS 2022).

    In the fused qkv, queries are scaled too, which adds nothing: only products of queries and keys are used.
    """

    name: Literal["ia3"] = "ia3"
    targets: tuple[str, ...] = ("qkv", "fc2")
    """Linear layers of each block that get scales. Give the last part of their names; fc1 includes fc1_g and fc1_x of a
    SwiGLU.
    """
    scaled_inputs: tuple[str, ...] = ("fc2",)
    """Layers among `targets` whose inputs are scaled; in all other targets, the outputs are scaled. The inputs of fc2
    are the hidden features of the MLP.
    """

    def settings(self, layers: Sequence[str]) -> Any:
        """Return the configuration of huggingface/peft.

        Raises:
            ConfigError: If a layer of `scaled_inputs` is not among the targets.
        """
        from peft import IA3Config as HubIa3Config

        absent = sorted(name for name in set(self.scaled_inputs) if not is_named(name, self.targets))
        if absent:
            raise ConfigError(
                f"peft.scaled_inputs contains {', '.join(absent)}; expected layers among peft.targets, which are "
                f"{', '.join(self.targets)}"
            )
        by_input = [name for name in layers if is_named(name, self.scaled_inputs)]
        return HubIa3Config(target_modules=list(layers), feedforward_modules=by_input)

    def tuned(self, backbone: Backbone, layers: Sequence[str]) -> Ia3:
        """Return the backbone with scales of these layers."""
        return Ia3(backbone, self.settings(layers))


class Ia3(Tuned):
    """Backbone with scales of the inputs (1, D_in) or outputs (D_out, 1) of linear layers."""

    def unmerge(self, name: str, layer: Any, weights: Mapping[str, Tensor]) -> None:
        """Divide the merged weight and bias of a layer by its scales, in place.

        Raises:
            CheckpointError: If a scale is nearly zero.
        """
        scale = layer.ia3_l[ADAPTER].detach().double()
        smallest = float(scale.abs().min())
        if smallest < SMALLEST_SCALE:
            raise CheckpointError(
                f"a scale of {name} is {smallest:.2g}, expected at least {SMALLEST_SCALE:g}: its original "
                "weights cannot be restored from the merged ones; choose another peft for continued training"
            )
        base = layer.get_base_layer()
        base.weight.data = (base.weight.double() / scale).to(base.weight.dtype)
        if not layer.is_feedforward and base.bias is not None:
            base.bias.data = (base.bias.double() / scale[:, 0]).to(base.bias.dtype)
