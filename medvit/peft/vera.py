"""VeRA: random low-rank matrices that all layers share, with trained scales, through huggingface/peft."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from medvit.backbones import Backbone
from medvit.config import Count, Positive, Tree
from medvit.errors import CheckpointError
from medvit.peft._hub import ADAPTER, HubConfig, Tuned
from medvit.registry import register

SHARED = ("vera_A", "vera_B")
"""Names of the shared matrices in an adapter."""


@register
class VeraConfig(HubConfig):
    """Train W + diag(b) B diag(d) A with fixed random A and B, and b = 0 at the start (Kopiczko et al., ICLR 2024).

    All layers share A and B; each layer uses the rows and columns that fit its size. The adapter stores them once.
    """

    name: Literal["vera"] = "vera"
    targets: tuple[str, ...] = ("qkv", "proj", "fc1", "fc2")
    """Linear layers of each block that get an update. Give the last part of their names; fc1 includes
    fc1_g and fc1_x of a SwiGLU.
    """
    rank: Count = 256
    """Rank of the two random matrices that all layers share. Only scales are trained: for each layer, as many as its
    rank and its outputs together.
    """
    initial_scale: Positive = 0.1
    """Initial value of the trained scales between the two shared matrices (d in the paper)."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout rate of the inputs of the updates during training."""
    matrices_seed: int = Field(default=0, ge=0)
    """Seed of the random shared matrices."""

    def settings(self, layers: Sequence[str]) -> Any:
        """Return the configuration of huggingface/peft."""
        from peft import VeraConfig as HubVeraConfig

        with warnings.catch_warnings():
            # Every layer refers to the shared matrices: in the state dict, they would be repeated for every layer.
            # `Vera.state_of` stores them once instead.
            warnings.filterwarnings("ignore", message="Specified to not save vera_A and vera_B")
            return HubVeraConfig(
                r=self.rank,
                target_modules=list(layers),
                d_initial=self.initial_scale,
                vera_dropout=self.dropout,
                projection_prng_key=self.matrices_seed,
                save_projection=False,
            )

    def tuned(self, backbone: Backbone, layers: Sequence[str]) -> Vera:
        """Return the backbone with scaled random updates of these layers."""
        return Vera(backbone, self.settings(layers))


class Vera(Tuned):
    """Backbone with scaled random updates: `vera_A` (R, D_in) and `vera_B` (D_out, R) are shared by all layers."""

    def state_of(self, names: Collection[str]) -> dict[str, Tensor]:
        """Return the adapter, with the shared matrices."""
        return super().state_of(names) | self._shared()

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Load an adapter, with the shared matrices.

        Raises:
            CheckpointError: If the adapted backbone has no such weights, or the shared matrices are missing or have
                another shape.
        """
        own = self._shared()
        for name, matrix in own.items():
            if name not in weights or weights[name].shape != matrix.shape:
                found = tuple(weights[name].shape) if name in weights else "none"
                raise CheckpointError(
                    f"the shape of {name} in the adapter is {found}, expected {tuple(matrix.shape)}; "
                    "adapter.safetensors and model.yaml belong to different checkpoints"
                )
        super().load({name: weight for name, weight in weights.items() if name not in SHARED})
        _, layer = next(self.layers())  # all layers refer to the same matrices
        for name in SHARED:
            getattr(layer, name)[ADAPTER].copy_(weights[name])

    def hub_state(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return adapter weights under their names in huggingface/peft, with the shared matrices."""
        return super().hub_state(weights) | {f"base_model.{name}": matrix for name, matrix in self._shared().items()}

    def hub_settings(self) -> Tree:
        """Return the settings, with which huggingface/peft reads the shared matrices from the file."""
        return super().hub_settings() | {"save_projection": True}

    def _shared(self) -> dict[str, Tensor]:
        _, layer = next(self.layers())
        return {name: getattr(layer, name)[ADAPTER].clone() for name in SHARED}
