"""Intervals are over patients, have the right coverage, and are marked if a metric is undefined."""

import math

import numpy as np
import pytest
from scipy.stats import t, ttest_rel

from medvit.errors import DataError
from medvit.evaluation.paired import paired_differences
from medvit.statistics.bootstrap import bootstrap, bootstrap_differences, resampled


def mean_of(values):
    return lambda drawn: {"mean": float(values[drawn].mean())}


def test_the_interval_of_a_mean_is_that_of_the_normal_theory():
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    estimate = bootstrap(mean_of(values), [str(n) for n in range(400)], resamples=2000)["mean"]
    standard_error = values.std() / math.sqrt(400)
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * standard_error, rel=0.1)


def test_more_images_of_the_same_patients_do_not_narrow_the_interval():
    values = np.random.default_rng(1).normal(0, 1, 30)
    once = bootstrap(mean_of(values), [str(n) for n in range(30)])["mean"]
    tenfold = bootstrap(mean_of(np.repeat(values, 10)), [str(n) for n in range(30) for _ in range(10)])["mean"]
    assert tenfold.high - tenfold.low == pytest.approx(once.high - once.low, rel=0.05)


def test_a_resample_holds_patients_whole():
    patients = ["a", "a", "b", "c", "c", "c"]
    for drawn in resampled(patients, 50, seed=0):
        counts = np.bincount(drawn, minlength=6)
        assert counts[0] == counts[1]
        assert counts[3] == counts[4] == counts[5]
        assert counts[0] + counts[2] + counts[3] == 3


def test_the_same_seed_gives_the_same_interval():
    values = np.arange(10.0)
    one, other = (bootstrap(mean_of(values), list("abcdefghij"), seed=4) for _ in range(2))
    assert one == other


def test_what_a_resample_cannot_tell_does_not_count():
    values = np.array([1.0, np.nan])
    estimate = bootstrap(mean_of(values), ["a", "b"])["mean"]
    assert math.isnan(estimate.value)
    assert str(estimate) == "not defined"


@pytest.mark.parametrize(("number", "method"), [(3, "few patients"), (29, "bootstrap, expanded"), (30, "bootstrap")])
def test_few_patients_have_wider_intervals(number, method):
    values = np.random.default_rng(0).normal(0, 1, number)
    estimate = bootstrap(mean_of(values), [str(n) for n in range(number)])["mean"]
    assert estimate.method == method


@pytest.mark.parametrize("number", [7, 15])
def test_expanded_intervals_of_a_mean_are_those_of_student(number):
    values = np.random.default_rng(0).normal(0, 1, number)
    estimate = bootstrap(mean_of(values), [str(n) for n in range(number)], resamples=20_000)["mean"]
    width = 2 * t.ppf(0.975, number - 1) * values.std(ddof=1) / math.sqrt(number)
    assert estimate.high - estimate.low == pytest.approx(width, rel=0.1)


@pytest.mark.parametrize("number", [8, 40])
def test_differences_of_equal_models_are_significant_in_five_percent_of_samples(number):
    generator = np.random.default_rng(0)
    patients = [str(n) for n in range(number)]
    p_values = []
    for _ in range(500):
        one, other = generator.beta(8, 1.5, (2, number))  # such as Dice
        found = bootstrap_differences(mean_of(one - other), patients, resamples=200)["mean"]
        p_values.append(found.p)
    assert 0.03 <= np.mean(np.array(p_values) < 0.05) <= 0.075


def test_the_p_value_of_a_mean_difference_is_that_of_the_paired_t_test():
    one, other = np.random.default_rng(0).normal([[0.4], [0.0]], 1.0, (2, 25))
    patients = [str(n) for n in range(25)]
    found = bootstrap_differences(mean_of(one - other), patients, resamples=20_000)["mean"]
    assert found.p == pytest.approx(ttest_rel(one, other).pvalue, rel=0.1)


def test_a_large_difference_is_significant_after_a_correction_for_a_hundred_metrics():
    generator = np.random.default_rng(0)
    patients = [str(n) for n in range(60)]
    found = bootstrap_differences(mean_of(1.0 + generator.normal(0, 0.1, 60)), patients, resamples=200)["mean"]
    assert 100 * found.p < 0.05


def test_no_interval_is_stated_where_all_resamples_agree():
    estimate = bootstrap(lambda drawn: {"one": 1.0}, [str(n) for n in range(40)], resamples=100)["one"]
    assert str(estimate) == "1.000 [no interval]"
    assert estimate.method == "agreement"


