"""Hausdorff distance, 95th percentile (HD95), of the surfaces of two masks: from 0, lower is better.

It applies to segmentation, per image and class; it is computed by MONAI, in the unit of the spacing. The value is NaN
if both masks are empty. If only one is empty, the value is the diagonal of the image, because a missed structure must
not improve the mean. Distance: Huttenlocher et al. (IEEE TPAMI 1993); percentile: as in BraTS (Menze et al., IEEE TMI
2015).
"""

from __future__ import annotations

import warnings

import numpy as np
from jaxtyping import Bool
from numpy import ndarray as Array

from medvit.metrics import MaskMetric
from medvit.metrics._surface import boxed


def hd95(true: Bool[Array, "*s"], given: Bool[Array, "*s"], spacing: tuple[float, ...]) -> float:
    """Compute the 95th percentile of surface distances in both directions, and return the larger one."""
    if not true.any() or not given.any():
        is_missed = bool(true.any() or given.any())
        return float(np.linalg.norm(np.array(true.shape) * np.array(spacing))) if is_missed else float("nan")
    from monai.metrics import compute_hausdorff_distance

    masks = boxed(true, given)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI warns of its own calls to itself
        return float(compute_hausdorff_distance(*masks, include_background=True, percentile=95, spacing=list(spacing)))


METRIC = MaskMetric(
    name="hd95",
    title="HD95",
    meaning="HD95: the 95th percentile of the distances between the two surfaces or outlines; lower is better. It is "
    "in pixels if images have no physical scale.",
    higher_is_better=False,
    unit="mm",
    compute=lambda masks: hd95(masks.true, masks.found, masks.spacing),
    place=20,
)
