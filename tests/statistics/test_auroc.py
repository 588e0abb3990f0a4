"""Variance and tests of AUROC equal their definitions, and intervals have the stated coverage."""

import itertools
import math

import numpy as np
import pytest

from medvit.statistics.auroc import Ranking, placements, score_interval


def drawn(num_patients, images_each, seed=0, decimals=6, shift=1.0):
    """Return a ranking whose patients have an effect of their own on the scores of all of their images."""
    generator = np.random.default_rng(seed)
    own = np.repeat(generator.normal(0, 1, num_patients), images_each)
    is_case = generator.random(num_patients * images_each) < 0.4
    scores = (own + generator.normal(0, 1, len(own)) + shift * is_case).round(decimals)
    return Ranking(is_case, scores, [f"p{n}" for n in np.repeat(np.arange(num_patients), images_each)])


def kernel(case, control):
    return 1.0 if case > control else 0.5 if case == control else 0.0


def variance_by_definition(one, other):
    """Return the covariance of two AUROC by the double sums of Obuchowski (1997), patient by patient."""
    patients = list(dict.fromkeys(one.patients))
    member = np.array(one.patients)

    def parts(ranking):
        is_case, scores = ranking.is_case, ranking.scores
        cases, controls = scores[is_case], scores[~is_case]
        area = np.mean([kernel(*pair) for pair in itertools.product(cases, controls)])
        found = []
        for patient in patients:
            own = member == patient
            of_cases = [np.mean([kernel(x, y) for y in controls]) - area for x in scores[own & is_case]]
            of_controls = [np.mean([kernel(x, y) for x in cases]) - area for y in scores[own & ~is_case]]
            found.append((sum(of_cases), sum(of_controls)))
        return np.array(found)

    a, b = parts(one), parts(other)
    num_cases, num_controls, total = one.is_case.sum(), (~one.is_case).sum(), len(patients)
    with_case = len(set(member[one.is_case]))
    with_control = len(set(member[~one.is_case]))
    s10 = with_case / ((with_case - 1) * num_cases) * (a[:, 0] * b[:, 0]).sum()
    s01 = with_control / ((with_control - 1) * num_controls) * (a[:, 1] * b[:, 1]).sum()
    s11 = total / (total - 1) * ((a[:, 0] * b[:, 1]).sum() + (a[:, 1] * b[:, 0]).sum())
    return s10 / num_cases + s01 / num_controls + s11 / (num_cases * num_controls)


def logit_variance(estimate):
    """Return the variance from which an interval on the logit scale was computed."""
    logits = [math.log(end / (1 - end)) for end in (estimate.low, estimate.high)]
    half = (logits[1] - logits[0]) / 2
    return (half / 1.959964 * estimate.value * (1 - estimate.value)) ** 2


@pytest.mark.parametrize("decimals", [0, 6])
@pytest.mark.parametrize("images_each", [1, 3])
def test_the_variance_is_that_of_all_pairs(images_each, decimals):
    ranking = drawn(30, images_each, decimals=decimals)
    estimate = ranking.estimate()
    assert logit_variance(estimate) == pytest.approx(variance_by_definition(ranking, ranking), rel=1e-5)
    assert estimate.method == ("DeLong" if images_each == 1 else "Obuchowski")


def test_placements_are_shares_of_pairs():
    is_case, scores = np.array([True, True, False, False, False]), np.array([0.5, 0.9, 0.5, 0.1, 0.9])
    assert placements(is_case, scores) == pytest.approx([1.5 / 3, 2.5 / 3, 1.5 / 2, 1.0, 0.5 / 2])


def test_the_variance_is_close_to_that_of_leaving_out_one_patient():
    ranking = drawn(200, 2)
    member = np.array(ranking.patients)
    left = []
    for patient in dict.fromkeys(ranking.patients):
        kept = member != patient
        left.append(Ranking(ranking.is_case[kept], ranking.scores[kept], list(member[kept])).estimate().value)
    jackknife = (len(left) - 1) / len(left) * np.square(left - np.mean(left)).sum()
    assert logit_variance(ranking.estimate()) == pytest.approx(jackknife, rel=0.02)


def test_copies_of_images_do_not_narrow_the_interval():
    once = drawn(40, 1)
    copies = Ranking(np.repeat(once.is_case, 5), np.repeat(once.scores, 5), list(np.repeat(once.patients, 5)))
    one, five = once.estimate(), copies.estimate()
    assert (five.value, five.low, five.high) == pytest.approx((one.value, one.low, one.high), abs=1e-9)


