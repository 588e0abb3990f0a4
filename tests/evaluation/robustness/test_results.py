"""Mean error, rise and relative errors: by definition, against MedMNIST-C, and with intervals over patients."""

from __future__ import annotations

import json
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.evaluation.robustness import CLEAN, Condition
from medvit.evaluation.robustness.predictions import CorruptedPredictions
from medvit.evaluation.robustness.results import WHOLE, errors_of_corruptions, robustness, tree_of
from medvit.evaluation.robustness.scoring import Scoring, scoring_of
from medvit.records import Row
from tests.evaluation.robustness.test_scoring import model

NAMES = ("noise", "blur")
CONDITIONS = [CLEAN, *(Condition(name, severity) for name in NAMES for severity in (1, 2, 3, 4, 5))]


def row(number: int, patient: int) -> Row:
    return Row(f"i-{number}", f"p-{patient}", "s", "r", "", "image", "d", "test", (1, 8, 8), "uint8", "")


def predictions(*, num_patients: int, images_each: int, models: int, seed: int = 0) -> CorruptedPredictions:
    """Two classes; the probability of the true class falls with severity, for the second model faster."""
    generator = np.random.default_rng(seed)
    rows = tuple(row(n, n // images_each) for n in range(num_patients * images_each))
    truth = np.repeat(generator.integers(0, 2, num_patients), images_each)
    ease = np.repeat(generator.normal(0.0, 1.0, num_patients), images_each)  # images of a patient are alike
    found = []
    for number in range(models):
        table: dict[Condition, Float[Array, "n m"]] = {}
        for condition in CONDITIONS:
            logit = ease + 1.2 - 0.3 * (1 + number) * condition.severity
            right = 1.0 / (1.0 + np.exp(-logit))
            table[condition] = np.where(truth[:, None] == np.arange(2), right[:, None], 1.0 - right[:, None])
        found.append(table)
    return CorruptedPredictions(rows, truth[:, None].astype(float), tuple(found))


@pytest.fixture(scope="module")
def scoring() -> Scoring:
    return scoring_of(model("classification", ("a", "b")))


def test_mean_error_and_rise_are_over_the_severities_of_a_corruption() -> None:
    errors = {CLEAN: 0.1} | {
        one: 0.1 + 0.02 * one.severity * (2 if one.corruption == "blur" else 1) for one in CONDITIONS
    }
    found = errors_of_corruptions(errors)
    assert found["noise"] == pytest.approx({"mean_error": 0.16, "rise": 0.06})
    assert found["blur"] == pytest.approx({"mean_error": 0.22, "rise": 0.12})
    assert found[WHOLE] == pytest.approx({"mean_error": 0.19, "rise": 0.09})


def test_a_model_that_is_its_own_reference_has_relative_errors_of_1() -> None:
    errors = {one: 0.1 + 0.05 * one.severity for one in CONDITIONS}
    found = errors_of_corruptions(errors, errors)
    assert all(found[name][kind] == pytest.approx(1.0) for name in found for kind in ("balanced", "relative"))


def test_a_relative_error_without_a_rise_of_the_reference_is_undefined() -> None:
    errors, steady = {one: 0.1 + 0.05 * one.severity for one in CONDITIONS}, dict.fromkeys(CONDITIONS, 0.2)
    found = errors_of_corruptions(errors, steady)
    assert np.isnan(found["noise"]["relative"])
    assert np.isnan(found[WHOLE]["relative"])
    assert found["noise"]["balanced"] == pytest.approx(0.25 / 0.2)


def test_errors_are_those_of_the_evaluator_of_medmnist_c(scoring: Scoring, tmp_path: Path) -> None:
    reference = pytest.importorskip("medmnistc.eval", reason="medmnistc is not installed")
    baselines = reference.BASELINES["pneumoniamnist"]
    names = list(baselines["raw_scores"])[:3]
    generator = np.random.default_rng(1)
    truth = generator.integers(0, 2, 80)
    table = {Condition(name, severity): generator.random(80) for name in names for severity in (1, 2, 3, 4, 5)}
    table[CLEAN] = np.clip(truth + generator.normal(0, 0.4, 80), 0, 1)

    theirs = reference.Evaluator("pneumoniamnist", truth[:, None], names, tmp_path, "none", "binary-class")
    theirs.evaluate_clean(np.stack([1 - table[CLEAN], table[CLEAN]], axis=1))
    for name in names:
        scores = np.concatenate([table[Condition(name, severity)] for severity in (1, 2, 3, 4, 5)])
        theirs.evaluate(np.stack([1 - scores, scores], axis=1), name)
    theirs.dump_summary()

    ours = {
        one: scoring.compute(truth[:, None].astype(float), np.stack([1 - score, score], axis=1))[1]
        for one, score in table.items()
    }
    # Their errors of AlexNet are means over the severities.
    alexnet = {
        one: baselines["raw_scores"][one.corruption] if one != CLEAN else baselines["clean_score"] for one in table
    }
    found = errors_of_corruptions(ours, alexnet)
    for name in names:
        assert found[name]["balanced"] == pytest.approx(theirs.output_log["be_scores"][name])
        if baselines["raw_scores"][name] > baselines["clean_score"]:  # theirs divides by negative numbers, too
            assert found[name]["relative"] == pytest.approx(theirs.output_log["rbe_scores"][name])


def test_scores_without_resampling_are_those_of_the_images(scoring: Scoring) -> None:
    known = predictions(num_patients=40, images_each=2, models=2)
    found, reference = robustness(known, scoring, resamples=100, seed=0)
    assert reference is not None
    for scores, table in zip((found, reference), known.found, strict=True):
        for condition, numbers in table.items():
            metric, error = scoring.compute(known.truth, numbers)
            assert (scores.conditions[condition].metric.value, scores.conditions[condition].error.value) == (
                metric,
                error,
            )
    assert found.whole.balanced is not None
    assert found.whole.balanced.value < 1.0  # the reference loses accuracy faster
    assert reference.whole.balanced is None


def test_intervals_are_over_patients(scoring: Scoring) -> None:
    """Four identical images of each patient give the interval of one image of each."""
    one = predictions(num_patients=60, images_each=1, models=1)
    four = CorruptedPredictions(
        tuple(replace(each, image_id=f"{each.image_id}-{n}") for each in one.rows for n in range(4)),
        np.repeat(one.truth, 4, axis=0),
        tuple({name: np.repeat(values, 4, axis=0) for name, values in table.items()} for table in one.found),
    )
    single, repeated = (robustness(known, scoring, resamples=200, seed=3)[0] for known in (one, four))
    error = Condition("blur", 3)
    assert astuple(repeated.conditions[error].error) == pytest.approx(astuple(single.conditions[error].error))
    assert 0.0 < single.conditions[error].error.low < single.conditions[error].error.value


def test_the_tree_is_json_with_undefined_numbers_as_null(scoring: Scoring) -> None:
    found, _ = robustness(predictions(num_patients=6, images_each=1, models=2), scoring, resamples=100, seed=0)
    undefined = replace(found.whole, relative=replace(cast("Any", found.whole.relative), value=float("nan")))
    tree = json.loads(json.dumps(tree_of(replace(found, whole=undefined)), allow_nan=False))
    assert tree["all"]["relative_balanced_error"]["value"] is None
    assert len(tree["conditions"]) == len(CONDITIONS)
