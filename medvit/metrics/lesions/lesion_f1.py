"""Lesion-wise F1, the harmonic mean of the shares of true and predicted lesions that match: 0 to 1, higher is better.

It applies to segmentation, per image and class: 2 TP / (2 TP + FP + FN) over connected components. A lesion matches if
one voxel overlaps, as in the ISLES 2022 challenge (Hernandez Petzsche et al., Scientific Data 2022). It is NaN if
neither mask has a lesion.
"""

from __future__ import annotations

from medvit.metrics import MaskMetric
from medvit.metrics._components import LesionCounts


def lesion_f1(lesions: LesionCounts) -> float:
    """Compute F1 from the numbers of lesions; a true lesion that is found is a true positive."""
    total = 2 * lesions.found + lesions.false + lesions.missed
    return 2 * lesions.found / total if total else float("nan")


METRIC = MaskMetric(
    name="lesion_f1",
    title="Lesion-wise F1",
    meaning="Lesion-wise F1: 1 if all true lesions are found and none is predicted elsewhere, whatever their outlines. "
    "Lesions are connected components; one voxel of overlap counts as found.",
    higher_is_better=True,
    compute=lambda masks: lesion_f1(masks.lesions),
    bounds=(0.0, 1.0),
    place=60,
)
