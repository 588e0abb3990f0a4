"""Reliability, the part of the Brier score due to probabilities that are not frequencies: 0 to 2, lower is better.

It applies to classification, over all images. The Brier score is reliability - resolution + uncertainty (Murphy,
Journal of Applied Meteorology 1973; with probabilities in bins: Stephenson et al., Weather and Forecasting 2008).
"""

from __future__ import annotations

from medvit.metrics import ClassMetric

METRIC = ClassMetric(
    name="brier_reliability",
    title="Brier score, reliability",
    meaning="Reliability, a part of the Brier score: how far probabilities are from observed frequencies; 0 "
    "is best, and calibration can lower it.",
    higher_is_better=False,
    of_all=lambda found: found.brier_parts.reliability,
    place=61,
)
