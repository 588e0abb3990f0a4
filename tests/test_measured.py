"""What stands in for voxels that were not measured."""

from __future__ import annotations

import numpy as np
import pytest

from medvit.measured import filled, measured, not_measured


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
