"""Masks in the form that MONAI requires for surface distances, cropped to their common bounding box."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool
from numpy import ndarray as Array

if TYPE_CHECKING:
    from torch import Tensor


def boxed(true: Bool[Array, "*s"], given: Bool[Array, "*s"]) -> tuple[Tensor, Tensor]:
    """Return prediction (`given`) and truth as tensors (1, 1, *T), cropped to their common bounding box.

    The box has a margin of one voxel, so that it contains all surfaces.
    """
    import torch

    both = true | given
    box = []
    for axis, size in enumerate(both.shape):
        others = tuple(other for other in range(both.ndim) if other != axis)
        inside = np.flatnonzero(both.any(axis=others))
        box.append(slice(max(0, int(inside[0]) - 1), min(size, int(inside[-1]) + 2)))
    y_pred, y = (torch.from_numpy(mask[tuple(box)][None, None].astype(np.float32)) for mask in (given, true))
    return y_pred, y
