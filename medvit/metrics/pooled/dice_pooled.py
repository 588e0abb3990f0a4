"""Pooled Dice, the F1 of all pixels of a class over all images together: 0 to 1, higher is better.

It applies to segmentation: 2 TP / (2 TP + FP + FN); NaN if the class is in no truth and no prediction (van Rijsbergen
1979). For retinal vessels, it is the Dice that papers commonly report, counted within the field of view.
"""

from __future__ import annotations

from medvit.metrics import PixelCounts, PooledMetric


def dice_pooled(pixels: PixelCounts) -> float:
    """Compute Dice from the pixels of all images."""
    total = pixels.true + pixels.found
    return 2.0 * pixels.overlap / total if total else float("nan")


METRIC = PooledMetric(
    name="dice_pooled",
    title="Pooled Dice (F1)",
    meaning="Pooled Dice, or F1: Dice of the pixels of all images together, so that an image with a large structure "
    "counts more; for several classes, the mean over the classes. Ignored pixels do not count.",
    higher_is_better=True,
    compute=dice_pooled,
    place=50,
)
