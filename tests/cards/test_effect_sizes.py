"""Effect sizes equal their formulas, and intervals resample patients."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats.contingency import association

from medvit.cards.effect_sizes import Observed, categorical_effect_size, numeric_effect_size


def each_its_own(values: list[float] | list[str]) -> Observed:
    return Observed(values, range(len(values)))


def drawn(mean: float, count: int = 400, seed: int = 0) -> Observed:
    return each_its_own(np.random.default_rng(seed).normal(mean, 2.0, count).tolist())


def test_the_mean_difference_is_in_standard_deviations() -> None:
    a, b = drawn(10.0), drawn(12.0, seed=1)
    one, other = np.array(a.values), np.array(b.values)
    expected = (other.mean() - one.mean()) / np.sqrt((one.var(ddof=1) + other.var(ddof=1)) / 2)
    shift = numeric_effect_size(a, b)
    assert shift.effect == pytest.approx(expected, rel=1e-9)
    assert shift.low < 1.0 < shift.high
    assert shift.wasserstein == pytest.approx(2.0, abs=0.4)
    assert shift.size == "large"
    assert numeric_effect_size(b, a).effect == pytest.approx(-expected)


def test_equal_samples_do_not_differ() -> None:
    shift = numeric_effect_size(drawn(5.0), drawn(5.0))
    assert (shift.effect, shift.ks, shift.wasserstein, shift.size) == (0.0, 0.0, 0.0, "none")
    assert shift.low < 0 < shift.high


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    covered = 0
    for trial in range(100):
        shift = numeric_effect_size(drawn(0.0, 60, seed=2 * trial), drawn(1.0, 60, seed=2 * trial + 1), seed=trial)
        covered += shift.low <= 0.5 <= shift.high
    assert 88 <= covered <= 100  # of 100 intervals of 95 %


def test_many_images_of_few_patients_make_the_interval_wide() -> None:
    values = np.repeat(np.random.default_rng(0).normal(0, 1, 10), 30).tolist()
    patients = np.repeat(np.arange(10), 30).tolist()
    other = drawn(0.0)
    honest, naive = (
        numeric_effect_size(Observed(values, patients), other),
        numeric_effect_size(each_its_own(values), other),
    )
    assert honest.effect == pytest.approx(naive.effect)
    assert honest.high - honest.low > 2 * (naive.high - naive.low)


@pytest.mark.parametrize(("a", "b", "size"), [(1.0, 1.0, "none"), (1.0, 0.5, "large"), (0.7, 0.7 + 1e-15, "none")])
def test_numbers_that_do_not_vary_are_told_by_their_distribution(a: float, b: float, size: str) -> None:
    shift = numeric_effect_size(each_its_own([a] * 5), each_its_own([b] * 4))
    assert np.isfinite(shift.effect) == (size == "none")
    if size == "large":
        assert (shift.ks, shift.size) == (1.0, "large")


def test_cramers_v_is_that_of_the_table_corrected_for_bias() -> None:
    a, b = ["x"] * 60 + ["y"] * 40, ["x"] * 30 + ["y"] * 50 + ["z"] * 20
    table = np.array([[60, 40, 0], [30, 50, 20]])
    plain = association(table, method="cramer")
    phi = plain**2 - 2 / 199
    expected = np.sqrt(phi / (min(2 - 1 / 199, 3 - 4 / 199) - 1))
    shift = categorical_effect_size(each_its_own(a), each_its_own(b))
    assert shift.effect == pytest.approx(expected, rel=1e-9)
    assert shift.low < shift.effect < shift.high
    assert shift.size == "medium"


def test_equal_shares_and_a_single_name_have_no_association() -> None:
    same = each_its_own(["x", "y"] * 50)
    assert categorical_effect_size(same, same).effect == 0.0
    assert categorical_effect_size(each_its_own(["x"] * 5), each_its_own(["x"] * 9)).effect == 0.0


def test_names_that_never_meet_are_fully_associated() -> None:
    shift = categorical_effect_size(each_its_own(["x"] * 50), each_its_own(["y"] * 50))
    assert shift.effect == pytest.approx(1.0, abs=0.02)
    assert shift.size == "large"


def test_the_same_seed_gives_the_same_interval() -> None:
    assert numeric_effect_size(drawn(1), drawn(2), seed=3) == numeric_effect_size(drawn(1), drawn(2), seed=3)
