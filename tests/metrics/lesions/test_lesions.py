"""Lesions are connected components, and are counted by the rules of ISLES 2022."""

from __future__ import annotations

import math
from collections import deque
from itertools import product

import numpy as np
import pytest

from medvit.metrics import MaskMetric, MaskPair, keys_of, metrics
from medvit.metrics._components import LesionCounts, count_lesions

METRICS = {one.name: one for one in metrics(MaskMetric)}


def flooded(mask: np.ndarray) -> list[set[tuple[int, ...]]]:
    """Return the voxels of each component by flooding from voxel to voxel, also across edges and corners."""
    left = {tuple(map(int, place)) for place in np.argwhere(mask)}
    steps = [step for step in product((-1, 0, 1), repeat=mask.ndim) if any(step)]
    found = []
    while left:
        component, queue = set(), deque([left.pop()])
        while queue:
            place = queue.popleft()
            component.add(place)
            near = {tuple(a + b for a, b in zip(place, step, strict=True)) for step in steps} & left
            left -= near
            queue.extend(near)
        found.append(component)
    return found


@pytest.mark.parametrize("shape", [(24, 24), (9, 9, 9)])
@pytest.mark.parametrize("seed", range(5))
def test_counts_are_those_of_flooding(shape: tuple[int, ...], seed: int) -> None:
    generator = np.random.default_rng(seed)
    true, given = (generator.random(shape) < 0.06 for _ in "12")
    of_true, of_given = flooded(true), flooded(given)
    found = sum(any(given[place] for place in lesion) for lesion in of_true)
    false = sum(not any(true[place] for place in lesion) for lesion in of_given)
    assert count_lesions(true, given) == LesionCounts(found=found, missed=len(of_true) - found, false=false)


def masks(*blocks: tuple[int, int]) -> np.ndarray:
    """Return a row of pixels with one lesion from start to stop for each block."""
    row = np.zeros((1, 30), bool)
    for start, stop in blocks:
        row[0, start:stop] = True
    return row


def scores(true: np.ndarray, given: np.ndarray) -> dict[str, float]:
    pair = MaskPair(true, given, (1.0, 1.0), 1.0)
    return {name: METRICS[name].compute(pair) for name in ("lesion_f1", "lesion_sensitivity", "false_lesions")}


def test_one_pixel_of_overlap_finds_a_lesion() -> None:
    found = scores(masks((2, 6), (10, 14), (20, 22)), masks((5, 9), (13, 15), (26, 28)))
    assert found == {"lesion_f1": 2 * 2 / (2 * 2 + 1 + 1), "lesion_sensitivity": 2 / 3, "false_lesions": 1.0}


def test_one_prediction_over_two_lesions_finds_both_and_is_not_false() -> None:
    assert scores(masks((2, 6), (10, 14)), masks((1, 15))) == {
        "lesion_f1": 1.0,
        "lesion_sensitivity": 1.0,
        "false_lesions": 0.0,
    }


def test_an_image_without_lesions_counts_for_false_positives_alone() -> None:
    empty = masks()
    found = scores(empty, empty)
    assert math.isnan(found["lesion_f1"])
    assert math.isnan(found["lesion_sensitivity"])
    assert found["false_lesions"] == 0.0
    assert scores(empty, masks((3, 5), (8, 9))) | {"lesion_sensitivity": 0.0} == {
        "lesion_f1": 0.0,
        "lesion_sensitivity": 0.0,
        "false_lesions": 2.0,
    }


def test_lesion_metrics_are_part_of_every_segmentation_report() -> None:
    assert {"lesion_f1", "lesion_sensitivity", "false_lesions"} <= keys_of(MaskMetric)
