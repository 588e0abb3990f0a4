"""Normalized surface Dice (NSD), the fraction of two surfaces that is near the other surface: 0 to 1, higher is better.

It applies to segmentation, per image and class; it is computed by MONAI (Nikolov et al., Journal of Medical Internet
Research 2021). It is NaN if both masks are empty, and 0 if only one is, because a missed structure must not improve the
mean.
"""

from __future__ import annotations

import warnings

from jaxtyping import Bool
from numpy import ndarray as Array

from medvit.metrics import MaskMetric
from medvit.metrics._surface import boxed


def nsd(true: Bool[Array, "*s"], given: Bool[Array, "*s"], spacing: tuple[float, ...], tolerance: float) -> float:
    """Compute the fraction of both surfaces that is within `tolerance` of the other surface.

    The tolerance has the unit of the spacing.
    """
    if not true.any() or not given.any():
        return 0.0 if true.any() or given.any() else float("nan")
    from monai.metrics import compute_surface_dice

    masks = boxed(true, given)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI warns of its own calls to itself
        return float(compute_surface_dice(*masks, [tolerance], include_background=True, spacing=list(spacing)))


METRIC = MaskMetric(
    name="nsd",
    title="Normalized surface Dice",
    meaning="Normalized surface Dice: the share of both surfaces that is within the tolerance of the other surface.",
    higher_is_better=True,
    compute=lambda masks: nsd(masks.true, masks.found, masks.spacing, masks.tolerance),
    bounds=(0.0, 1.0),
    place=30,
)
