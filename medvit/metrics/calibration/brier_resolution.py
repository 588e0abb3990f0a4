"""Resolution, the part of the Brier score that rewards separating images: up to the uncertainty, higher is better.

It applies to classification, over all images. The Brier score is reliability - resolution + uncertainty (Murphy,
Journal of Applied Meteorology 1973; with probabilities in bins: Stephenson et al., Weather and Forecasting 2008).
"""

from __future__ import annotations

from medvit.metrics import ClassMetric

METRIC = ClassMetric(
    name="brier_resolution",
    title="Brier score, resolution",
    meaning="Resolution, subtracted in the Brier score: how far images with different probabilities differ "
    "in their observed frequencies; at best, it is the uncertainty.",
    higher_is_better=True,
    of_all=lambda found: found.brier_parts.resolution,
    place=62,
)
