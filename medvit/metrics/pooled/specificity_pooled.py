"""Pooled specificity, the fraction of pixels outside a class that are predicted outside it: 0 to 1, higher is better.

It applies to segmentation, over all images: TN / (TN + FP); NaN if all pixels are of the class (Yerushalmy, Public
Health Reports 1947). It depends on the size of the background.
"""

from __future__ import annotations

from medvit.metrics import PixelCounts, PooledMetric


def specificity_pooled(pixels: PixelCounts) -> float:
    """Compute specificity from the pixels of all images."""
    without = pixels.counted - pixels.true
    return (without - (pixels.found - pixels.overlap)) / without if without else float("nan")


METRIC = PooledMetric(
    name="specificity_pooled",
    title="Pooled specificity",
    meaning="Pooled specificity: the share of the pixels not of a class that are predicted as other classes, over all "
    "images together; for several classes, the mean over the classes. Ignored pixels do not count.",
    higher_is_better=True,
    compute=specificity_pooled,
    place=52,
)
