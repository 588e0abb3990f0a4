"""Harrell's C-index: 0 to 1, higher is better, 0.5 for random predictions.

It applies to survival predictions, over all images. Of all pairs of which one image is known to have the event before
the other, it is the share in which that image has the shorter predicted mean time (Harrell et al., Statistics in
Medicine 1996). Equal predictions count half. Its value depends on how many images are
censored, and when; that of `c_uno` does not.
"""

from __future__ import annotations

from jaxtyping import Bool, Float
from numpy import ndarray as Array

from medvit.metrics import SurvivalMetric
from medvit.metrics._event_pairs import EventPairs, pairs_of_events


def concordance(times: Float[Array, "n"], events: Bool[Array, "n"], expected: Float[Array, "n"]) -> float:
    """Compute the C-index of predicted times; NaN without a comparable pair."""
    return _share(pairs_of_events(times, events, expected))


def _share(pairs: EventPairs) -> float:
    total = pairs.later.sum()
    return float(pairs.right.sum() / total) if total else float("nan")


METRIC = SurvivalMetric(
    name="c_index",
    title="C-index, Harrell",
    meaning="C-index, Harrell: chance that of two patients, the one with the shorter predicted time has the event "
    "first; 0.5 is chance level.",
    higher_is_better=True,
    of_all=lambda outcomes: _share(outcomes.pairs),
    place=10,
)
