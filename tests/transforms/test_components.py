"""Only the largest component of a class is kept, and other classes are unchanged."""

import numpy as np
import pytest

from medvit.transforms.components import keep_largest


@pytest.mark.parametrize("ndim", [2, 3])
def test_smaller_components_of_the_named_classes_become_background(ndim):
    mask = np.zeros((8,) * ndim, np.uint8)
    mask[1:4, 1:4], mask[6, 6] = 1, 1
    mask[1:3, 6:8], mask[6, 1] = 2, 2
    found = keep_largest(mask, [1])
    expected = mask.copy()
    expected[6, 6] = 0
    assert np.array_equal(found, expected)
    assert mask[6, 6].all()  # the given mask is not changed


def test_components_that_touch_at_a_corner_are_two():
    mask = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]])
    assert keep_largest(mask, [1]).sum() == 4


def test_one_component_and_an_absent_class_are_kept_as_they_are():
    mask = np.array([[0, 1], [0, 1]])
    assert np.array_equal(keep_largest(mask, [1, 2]), mask)
