"""The examples of a report are the best, the median and the worst by a score."""

from __future__ import annotations

import numpy as np

from medvit.evaluation.report.examples import examples_to_show


def test_the_best_the_median_and_the_worst_are_chosen_among_defined_scores() -> None:
    assert examples_to_show(np.array([0.2, np.nan, 0.9, 0.5])) == {"best": 2, "median": 3, "worst": 0}
    assert examples_to_show(np.array([np.nan])) == {}