def table(dice, images):
    return {"image_id": np.array(images), "patient_id": np.array(images), "dice": np.array(dice)}


def test_a_paired_difference_is_narrower_than_its_parts_when_cases_vary_together():
    generator = np.random.default_rng(0)
    hard = generator.uniform(0.5, 0.9, 40)
    images = [str(n) for n in range(40)]
    one, other = table(hard + 0.02, images), table(hard, images)
    difference = paired_differences(one, other, (), resamples=500, seed=0)["dice"]
    assert difference.value == pytest.approx(0.02)
    assert difference.method == "agreement"  # the difference is the same for all patients
    noise = generator.normal(0, 0.01, 40)
    varied = paired_differences(table(hard + noise, images), other, (), resamples=500, seed=0)["dice"]
    assert varied.high - varied.low == pytest.approx(4 * 0.01 / 40**0.5, rel=0.3)


def test_pairs_are_found_by_image_not_by_place():
    one, other = table([0.5, 0.9], ["a", "b"]), table([0.8, 0.5], ["b", "a"])
    assert paired_differences(one, other, (), resamples=100, seed=0)["dice"].value == pytest.approx(0.05)


def test_reports_without_a_common_image_are_refused():
    with pytest.raises(DataError, match="share no image"):
        paired_differences(table([0.5], ["a"]), table([0.5], ["b"]), (), resamples=100, seed=0)


def test_a_metric_that_only_one_report_has_is_left_out_with_a_warning(caplog):
    one, other = table([0.5, 0.9], ["a", "b"]), table([0.5, 0.9], ["a", "b"])
    with caplog.at_level("WARNING", logger="medvit"):
        found = paired_differences(one | {"nsd": np.ones(2)}, other, (), resamples=100, seed=0)
    assert found.keys() == {"dice"}
    assert caplog.messages == ["only one of the two reports has nsd, which is not compared"]


@pytest.mark.parametrize("columns", [("dice.liver", "dice.spleen"), ("hd95_mm", "hd95_px"), ("voxels.a", "nsd")])
def test_reports_of_other_classes_or_units_are_refused(columns):
    one, other = ({**table([0.5], ["a"]), column: np.ones(1)} for column in columns)
    with pytest.raises(DataError, match="have different metrics"):
        paired_differences(one, other, (), resamples=100, seed=0)


def reliability(probabilities, truth):
    """The reliability of the Brier score: squared difference of mean probability and frequency over ten bins."""
    bins = np.minimum((probabilities * 10).astype(int), 9)
    counts, given, found = (np.bincount(bins, one, 10) for one in (np.ones(len(truth)), probabilities, truth))
    filled = counts > 0
    return ((given - found)[filled] ** 2 / counts[filled]).sum() / len(truth)


def test_the_interval_of_a_number_that_chance_makes_larger_contains_its_true_value():
    generator = np.random.default_rng(5)

    def draw(number):
        probabilities = generator.beta(1.5, 1.5, number)
        true_probabilities = np.clip(probabilities + 0.1 * np.sin(probabilities * 6), 0, 1)
        return probabilities, (generator.random(number) < true_probabilities).astype(float)

    true_value, patients = reliability(*draw(400_000)), [str(number) for number in range(200)]
    covered, covered_by_percentiles = 0, 0
    for _ in range(60):
        probabilities, truth = draw(200)

        def statistic(drawn, probabilities=probabilities, truth=truth):
            return {"reliability": reliability(probabilities[drawn], truth[drawn])}

        estimate = bootstrap(statistic, patients, resamples=200)["reliability"]
        assert estimate.low <= estimate.value <= estimate.high
        covered += estimate.low <= true_value <= estimate.high
        values = [statistic(drawn)["reliability"] for drawn in resampled(patients, 200, 0)]
        low, high = np.quantile(values, (0.025, 0.975))
        covered_by_percentiles += low <= true_value <= high
    assert covered >= 54  # 90 % of 60; the expected number is 57
    assert covered_by_percentiles <= 30


def test_the_interval_of_a_mean_is_not_corrected():
    values = np.random.default_rng(0).normal(3.0, 2.0, 100)
    estimate = bootstrap(mean_of(values), [str(n) for n in range(100)])["mean"]
    drawn = [values[one].mean() for one in resampled([str(n) for n in range(100)], 2000, 0)]
    assert estimate.method == "bootstrap"
    assert (estimate.low, estimate.high) == pytest.approx(tuple(np.quantile(drawn, (0.025, 0.975))))
