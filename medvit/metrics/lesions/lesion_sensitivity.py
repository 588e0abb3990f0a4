"""Lesion-wise sensitivity, the share of true lesions that are found: 0 to 1, higher is better.

It applies to segmentation, per image and class, over connected components. A lesion is found if one of its voxels is
predicted, as in the ISLES 2022 challenge (Hernandez Petzsche et al., Scientific Data 2022). It is NaN without a true
lesion.
"""

from __future__ import annotations

from medvit.metrics import MaskMetric
from medvit.metrics._components import LesionCounts


def lesion_sensitivity(lesions: LesionCounts) -> float:
    """Compute the share of true lesions that are found."""
    total = lesions.found + lesions.missed
    return lesions.found / total if total else float("nan")


METRIC = MaskMetric(
    name="lesion_sensitivity",
    title="Lesion-wise sensitivity",
    meaning="Lesion-wise sensitivity: the share of the true lesions of an image of which at least one voxel is "
    "predicted.",
    higher_is_better=True,
    compute=lambda masks: lesion_sensitivity(masks.lesions),
    bounds=(0.0, 1.0),
    place=61,
)
