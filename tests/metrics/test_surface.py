"""HD95 and NSD equal their definitions, in the unit of the spacing."""

import math

import numpy as np
import pytest
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from scipy.ndimage import binary_erosion
from scipy.spatial.distance import cdist

from medvit.metrics.hd95 import hd95
from medvit.metrics.nsd import nsd

SPACING_MM = (0.8, 1.0, 2.5)


def ball(center, radius_mm, shape=(24, 24, 14)):
    distance = np.linalg.norm((np.indices(shape).T - center) * SPACING_MM, axis=-1).T
    return distance < radius_mm


def edge_points_mm(mask):
    return np.argwhere(mask & ~binary_erosion(mask)) * SPACING_MM


def test_hd95_is_the_larger_of_the_two_directed_percentiles_of_edge_distances():
    truth, found = ball((12, 12, 7), 6), ball((14, 11, 7), 5)
    distances = cdist(edge_points_mm(truth), edge_points_mm(found))
    by_hand = max(np.percentile(distances.min(axis=0), 95), np.percentile(distances.min(axis=1), 95))
    assert hd95(truth, found, SPACING_MM) == pytest.approx(by_hand, abs=1e-4)  # mm


def test_a_shift_by_one_slice_is_its_thickness_in_mm():
    truth = ball((12, 12, 6), 6)
    assert hd95(truth, np.roll(truth, 1, axis=2), SPACING_MM) == pytest.approx(2.5)


def test_surfaces_within_the_tolerance_count_as_one():
    truth = ball((12, 12, 7), 6)
    shifted = np.roll(truth, 1, axis=0)  # 0.8 mm
    assert nsd(truth, shifted, SPACING_MM, 1.0) == pytest.approx(1.0)
    assert nsd(truth, shifted, SPACING_MM, 0.5) < 1.0


def test_masks_that_touch_the_border_are_measured_like_others():
    inside = hd95(ball((12, 12, 7), 6), ball((12, 13, 7), 6), SPACING_MM)
    assert hd95(ball((0, 12, 7), 6), ball((0, 13, 7), 6), SPACING_MM) == pytest.approx(inside, abs=0.3)  # mm


def test_nsd_is_the_share_of_both_surfaces_within_the_tolerance_of_the_other():
    truth, found = ball((12, 12, 7), 6), ball((14, 11, 7), 5)
    distances = cdist(edge_points_mm(truth), edge_points_mm(found))
    near = (distances.min(axis=0) <= 1.7).sum() + (distances.min(axis=1) <= 1.7).sum()
    assert nsd(truth, found, SPACING_MM, 1.7) == pytest.approx(near / sum(distances.shape))


def test_distances_in_the_box_around_the_masks_are_those_in_the_whole_image():
    truth, found = ball((6, 12, 4), 5), ball((9, 13, 5), 4)
    given, true = (torch.from_numpy(mask[None, None].astype(np.float32)) for mask in (found, truth))
    options = {"include_background": True, "spacing": list(SPACING_MM)}
    whole = compute_hausdorff_distance(given, true, percentile=95, **options)
    assert hd95(truth, found, SPACING_MM) == pytest.approx(float(whole), abs=1e-5)  # mm
    share = compute_surface_dice(given, true, [1.5], **options)
    assert nsd(truth, found, SPACING_MM, 1.5) == pytest.approx(float(share), abs=1e-6)


def test_a_missed_mask_costs_the_diagonal_of_the_image_and_two_empty_ones_cost_nothing():
    truth, empty = ball((12, 12, 7), 6), np.zeros((24, 24, 14), bool)
    for true, given in ((truth, empty), (empty, truth)):
        assert hd95(true, given, SPACING_MM) == pytest.approx(np.linalg.norm(np.array((24, 24, 14)) * SPACING_MM))
        assert nsd(true, given, SPACING_MM, 1.0) == 0.0
    assert math.isnan(hd95(empty, empty, SPACING_MM))
    assert math.isnan(nsd(empty, empty, SPACING_MM, 1.0))
