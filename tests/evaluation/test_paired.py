"""Differences of two models have the tests of their metrics, corrected, and state how many patients they need."""

import numpy as np
import pytest

from medvit.evaluation.paired import compare, paired_differences
from medvit.evaluation.tasks.classification import evaluate_classes
from medvit.evaluation.tasks.multilabel import evaluate_labels
from medvit.records import Row
from medvit.statistics.auroc import Ranking
from medvit.statistics.multiplicity import holm

NUM = 60


def rows(images_each=1):
    patients = np.repeat(np.arange(NUM // images_each), images_each)
    return [
        Row(f"i{n}", f"p{patient}", "", "", "", "image", "d", "test", (1, 8, 8), "uint8", "0")
        for n, patient in enumerate(patients)
    ]


def evaluated(noise, images_each=1):
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 2, NUM)
    scores = 1 / (1 + np.exp(-(2.0 * truth - 1.0 + noise * generator.normal(0, 1, NUM))))
    probabilities = np.stack([1 - scores, scores], axis=1)
    return evaluate_classes(rows(images_each), truth, probabilities, ("no", "yes"), resamples=100, seed=0)


@pytest.mark.parametrize(("images_each", "test"), [(1, "DeLong"), (3, "Obuchowski")])
def test_auroc_has_the_p_value_of_its_paired_test(images_each, test):
    one, other = evaluated(1.0, images_each), evaluated(2.0, images_each)
    found = compare(one, other.table, resamples=200, seed=0)["auroc"]
    patients = [row.patient_id for row in one.rows]
    rankings = [Ranking(each.truth == 1, each.probabilities[:, 1], patients) for each in (one, other)]
    expected = rankings[0].compared(rankings[1])
    assert (found.test, found.p) == (test, pytest.approx(expected.p))
    assert found.num_patients_needed == pytest.approx(
        expected.variance * len(set(patients)) * (1.959964 + 0.841621) ** 2 / 0.01**2, abs=1
    )


@pytest.mark.parametrize(("images_each", "test"), [(1, "McNemar"), (3, "McNemar, clustered")])
def test_proportions_have_the_test_of_mcnemar(images_each, test):
    found = compare(evaluated(1.0, images_each), evaluated(3.0, images_each).table, resamples=200, seed=0)
    assert {found[key].test for key in ("accuracy", "sensitivity", "specificity")} == {test}
    assert found["balanced_accuracy"].test == "bootstrap"


def test_p_values_are_corrected_for_all_metrics():
    found = compare(evaluated(1.0), evaluated(2.0).table, resamples=200, seed=0)
    known = [one for one in found.values() if not np.isnan(one.p)]
    assert len(known) > 5
    assert [one.p_corrected for one in known] == pytest.approx(holm([one.p for one in known]))


def test_a_label_is_compared_on_the_images_where_it_is_known():
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 2, (NUM, 2)).astype(float)
    truth[:20, 1] = np.nan
    one, other = (
        evaluate_labels(rows(), truth, generator.random((NUM, 2)), ("a", "b"), resamples=100, seed=0) for _ in "12"
    )
    found = compare(one, other.table, resamples=200, seed=0)
    patients = [row.patient_id for row in one.rows]
    rankings = [Ranking(truth[20:, 1] == 1, each.columns["p.b"][20:], patients[20:]) for each in (one, other)]
    assert found["auroc.b"].p == pytest.approx(rankings[0].compared(rankings[1]).p)
    assert (found["auroc.b"].test, found["auroc_micro"].test, found["auroc_macro"].test) == (
        "DeLong",
        "Obuchowski",
        "bootstrap",
    )


def test_metrics_with_a_unit_state_no_number_of_patients():
    truth = np.arange(20.0)
    tables = [
        {"image_id": truth.astype(str), "patient_id": truth.astype(str), "truth": truth, "predicted": truth + error}
        for error in (1.0, np.random.default_rng(0).normal(0, 1, 20))
    ]
    found = paired_differences(*tables, ("age",), resamples=100, seed=0)
    assert found["mae"].num_patients_needed is None
    assert found["mae"].p > 0.0
