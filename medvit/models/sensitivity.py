"""Sensitivity of the loss of a task to each weight of a backbone, measured on training batches before training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from medvit.errors import TrainingError
from medvit.losses.partial_labels import marginal
from medvit.losses.supervised import Loss
from medvit.models.image import Model
from medvit.peft.spt import is_candidate
from medvit.types import Batch


def measure_sensitivity(model: Model, loss: Loss, batches: Iterable[Any], seed: int) -> dict[str, Tensor]:
    """Return the squared gradients, summed over batches, of each backbone weight that may be trained, keyed by name.

    `model` includes its new head; it is not changed. Gradients are computed on the CPU, where a resumed run computes
    the same values.

    Raises:
        TrainingError: If a gradient is not finite.
    """
    weights = {name: weight for name, weight in model.backbone.named_parameters() if is_candidate(name)}
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    model.eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for batch in _pixels(batches):
            assert batch.targets is not None
            logits = model(batch.pixels)
            if batch.annotated is not None:
                logits = marginal(logits, batch.annotated)
            found = torch.autograd.grad(loss(logits, batch.targets, 0.0), list(weights.values()))
            for sum_of_squares, gradient in zip(total.values(), found, strict=True):
                sum_of_squares += gradient.square()
    lost = [name for name, one in total.items() if not torch.isfinite(one).all()]
    if lost:
        raise TrainingError(
            f"the gradient of {lost[0]} is not finite before training, so peft=spt cannot choose weights; check the "
            "intensities of the images, or choose another peft"
        )
    model.train()
    return total


def _pixels(batches: Iterable[Any]) -> Iterator[Batch]:
    for batch in batches:
        assert isinstance(batch, Batch)
        yield batch