@pytest.mark.parametrize("images_each", [1, 4])
def test_intervals_cover_the_true_auroc(images_each):
    many = drawn(4000, images_each, seed=99)
    true = many.estimate().value  # standard error 0.008 or less
    estimates = [drawn(40, images_each, seed=seed).estimate() for seed in range(600)]
    coverage = np.mean([one.low <= true <= one.high for one in estimates])
    assert 0.925 <= coverage <= 0.985  # 95 %, and a standard error of 0.9 points


@pytest.mark.parametrize("counts", [(5, 5), (10, 30)])
def test_intervals_cover_an_auroc_near_one_where_many_samples_are_perfect(counts):
    generator = np.random.default_rng(1)
    is_case = np.repeat([True, False], counts)
    patients = [str(n) for n in range(sum(counts))]
    estimates = [
        Ranking(is_case, generator.normal(0, 1, sum(counts)) + 2.66 * is_case, patients).estimate() for _ in range(600)
    ]  # AUROC of normal scores: Phi(2.66 / sqrt(2)) = 0.97
    assert np.mean([one.low <= 0.97 <= one.high for one in estimates]) >= 0.93
    perfect = [one for one in estimates if one.value == 1.0]
    assert perfect
    assert all(one.method == "Newcombe" and one.low < 0.97 and one.high == 1.0 for one in perfect)


def test_the_score_interval_solves_its_equation():
    low, high = score_interval(0.8, 12, 20)
    for end in (low, high):
        more = (12 + 20) / 2 - 1
        variance = end * (1 - end) * (1 + more * (1 - end) / (2 - end) + more * end / (1 + end)) / (12 * 20)
        assert abs(0.8 - end) == pytest.approx(1.959964 * math.sqrt(variance), rel=1e-6)
    assert score_interval(1.0, 12, 20)[0] == pytest.approx(1 - score_interval(0.0, 12, 20)[1])


def test_auroc_of_one_kind_of_images_is_not_defined():
    assert str(Ranking(np.ones(4, bool), np.arange(4.0), list("abcd")).estimate()) == "not defined"


def second(ranking, seed, noise=0.7):
    """Return a model whose scores are those of another with noise."""
    scores = ranking.scores + noise * np.random.default_rng(seed).normal(0, 1, len(ranking.scores))
    return Ranking(ranking.is_case, scores, ranking.patients)


@pytest.mark.parametrize("images_each", [1, 3])
def test_the_variance_of_a_difference_is_that_of_all_pairs(images_each):
    one = drawn(30, images_each)
    other = second(one, 5)
    expected = (
        variance_by_definition(one, one) + variance_by_definition(other, other) - 2 * variance_by_definition(one, other)
    )
    found = one.compared(other)
    assert found.variance == pytest.approx(expected)
    difference = one.estimate().value - other.estimate().value
    assert found.p == pytest.approx(math.erfc(abs(difference) / math.sqrt(2 * expected)))


@pytest.mark.parametrize("images_each", [1, 4])
def test_equally_good_models_differ_significantly_in_five_percent_of_samples(images_each):
    pairs = [drawn(40, images_each, seed=seed) for seed in range(600)]
    p_values = [second(one, seed + 10_000).compared(second(one, seed + 20_000)).p for seed, one in enumerate(pairs)]
    assert 0.03 <= np.mean(np.array(p_values) < 0.05) <= 0.075


def test_a_model_compared_with_itself_has_p_1():
    one = drawn(20, 1)
    assert one.compared(one).p == 1.0


def test_pairs_within_folds_are_counted_by_their_definition():
    ranking = drawn(30, 2, decimals=1)
    folds = {patient: number % 3 for number, patient in enumerate(dict.fromkeys(ranking.patients))}
    member = [folds[patient] for patient in ranking.patients]
    pairs = [
        kernel(ranking.scores[i], ranking.scores[j])
        for i, j in itertools.product(range(60), repeat=2)
        if ranking.is_case[i] and not ranking.is_case[j] and member[i] == member[j]
    ]
    assert ranking.within(folds) == pytest.approx(np.mean(pairs))
    assert ranking.within(dict.fromkeys(ranking.patients, 0)) == pytest.approx(ranking.estimate().value)


def test_other_scales_of_models_lower_auroc_of_all_pairs_and_not_within_folds():
    ranking = drawn(60, 1)
    folds = {patient: number % 2 for number, patient in enumerate(ranking.patients)}
    moved = ranking.scores + 3.0 * np.array([folds[patient] for patient in ranking.patients])
    other = Ranking(ranking.is_case, moved, ranking.patients)
    assert other.within(folds) == pytest.approx(ranking.within(folds))
    assert other.estimate().value < ranking.estimate().value - 0.05
    assert math.isnan(ranking.within({patient: patient for patient in ranking.patients}))
