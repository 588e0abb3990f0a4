"""Shape measures of boxes and balls, whose size, surface and extents are known."""

from __future__ import annotations

import numpy as np
import pytest

from medvit.baselines.shape import shape_measures


def test_the_measures_of_a_box_are_exact() -> None:
    shape = np.zeros((12, 12, 12), dtype=bool)
    shape[2:4, 1:4, 3:8] = True
    size, surface, compactness, *extents, fill, first, second, third = shape_measures(shape)
    assert (size, surface, fill) == (30, 2 * (6 + 10 + 15), 1.0)
    assert extents == [2, 3, 5]
    assert compactness == pytest.approx(30 ** (2 / 3) / 62)
    assert [first, second, third] == pytest.approx([np.std(range(n)) for n in (2, 3, 5)])


def test_a_ball_is_more_compact_than_a_rod_of_the_same_size() -> None:
    grid = np.stack(np.meshgrid(*[np.arange(-10, 11)] * 3, indexing="ij"))
    ball = (grid**2).sum(axis=0) <= 36
    rod = np.zeros((int(ball.sum()), 3, 3), dtype=bool)
    rod[:, 1, 1] = True
    assert shape_measures(ball)[2] > 2 * shape_measures(rod)[2]


def test_measures_do_not_depend_on_position_or_orientation() -> None:
    shape = np.random.default_rng(0).random((6, 7)) > 0.5
    moved = np.pad(np.rot90(shape), ((2, 5), (1, 0)))
    np.testing.assert_allclose(shape_measures(shape), shape_measures(moved))


def test_an_empty_shape_has_zeros() -> None:
    assert not shape_measures(np.zeros((4, 4, 4), dtype=bool)).any()
