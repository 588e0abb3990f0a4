"""Uncertainty, the Brier score of predicting the class frequencies of the images: it does not depend on the model.

It applies to classification, over all images. The Brier score is reliability - resolution + uncertainty (Murphy,
Journal of Applied Meteorology 1973; with probabilities in bins: Stephenson et al., Weather and Forecasting 2008).
"""

from __future__ import annotations

from medvit.metrics import ClassMetric

METRIC = ClassMetric(
    name="brier_uncertainty",
    title="Brier score, uncertainty",
    meaning="Uncertainty, a part of the Brier score: the score of predicting the class frequencies of these "
    "images for every image; it does not depend on the model.",
    higher_is_better=None,
    of_all=lambda found: found.brier_parts.uncertainty,
    place=63,
)
