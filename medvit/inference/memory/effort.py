"""Ways to predict in less memory: fewer windows at once, then bricks, then smaller windows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medvit.models.image import WINDOWS_AT_ONCE

if TYPE_CHECKING:
    from medvit.models.image import Model, ModelConfig

WHOLE_BYTES = 2**31
"""Size of the probabilities of all classes from which a label map is computed by bricks."""
NUM_HALVED = 2
"""Number of times that windows are halved if memory is short."""
COPIES = 2
"""Copies of the values of all classes that exist at once: logits and probabilities."""
OF_CPU = ("can't allocate memory", "not enough memory")
"""Texts of errors by which torch reports a lack of memory on a CPU."""


@dataclass(frozen=True)
class Effort:
    """Way of computing a label map in limited memory."""

    windows_at_once: int = WINDOWS_AT_ONCE
    by_bricks: bool = False
    roi: tuple[int, ...] | None = None
    """Size of the windows. None: as in training."""

    @property
    def note(self) -> str:
        """Note for people who read the result; empty for the usual way."""
        if self.roi is not None:
            size = " x ".join(map(str, self.roi))
            return f"memory was short: the mask was computed with smaller windows, {size}, so it may differ slightly"
        if self.windows_at_once < WINDOWS_AT_ONCE:
            return "memory was short: the windows were computed one by one"
        return ""


def efforts(model: Model | None, num_voxels: int, num_classes: int, *, allows_bricks: bool) -> Iterator[Effort]:
    """Yield the ways of computing a label map, each with less memory than the one before.

    `num_voxels` is the size of the volume on the grid of the model, which is None for an ensemble.
    """
    is_large = allows_bricks and whole_bytes(num_voxels, num_classes) > WHOLE_BYTES
    yield Effort(by_bricks=is_large)
    if model is None or model.config.roi is None:
        return
    yield Effort(1, by_bricks=is_large)
    if allows_bricks:
        if not is_large:
            yield Effort(1, by_bricks=True)
        roi = model.config.roi
        for _ in range(NUM_HALVED):
            smaller = _halved(roi, model.backbone.multiple)
            if smaller == roi:
                return
            roi = smaller
            yield Effort(1, by_bricks=True, roi=roi)


def whole_bytes(num_voxels: int, num_classes: int) -> int:
    """Return the bytes that the values of all classes of a whole volume take."""
    return COPIES * 4 * num_voxels * num_classes


def allows_bricks(config: ModelConfig, *, keeps_probabilities: bool) -> bool:
    """Return whether the label map of a model can be computed by bricks: if nothing needs the whole volume."""
    return (
        config.kind == "segmentation"
        and config.members == 1
        and config.roi is not None
        and len(config.roi) == 3
        and config.slices is None
        and not (config.mirrored_axes or config.turned_axes or keeps_probabilities)
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error reports a lack of memory, on the host or on a GPU."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in OF_CPU)


def _halved(roi: tuple[int, ...], multiple: tuple[int, ...]) -> tuple[int, ...]:
    """Return windows of half the sides, in whole patches."""
    return tuple(
        min(side, max(step, step * math.ceil(side / 2 / step))) for side, step in zip(roi, multiple, strict=True)
    )
