"""Distances between the surfaces of two masks: Hausdorff distance (HD95) and normalized surface Dice (NSD).

Segmentation, per image and class, by MONAI. HD95 is in the unit of the spacing, from 0, lower is better; NSD is 0 to 1,
higher is better. Both are NaN where both masks are empty. Where one is empty, HD95 is the diagonal of the image and NSD
is 0: a miss must not improve the mean.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool
from numpy import ndarray as Array

if TYPE_CHECKING:
    from torch import Tensor


def hd95(true: Bool[Array, "*s"], given: Bool[Array, "*s"], spacing: tuple[float, ...]) -> float:
    """Compute the 95th percentile of the distances from each surface to the other, of the two directions the larger.

    Huttenlocher et al. (IEEE TPAMI 1993); the percentile as in BraTS (Menze et al., IEEE TMI 2015).
    """
    if not true.any() or not given.any():
        is_missed = bool(true.any() or given.any())
        return float(np.linalg.norm(np.array(true.shape) * np.array(spacing))) if is_missed else float("nan")
    from monai.metrics import compute_hausdorff_distance

    masks = _boxed(true, given)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI warns of its own calls to itself
        return float(compute_hausdorff_distance(*masks, include_background=True, percentile=95, spacing=list(spacing)))


def nsd(true: Bool[Array, "*s"], given: Bool[Array, "*s"], spacing: tuple[float, ...], tolerance: float) -> float:
    """Compute the share of both surfaces that is within `tolerance` of the other (Nikolov et al. 2018)."""
    if not true.any() or not given.any():
        return 0.0 if true.any() or given.any() else float("nan")
    from monai.metrics import compute_surface_dice

    masks = _boxed(true, given)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI warns of its own calls to itself
        return float(compute_surface_dice(*masks, [tolerance], include_background=True, spacing=list(spacing)))


def _boxed(true: Array, given: Array) -> tuple[Tensor, Tensor]:
    """Prediction and truth as MONAI takes them, cut to the box around both, which holds every surface.

    The box has a margin of one voxel, so that surfaces at its faces are inside it too.
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
