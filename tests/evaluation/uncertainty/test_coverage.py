"""Each patient has the same weight in the coverage; sets and intervals are those of the stored limits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medvit.errors import ConfigError
from medvit.evaluation import Evaluation
from medvit.evaluation.uncertainty.conformal import fit_conformal
from medvit.evaluation.uncertainty.coverage import coverage_rows, set_columns
from medvit.models.conformal import Conformal
from medvit.statistics.proportion import wilson
from tests.evaluation.uncertainty.test_abstention import evaluated, rows

HALF = Conformal(method="lac", coverage=0.9, limits=(0.35,), patients=(50,), images=(50,))


def test_sets_are_counted_by_class_and_size() -> None:
    confidence = np.array([0.9] * 20 + [0.5] * 5)  # the last ones have the probabilities 0.5 and 0.5: empty sets
    evaluation = evaluated(confidence, np.arange(25) >= 4)
    whole, first, second = coverage_rows(evaluation, HALF, (), resamples=100, seed=0)
    assert (whole.name, whole.num_images, whole.coverage.value) == ("all images", 25, pytest.approx(16 / 25))
    assert (whole.coverage.low, whole.coverage.high) == pytest.approx(wilson(16 / 25, 25))
    assert whole.empty is not None
    assert whole.single is not None
    assert (whole.empty.value, whole.single.value, whole.size.value) == pytest.approx((0.2, 0.8, 0.8))
    assert (first.name, first.coverage.value) == ("true class: a", pytest.approx(16 / 21))
    assert (second.name, second.coverage.value) == ("true class: b", 0.0)
    columns = set_columns(evaluation, HALF)
    assert columns["in_set.a"].sum() == 20
    assert columns["in_set.b"].sum() == 0


def test_a_patient_with_many_images_counts_once() -> None:
    evaluation = evaluated(np.full(24, 0.9), np.arange(24) >= 12)
    patients = ["many"] * 12 + [f"p{n}" for n in range(12)]
    own = tuple(replace(row, patient_id=name) for row, name in zip(evaluation.rows, patients, strict=True))
    whole = coverage_rows(replace(evaluation, rows=own), HALF, (), resamples=100, seed=0)[0]
    assert whole.num_patients == 13
    assert whole.coverage.value == pytest.approx(12 / 13)


def test_groups_of_an_attribute_have_a_row_each() -> None:
    evaluation = evaluated(np.full(24, 0.9), np.arange(24) >= 6)
    own = [replace(row, attributes={"sex": "FM"[n % 2]}) for n, row in enumerate(evaluation.rows)]
    found = coverage_rows(replace(evaluation, rows=tuple(own)), HALF, ("sex",), resamples=100, seed=0)
    groups = {row.name: row.coverage.value for row in found if row.name.startswith("sex")}
    assert groups == {"sex: F": pytest.approx(9 / 12), "sex: M": pytest.approx(9 / 12)}


def labels() -> Evaluation:
    generator = np.random.default_rng(0)
    given = generator.random((60, 2))
    truth = (generator.random((60, 2)) < given).astype(float)
    truth[:20, 1] = np.nan
    columns = {f"p.{name}": given[:, n] for n, name in enumerate("xy")}
    columns |= {f"truth.{name}": truth[:, n] for n, name in enumerate("xy")}
    return Evaluation("multilabel", ("x", "y"), tuple(rows(60, 1)), {}, columns)


def test_each_label_covers_its_own_images_when_fitted_on_them() -> None:
    evaluation = labels()
    conformal = fit_conformal(evaluation, "multilabel", None, 0.9)
    found = coverage_rows(evaluation, conformal, (), resamples=100, seed=0)
    whole = {row.label: row for row in found if row.name == "all images"}
    assert (whole["x"].num_images, whole["y"].num_images) == (60, 40)
    assert all(row.coverage.value >= 0.9 for row in whole.values())
    assert {row.name for row in found if row.label == "y"} == {
        "all images",
        "true class: without",
        "true class: with",
    }
    assert set(set_columns(evaluation, conformal)) == {
        f"in_set.{value}.{label}" for value in ("with", "without") for label in "xy"
    }


def test_intervals_have_a_width_and_need_an_ensemble_to_be_normalized() -> None:
    generator = np.random.default_rng(1)
    predicted = generator.normal(50.0, 5.0, 40)
    truth = predicted + generator.normal(0.0, 2.0, 40)
    evaluation = Evaluation("regression", ("age",), tuple(rows(40, 1)), {}, {"truth": truth, "predicted": predicted})
    conformal = fit_conformal(evaluation, "regression", None, 0.9)
    (whole,) = coverage_rows(evaluation, conformal, (), resamples=100, seed=0)
    assert whole.empty is None
    assert whole.size.value == pytest.approx(2.0 * conformal.limits[0])
    assert whole.coverage.value == pytest.approx(37 / 40)  # rank ceil(41 * 0.9) of 40
    columns = set_columns(evaluation, conformal)
    assert columns["high"] - columns["low"] == pytest.approx(2.0 * conformal.limits[0])
    with pytest.raises(ConfigError, match="method=normalized needs predictions of several models"):
        fit_conformal(evaluation, "regression", "normalized", 0.9)
