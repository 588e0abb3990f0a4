"""Fill values for voxels that were not measured."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvit.errors import UnsupportedError
from medvit.measured import ROUNDING, filled, measured, narrowed, not_measured, rounded


def holed(values: list[float], bad: float) -> np.ndarray:
    return np.array([*values, bad], np.float32)


def test_pixels_that_were_all_measured_are_not_copied() -> None:
    for pixels in (np.arange(5, dtype=np.int16), np.arange(5.0)):
        assert not_measured(pixels) is None
        assert filled(pixels) is pixels


@pytest.mark.parametrize(
    ("bad", "values", "expected"),
    [
        (np.nan, [-3.0, 5.0], 0.0),  # as SPM and FSL write zero
        (np.nan, [2.0, 5.0], 2.0),
        (np.nan, [-5.0, -2.0], -5.0),
        (np.inf, [-3.0, 5.0], 5.0),
        (-np.inf, [-3.0, 5.0], -3.0),
    ],
)
def test_what_is_not_finite_becomes_zero_or_an_end_of_the_finite_values(
    bad: float, values: list[float], expected: float
) -> None:
    assert filled(holed(values, bad)).tolist() == [*values, expected]
    assert measured(holed(values, bad)).tolist() == values


def test_zero_is_meant_in_the_unit_of_the_image() -> None:
    assert filled(holed([0.0, 2000.0], np.nan), slope=1.0, intercept=-1024.0)[-1] == 1024.0
    assert filled(holed([0.0, 2000.0], np.inf), slope=-1.0)[-1] == 2000.0  # the lowest intensity


def test_padding_becomes_the_lowest_measured_intensity() -> None:
    pixels = np.array([-2000, -1024, 40, -2000], np.int16)
    assert filled(pixels, (-2000, -2000)).tolist() == [-1024, -1024, 40, -1024]
    assert filled(pixels, (-2000, -2000), slope=-1.0).tolist() == [40, -1024, 40, 40]
    assert measured(pixels, (-2000, -1500)).tolist() == [-1024, 40]


def test_padding_and_nan_stand_beside_each_other() -> None:
    pixels = np.array([-9.0, np.nan, -1.0, 3.0], np.float32)
    assert not_measured(pixels, (-9.0, -9.0)).tolist() == [True, True, False, False]
    assert filled(pixels, (-9.0, -9.0)).tolist() == [-1.0, 0.0, -1.0, 3.0]


def test_an_image_of_which_nothing_was_measured_is_zero() -> None:
    assert filled(np.full(3, np.nan, np.float32)).tolist() == [0.0, 0.0, 0.0]
    assert filled(np.full(3, 7, np.int16), (7, 7)).tolist() == [0, 0, 0]


@given(st.lists(st.floats(), max_size=8))
def test_float64_is_stored_exactly_or_within_a_part_of_its_range_or_refused(values: list[float]) -> None:
    given = np.array(values, np.float64)
    try:
        made = narrowed(given)
    except UnsupportedError:
        return
    within = np.abs(given) <= np.finfo(np.float32).max
    assert made.dtype.itemsize <= 8
    assert np.array_equal(np.isnan(made), np.isnan(given))
    if within.any():
        error = np.abs(made[within].astype(np.float64) - given[within]).max()
        assert error <= ROUNDING * (np.ptp(given[within]) or np.abs(given[within]).max())


@pytest.mark.parametrize("highest", [2**24 + 1, 2**31 + 1, 2**40 + 1, -(2**33) - 1])
def test_whole_numbers_that_float32_would_change_stay_exact(highest: int) -> None:
    made = narrowed(np.array([0.0, 7.0, highest]))
    assert made.dtype.kind in "iu"
    assert made.tolist() == [0, 7, highest]
    with pytest.raises(UnsupportedError, match="which float32 would change, together with non-finite values"):
        narrowed(np.array([np.nan, highest]))


def test_small_differences_beside_a_large_offset_are_refused_and_a_constant_is_none() -> None:
    offset = 1e9 + np.linspace(0.1, 60.0, 50)
    for change in (narrowed, rounded):
        with pytest.raises(UnsupportedError, match=r"of which float32 would change by \d+; .*subtract their offset"):
            change(offset)
    assert narrowed(np.full(3, 1e9 + 0.1)).dtype == np.float32
    assert narrowed(np.array([0.1, 0.2])).dtype == np.float32


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64, np.uint8])
def test_what_is_no_float64_stays_as_it_is(dtype: type) -> None:
    pixels = np.array([0, 1, 100], dtype)
    assert narrowed(pixels) is pixels
