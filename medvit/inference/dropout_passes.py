"""Passes of a model with dropout, whose spread is a measure of uncertainty (Gal and Ghahramani, ICML 2016)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.errors import ConfigError
from medvit.models.disagreement import TASKS

if TYPE_CHECKING:
    from torch import Tensor, nn

    class Predicts(Protocol):
        """Model that predicts pixels."""

        def predict(self, pixels: Float[Tensor, "b c *s"]) -> Float[Tensor, "b l"]:
            """Return predictions."""


@dataclass(frozen=True)
class DropoutPasses:
    """Predictions of a model with random dropout, `number` times for each image; the same in each run."""

    model: Predicts
    layers: tuple[nn.Module, ...]
    """Dropout layers of the model."""
    number: int

    @classmethod
    def of(cls, model: nn.Module, task: str, number: int) -> DropoutPasses:
        """Return the passes of a model.

        Raises:
            ConfigError: If the model has no dropout, its task has no spread, or a single pass is requested.
        """
        from torch.nn.modules.dropout import _DropoutNd

        if number < 2:
            raise ConfigError(f"found mc_dropout={number}; the spread needs at least 2 passes, such as mc_dropout=20")
        if task not in TASKS:
            raise ConfigError(
                f"mc_dropout is for classification, ordinal, multilabel and regression, and the model is a {task}; "
                "leave mc_dropout unset"
            )
        layers = tuple(one for one in model.modules() if isinstance(one, _DropoutNd) and one.p > 0.0)
        if not layers:
            raise ConfigError(
                f"found mc_dropout={number}, but the model has no dropout at prediction; leave mc_dropout unset, or "
                "train with head.dropout=0.1 (dropout of adapters ends when they are merged)"
            )
        return cls(model, layers, number)  # type: ignore[arg-type]

    def __call__(self, pixels: Float[Tensor, "1 c *s"]) -> Float[Array, "m l"]:
        """Return the predictions of each pass for an image."""
        import torch

        devices = [pixels.device] if pixels.is_cuda else []
        with torch.random.fork_rng(devices), self._active():
            torch.manual_seed(0)
            return np.stack([self.model.predict(pixels)[0].float().cpu().numpy() for _ in range(self.number)])

    @contextmanager
    def _active(self) -> Iterator[None]:
        try:
            for layer in self.layers:
                layer.train()
            yield
        finally:
            for layer in self.layers:
                layer.eval()
