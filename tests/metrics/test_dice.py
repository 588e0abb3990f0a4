"""Dice equals its definition and MONAI's, from masks and from counts."""

import math

import numpy as np
import pytest
import torch
from monai.metrics import compute_dice
from torch.nn import functional as F

from medvit.metrics.dice import dice, dice_from_counts, mean_dice, overlaps

CLASSES = 3


def label_maps(number=6):
    generator = torch.Generator().manual_seed(0)
    truth, found = torch.randint(0, CLASSES, (2, number, 5, 6, 4), generator=generator)
    truth[0][truth[0] == 2] = 0  # missing in the truth
    truth[1][truth[1] == 2] = 0  # missing in both
    found[1][found[1] == 2] = 0
    return truth, found


def test_dice_is_twice_the_overlap_over_the_sum():
    true, given = np.zeros(10, bool), np.zeros(10, bool)
    true[:4], given[2:8] = True, True
    assert dice(true, given) == 2 * 2 / (4 + 6)


def test_dice_of_two_empty_masks_is_undefined_and_of_one_is_zero():
    empty, full = np.zeros(4, bool), np.ones(4, bool)
    assert math.isnan(dice(empty, empty))
    assert dice(empty, full) == dice(full, empty) == 0.0


def test_dice_of_counts_is_that_of_masks_in_numpy_and_torch():
    truth, found = label_maps()
    counts = overlaps(truth, found, CLASSES)
    pairs = list(zip(truth.numpy(), found.numpy(), strict=True))
    of_masks = [[dice(true == k, given == k) for k in range(1, CLASSES)] for true, given in pairs]
    np.testing.assert_array_equal(dice_from_counts(*counts.double().numpy().swapaxes(0, 1)), of_masks)
    np.testing.assert_allclose(dice_from_counts(*counts.unbind(dim=1)), of_masks, rtol=1e-6)


def test_dice_is_that_of_monai():
    truth, found = label_maps()
    one_hot = [F.one_hot(maps, CLASSES).movedim(-1, 1) for maps in (found, truth)]
    theirs = compute_dice(*one_hot, include_background=False)
    ours = dice_from_counts(*overlaps(truth, found, CLASSES).unbind(dim=1))
    ours[0, 1] = theirs[0, 1]  # Dice of MONAI is undefined wherever the truth is empty
    torch.testing.assert_close(ours, theirs, equal_nan=True)
    assert math.isnan(ours[1, 1])


def test_mean_dice_skips_a_class_that_neither_mask_has():
    intersection, total = np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([[2.0, 0.0], [3.0, 8.0]])
    assert mean_dice(intersection, total) == pytest.approx((1.0 + 0.0 + 0.5) / 3)
    assert mean_dice(torch.from_numpy(intersection), torch.from_numpy(total)) == pytest.approx(0.5)
    assert math.isnan(mean_dice(np.zeros((2, 2)), np.zeros((2, 2))))
