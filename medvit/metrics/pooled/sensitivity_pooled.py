"""Pooled sensitivity (recall), the fraction of true pixels that are found, over all images: 0 to 1, higher is better.

It applies to segmentation: TP / (TP + FN); NaN if the class is in no truth (Yerushalmy, Public Health Reports 1947).
"""

from __future__ import annotations

from medvit.metrics import PixelCounts, PooledMetric


def sensitivity_pooled(pixels: PixelCounts) -> float:
    """Compute sensitivity from the pixels of all images."""
    return pixels.overlap / pixels.true if pixels.true else float("nan")


METRIC = PooledMetric(
    name="sensitivity_pooled",
    title="Pooled sensitivity",
    meaning="Pooled sensitivity: the share of the pixels of a class that are predicted as this class, over all images "
    "together; for several classes, the mean over the classes. Ignored pixels do not count.",
    higher_is_better=True,
    compute=sensitivity_pooled,
    place=51,
)
