"""Upper limit of agreement: the mean of predicted minus true values plus 1.96 standard deviations; near 0 is best.

It applies to regression, over all images (Bland and Altman, The Lancet 1986). Both limits together contain 95 % of the
differences if these have a normal distribution.
"""

from __future__ import annotations

from medvit.metrics import ValueMetric
from medvit.metrics.values._agreement import limits

METRIC = ValueMetric(
    name="agreement_upper",
    title="Upper limit of agreement",
    meaning="Upper limit of agreement: predicted minus true values are above it in about 2.5 % of the images.",
    higher_is_better=None,
    compute=lambda truth, predicted: limits(truth, predicted)[1],
    place=60,
)
