"""Gains: only with every pair, a simple baseline that is not better, and a p-value corrected for all comparisons."""

from dataclasses import replace

import numpy as np
import pytest

from medvit.curves.results import CurvePoint, Design, lines_of, with_gains
from medvit.curves.runs import EQUAL_STEPS, PIXELS, REGRESSION, CurveRun, Settings
from medvit.curves.scores import CaseScores

NUM_DRAWS = 6
SETTINGS = Settings(1e-3, 10)
MEANS = {"scratch": 0.5, "pretrained": 0.8, PIXELS: 0.6, EQUAL_STEPS: 0.55}


def scores_of(**means: float) -> dict[CurveRun, CaseScores]:
    generator = np.random.default_rng(0)
    found = {}
    for arm, mean in (MEANS | means).items():
        way = REGRESSION if arm == PIXELS else "full"
        for draw in range(NUM_DRAWS):
            score = mean + generator.normal(0, 0.02, 30)
            found[CurveRun("test", arm, way, 5, draw, SETTINGS)] = CaseScores(score, np.arange(30))
    return found


def points(scores: dict[CurveRun, CaseScores]) -> dict[str, CurvePoint]:
    chosen = {(5, arm, "full"): (SETTINGS, 0.5) for arm in ("scratch", "pretrained")}
    design = Design({5: 5}, NUM_DRAWS, ("full",), {"pretrained": 3}, 500, lambda settings: ())
    return {point.arm: point for point in lines_of(scores, chosen, design)}


def test_an_arm_above_scratch_and_the_baselines_has_a_gain() -> None:
    found = points(scores_of())
    assert [arm for arm, point in found.items() if point.is_gain] == ["pretrained"]
    assert found["pretrained"].obstacle == ""
    assert found["pretrained"].effect is not None
    assert found["pretrained"].effect.mean == pytest.approx(0.3, abs=0.02)
    assert found["scratch"].effect is None


@pytest.mark.parametrize("arm", [PIXELS, EQUAL_STEPS])
def test_a_mean_below_a_baseline_is_no_gain(arm: str) -> None:
    found = points(scores_of(**{arm: 0.9}))["pretrained"]
    assert not found.is_gain
    assert found.obstacle == f"below {arm}"


def test_without_a_simple_baseline_there_is_no_gain() -> None:
    found = points({run: one for run, one in scores_of().items() if run.arm != PIXELS})["pretrained"]
    assert not found.is_gain
    assert found.obstacle == "no simple baseline"


@pytest.mark.parametrize("arm", ["scratch", "pretrained"])
def test_without_a_pair_for_every_draw_there_is_no_gain(arm: str) -> None:
    found = points({run: one for run, one in scores_of().items() if (run.arm, run.draw) != (arm, 2)})["pretrained"]
    assert not found.is_gain
    assert found.obstacle == "5 of 6 pairs"


def test_a_baseline_is_compared_on_the_draws_that_it_has() -> None:
    """Its easy draws are also those of the arm: the hard ones, which it lacks, do not count against the arm."""
    scores = scores_of(**{PIXELS: 0.75})
    for run, one in scores.items():
        hard = 0.3 * (run.draw >= 3)
        scores[run] = CaseScores(one.score - hard, one.patient)
    lacking = {run: one for run, one in scores.items() if run.arm != PIXELS or run.draw < 3}
    assert points(lacking)["pretrained"].is_gain


def test_a_correction_over_several_tasks_is_stricter() -> None:
    (gain,) = (point for point in points(scores_of()).values() if point.is_gain)
    assert gain.effect is not None
    near = replace(gain, effect=replace(gain.effect, p=0.03))
    assert with_gains([near])[0].is_gain
    assert not any(point.is_gain for point in with_gains([near, near]))
