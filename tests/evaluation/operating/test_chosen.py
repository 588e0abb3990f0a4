"""Points are chosen on the validation split alone; the evaluated split changes only their rates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medvit.errors import ConfigError
from medvit.evaluation import Evaluation
from medvit.evaluation.operating.chosen import OperatingPlan
from medvit.evaluation.operating_options import OperatingOptions
from medvit.evaluation.report.operating import operating_part, sentence

Evaluated = Callable[..., Evaluation]
PAIR = ("benign", "malignant")


def plan(**options: object) -> OperatingPlan:
    return OperatingPlan(OperatingOptions.parse(options), (), resamples=200, seed=0)


def drawn(evaluated: Evaluated, seed: int, number: int = 400, shift: float = 0.0) -> Evaluation:
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, 2, number)
    scores = 1 / (1 + np.exp(-(generator.normal(0, 1, number) + 2 * truth - 1 + shift)))
    return evaluated(truth, np.stack([1 - scores, scores], axis=1), PAIR)


def test_the_threshold_follows_the_validation_split_alone(evaluated: Evaluated) -> None:
    validation = drawn(evaluated, 0)
    found = [plan(sensitivity=0.9).chosen(validation, drawn(evaluated, 1, shift=shift)) for shift in (0.0, 1.0)]
    assert found[0].points[0].point == found[1].points[0].point
    chosen_on = found[0].points[0].chosen_on
    assert chosen_on is not None
    assert 0.9 <= chosen_on.rates["sensitivity"].value <= 0.91
    assert found[1].points[0].rates.rates["sensitivity"].value > 0.95


def test_on_new_patients_the_interval_mostly_contains_the_wished_sensitivity(evaluated: Evaluated) -> None:
    inside = 0
    for seed in range(50):
        both = drawn(evaluated, 100 + seed, 4000), drawn(evaluated, 200 + seed, 200)
        found = plan(sensitivity=0.9).chosen(*both).points[0].rates.rates["sensitivity"]
        inside += found.low <= 0.9 <= found.high
    assert inside >= 43  # of 50: 95 % of them, minus three standard errors


def test_a_point_that_cannot_be_chosen_is_listed_and_the_others_remain(evaluated: Evaluated) -> None:
    found = plan(sensitivity=[0.9, 0.99]).chosen(drawn(evaluated, 4, 80), drawn(evaluated, 5))
    assert [one.point.name for one in found.points] == ["sensitivity 0.9"]
    assert "sensitivity 0.99 needs at least 100 positive patients" in found.refused[0]
    part = operating_part(found, "test")
    assert part.numbers["not_chosen"] == list(found.refused)


def test_predictive_values_are_at_the_prevalence_of_the_validation_split_unless_one_is_given(
    evaluated: Evaluated,
) -> None:
    validation, test = drawn(evaluated, 6), drawn(evaluated, 7)
    implied, given = (plan(sensitivity=0.9, **more).chosen(validation, test) for more in ({}, {"prevalence": 0.05}))
    assert implied.points[0].point.prevalence == pytest.approx(validation.truth.mean())
    assert "operating.prevalence was not given" in implied.notes[0]
    assert given.points[0].point.prevalence == 0.05
    assert given.points[0].point.threshold == implied.points[0].point.threshold
    assert given.points[0].rates.rates["ppv"].value < implied.points[0].rates.rates["ppv"].value


def test_a_prevalence_is_refused_for_several_conditions(evaluated: Evaluated) -> None:
    three = evaluated(np.arange(60) % 3, np.random.default_rng(8).dirichlet([1, 1, 1], 60), ("a", "b", "c"))
    with pytest.raises(ConfigError, match=r"prevalence is for one condition, and there are 3"):
        plan(sensitivity=0.5, prevalence=0.1).chosen(three, three)


def test_the_sentence_counts_1000_patients(evaluated: Evaluated) -> None:
    found = plan(sensitivity=0.9, prevalence=0.1).chosen(drawn(evaluated, 9), drawn(evaluated, 10)).points[0]
    number = {name: round(one.value) for name, one in found.rates.per_thousand.items()}
    assert number["found"] + number["missed"] == 100
    text = sentence(found, "patient")
    assert text.startswith("malignant, sensitivity 0.9: per 1,000 patients at a prevalence of 10 %, 100 are malignant;")
    assert f"Of the 900 others, {number['false_alarms']} [" in text


def test_points_of_an_earlier_report_are_evaluated_unchanged(evaluated: Evaluated) -> None:
    first = plan(sensitivity=0.9).chosen(drawn(evaluated, 11), drawn(evaluated, 12))
    points = [one.point for one in first.points]
    again = plan(report=Path("report")).given(points, drawn(evaluated, 12))
    assert again.points[0].rates == first.points[0].rates
    assert again.points[0].chosen_on is None
    with pytest.raises(ConfigError, match="points of the level image"):
        plan(report=Path("report"), level="patient").given(points, drawn(evaluated, 12))


def test_options_without_a_wished_value_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"operating\.level needs a wished value"):
        _ = OperatingOptions.parse({"level": "eye"}).is_used
    assert not OperatingOptions.parse({}).is_used
    assert OperatingOptions.parse({"ppv": "0.5"}).goals == [("ppv", 0.5)]
