"""Uno's C-index: 0 to 1, higher is better, 0.5 for random predictions.

It applies to survival predictions, over all images. It is Harrell's C-index up to the last time of the model, with
pairs weighted by the inverse squared probability of not being censored before the earlier event, so that it does not
depend on the censoring (Uno et al., Statistics in Medicine 2011). Censoring is assumed to be independent of the image;
its distribution is estimated from the evaluated images.
"""

from __future__ import annotations

import numpy as np

from medvit.metrics import Outcomes, SurvivalMetric


def weighted_concordance(outcomes: Outcomes) -> float:
    """Compute Uno's C-index; NaN without a comparable pair."""
    pairs, counted = outcomes.pairs, outcomes.events & (outcomes.times <= outcomes.grid[-1])
    weights = counted / np.square(np.where(counted, outcomes.uncensored.before(outcomes.times), 1.0))
    total = (weights * pairs.later).sum()
    return float((weights * pairs.right).sum() / total) if total else float("nan")


METRIC = SurvivalMetric(
    name="c_uno",
    title="C-index, Uno",
    meaning="C-index, Uno: the same, corrected for censoring, which it assumes to be independent of the image.",
    higher_is_better=True,
    of_all=weighted_concordance,
    place=20,
)
