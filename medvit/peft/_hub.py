"""Adapters through huggingface/peft: their layers, merging, removal, and the format of that library."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from medvit.backbones import Backbone
from medvit.config import Tree
from medvit.errors import CheckpointError, ConfigError
from medvit.peft import HubAdapter, PeftConfig, Removable

ADAPTER = "default"
"""Name of the only adapter of a model in huggingface/peft."""


class Tuned(Removable):
    """Backbone with an adapter of huggingface/peft on some of its linear layers."""

    def __init__(self, backbone: Backbone, settings: Any) -> None:
        from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

        # The tuner replaces the target layers inside `backbone`, which keeps its own type and methods.
        self._model: Any = PEFT_TYPE_TO_TUNER_MAPPING[settings.peft_type](backbone, settings, ADAPTER)
        self._settings = settings
        self.backbone = backbone

    def take(self, weights: Mapping[str, Tensor]) -> None:
        """Load an adapter, and subtract it from the backbone weights into which it is already merged.

        The output of the backbone does not change, up to rounding. All `weights`, including those outside of the
        adapter, such as norms, become trainable.

        Raises:
            CheckpointError: If the adapted backbone has no such weights, or the adapter cannot be removed.
        """
        self.load(weights)
        for name, layer in self.layers():
            self.unmerge(name, layer, weights)
        for name, weight in self.backbone.named_parameters():
            weight.requires_grad_(name in weights)

    def unmerge(self, name: str, layer: Any, weights: Mapping[str, Tensor]) -> None:
        """Remove the adapter from the merged base weights of the layer `name`, in place.

        `weights` contains the adapter. This default is for additive adapters; other methods override it.
        """
        base = layer.get_base_layer().weight
        base.data = (base.double() - layer.get_delta_weight(ADAPTER).double()).to(base.dtype)

    def layers(self) -> Iterator[tuple[str, Any]]:
        """Yield the names of the adapted layers, and the layers."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        for name, layer in self.backbone.named_modules():
            if isinstance(layer, BaseTunerLayer):
                yield name, layer

    def merge(self) -> Backbone:
        """Return the plain backbone, with the adapter merged into its weights."""
        merged: Backbone = self._model.merge_and_unload()
        return merged

    def attached(self) -> Backbone:
        """Return the backbone with the adapter merged into each layer only while the layer runs.

        This needs memory for one merged layer instead of all, and takes as long as merging.
        """
        for name, layer in list(self.layers()):
            parent, _, last = name.rpartition(".")
            setattr(self.backbone.get_submodule(parent), last, MergedOnUse(layer))
        return self.backbone

    def remove(self) -> Backbone:
        """Return the plain backbone without the adapter."""
        plain: Backbone = self._model.unload()
        return plain

    def in_hub(self, weights: Mapping[str, Tensor]) -> HubAdapter:
        """Return the adapter in the format of huggingface/peft; fully trained weights become `modules_to_save`.

        Raises:
            CheckpointError: If a fully trained weight is outside of any module, or in a module with an adapter.
        """
        names = {name for name in weights if self._model.prefix in name}
        others = (weights.keys() - names) & self.backbone.state_dict().keys()
        saved = _whole_modules(sorted(others), [name for name, _ in self.layers()])
        state = self.hub_state({name: weights[name] for name in names})
        settings = self.hub_settings()
        base = self.remove()
        whole = {name: weight for name, weight in base.state_dict().items() if name.startswith(_inside(saved))}
        # Matched by the end of a name: "model." prevents "norm" from matching every norm.
        settings |= {"inference_mode": True, "modules_to_save": [f"model.{name}" for name in saved] or None}
        state |= {f"base_model.model.{name}": weight for name, weight in whole.items()}
        return HubAdapter(settings, state, base)

    def hub_state(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return adapter weights under their names in `adapter_model.safetensors`."""
        return {f"base_model.model.{name.replace(f'.{ADAPTER}', '')}": weight for name, weight in weights.items()}

    def hub_settings(self) -> Tree:
        """Return the content of `adapter_config.json`, with sets as sorted lists."""
        tree = self._settings.to_dict()
        return {key: sorted(value) if isinstance(value, set) else value for key, value in tree.items()}


class MergedOnUse(nn.Module):
    """Linear layer of a shared backbone with an adapter of huggingface/peft, which is merged for each forward pass."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    @torch.no_grad()
    def forward(self, features: Tensor) -> Tensor:
        """Return the output of the merged layer, whose weights are not changed."""
        base = self.layer.get_base_layer()
        shared = {name: weight.data for name, weight in base.named_parameters()}
        try:
            # Merged in full precision, as in a checkpoint, whatever the precision of the model.
            with torch.autocast(features.device.type, enabled=False):
                for _, weight in base.named_parameters():
                    weight.data = weight.data.clone()
                self.layer.merge()
            output: Tensor = base(features)
            return output
        finally:
            for name, weight in base.named_parameters():
                weight.data = shared[name]
            self.layer.merged_adapters.clear()


class HubConfig(PeftConfig, ABC):
    """Options of a method of huggingface/peft on linear layers of the blocks."""

    NOT_IN_HUB: ClassVar[str] = ""

    targets: tuple[str, ...]

    @abstractmethod
    def settings(self, layers: Sequence[str]) -> Any:
        """Return the configuration of huggingface/peft for an adapter of these layers."""

    def tuned(self, backbone: Backbone, layers: Sequence[str]) -> Tuned:
        """Return the backbone with an adapter on these layers. Only the adapter is trainable."""
        return Tuned(backbone, self.settings(layers))

    def adapt(self, backbone: Backbone) -> Tuned:
        """Return the backbone with an adapter on every target layer in its blocks.

        Only the adapter is trainable.

        Raises:
            ConfigError: If a target matches no linear layer of the blocks.
        """
        return self.adapt_blocks(backbone, range(backbone.depth))

    def go_on(self, backbone: Backbone, weights: Mapping[str, Tensor]) -> Tuned:
        """Return the backbone with the adapter of an earlier run, after subtracting it from the merged weights."""
        adapted = self.adapt(backbone)
        adapted.take(weights)
        return adapted

    def in_hub(self, backbone: Backbone, weights: Mapping[str, Tensor]) -> HubAdapter:
        """Return the adapter in the format of huggingface/peft, for a backbone into which it was merged."""
        return self.go_on(backbone, weights).in_hub(weights)

    def adapt_blocks(self, backbone: Backbone, blocks: Iterable[int]) -> Tuned:
        """Return the backbone with an adapter on every target layer in these blocks (counted from 0).

        Only the adapter is trainable.

        Raises:
            ConfigError: If a target matches no linear layer of these blocks.
        """
        chosen = {f"blocks.{number}" for number in blocks}
        names = {
            name
            for name, module in backbone.named_modules()
            if ".".join(name.split(".")[:2]) in chosen
            and isinstance(module, nn.Linear)
            and is_named(name, self.targets)
        }
        absent = sorted(target for target in set(self.targets) if not any(is_named(name, [target]) for name in names))
        if absent:
            raise ConfigError(
                f"peft.targets contains {', '.join(absent)}, but no linear layer of the blocks has this name"
            )
        return self.tuned(backbone, sorted(names))


def is_named(layer: str, targets: Collection[str]) -> bool:
    """Return whether the last part of the name of a layer is among `targets`.

    In a SwiGLU, the first layer of the MLP may be two, for gate and value: `fc1` names both `fc1_g` and `fc1_x`.
    """
    last = layer.rpartition(".")[2]
    return last in targets or (last in ("fc1_g", "fc1_x") and "fc1" in targets)


def _whole_modules(whole: Sequence[str], layers: Sequence[str]) -> tuple[str, ...]:
    """Return the outermost modules whose weights were all fully trained.

    Raises:
        CheckpointError: If a weight is outside of any module, or in a module that also has an adapter.
    """
    bare = sorted(name for name in whole if "." not in name)
    if bare:
        raise CheckpointError(
            f"huggingface/peft stores fully trained modules, and {', '.join(bare)} is outside of any "
            "module; to_timm writes the merged model"
        )
    owners = sorted({name.rpartition(".")[0] for name in whole})
    outermost = tuple(name for name in owners if not name.startswith(_inside(set(owners) - {name})))
    mixed = [layer for layer in layers if f"{layer}.".startswith(_inside(outermost))]
    if mixed:
        raise CheckpointError(
            f"{mixed[0]} has an adapter inside a fully trained module, which huggingface/peft does "
            "not support; to_timm writes the merged model"
        )
    return outermost


def _inside(modules: Iterable[str]) -> tuple[str, ...]:
    """Return the prefixes with which the names of weights in these modules begin."""
    return tuple(f"{name}." for name in modules)
