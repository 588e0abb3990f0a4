"""Moving average of the weights of a model in training (Polyak and Juditsky, SIAM 1992)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

WARM_UP = 10
"""Constant of the warm-up: after step t, the decay is at most (1 + t) / (10 + t), as in TensorFlow and timm."""


class WeightAverage:
    """Exponential moving average of tensors, such as the trained weights of a model.

    `live` returns the tensors in training by name, without copying them. Integers are copied instead of averaged.
    """

    def __init__(self, live: Callable[[], Mapping[str, Tensor]], decay: float) -> None:
        self.live, self.decay = live, decay
        self.state: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the averages with the weights after a step, counted from 1; the first weights are copied."""
        decay = min(self.decay, (1 + step) / (WARM_UP + step))
        for name, weight in self.live().items():
            average = self.state.get(name)
            if average is None or not weight.is_floating_point():
                self.state[name] = weight.detach().clone()
            else:
                self.state[name] = average.to(weight.device).lerp_(weight.detach(), 1.0 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the averaged weights with those in training."""
        for name, weight in self.live().items():
            if name in self.state:
                kept = weight.detach().clone()
                weight.detach().copy_(self.state[name])
                self.state[name] = kept
