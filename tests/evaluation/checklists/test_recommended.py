"""Recommended metrics: only metrics of an evaluation count as reported, and the fingerprint follows the data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medvit.evaluation import Evaluation
from medvit.evaluation.checklists.recommended import ABSENT, REPORTED, recommended_parts
from medvit.metrics import metric_of
from medvit.statistics import Estimate

HALF = Estimate(0.5, 0.4, 0.6, "bootstrap")


def evaluation(
    kind: str, truth: list[int], metrics: tuple[str, ...], classes: tuple[str, ...] = ("a", "b")
) -> Evaluation:
    return Evaluation(kind, classes, (), dict.fromkeys(metrics, HALF), {"truth": np.array(truth, dtype=float)})


def numbers(made: Evaluation, parts: tuple[str, ...] = ()) -> dict:
    (part,) = recommended_parts(made, parts)
    return dict(part.numbers)


def test_only_metrics_and_parts_that_are_there_count_as_reported() -> None:
    made = evaluation("classification", [0, 1] * 10, ("auroc", "brier"))
    found = numbers(made)["metrics"]
    assert (found["AUROC"], found["Brier score"]) == (REPORTED, REPORTED)
    assert (found["Net benefit"], found["Expected calibration error"]) == (ABSENT, ABSENT)
    assert found["Matthews correlation coefficient"] == ABSENT
    assert numbers(made, ("decision_curve",))["metrics"]["Net benefit"] == REPORTED
    without = numbers(replace(made, metrics={}))["metrics"]
    assert set(without.values()) == {ABSENT}


def test_the_fingerprint_follows_the_data() -> None:
    balanced = numbers(evaluation("classification", [0, 1] * 10, ()))["problem"]
    rare = numbers(evaluation("classification", [0] * 30 + [1] * 10, ()))["problem"]
    assert balanced["balance"] == "most to least frequent class 1.0 to 1: balanced"
    assert rare["balance"] == "most to least frequent class 3.0 to 1: imbalanced"
    graded = replace(evaluation("classification", [0, 1, 2] * 4, (), ("0", "1", "2")), is_graded=True)
    assert numbers(graded)["problem"]["order"] == "ordered grades"
    assert "Weighted kappa" in numbers(graded)["metrics"]


def test_missing_structures_are_counted_over_images_with_a_known_truth() -> None:
    made = evaluation("segmentation", [], ("dice", "nsd"))
    columns = {"true_voxels.b": np.array([0.0, 5.0, 7.0, np.nan, 9.0])}
    problem = numbers(replace(made, columns=columns))["problem"]
    assert problem["empty reference"].startswith("25 %")


@pytest.mark.parametrize("kind", ["regression", "survival"])
def test_problems_that_are_not_covered_have_no_part(kind: str) -> None:
    assert recommended_parts(evaluation(kind, [0], ()), ()) == []


def test_the_keys_of_all_metrics_exist() -> None:
    parts = {"operating_points", "decision_curve"}
    keys = {key for one in all_recommended() for key in one.keys} - parts
    assert [key for key in sorted(keys) if metric_of(key) is None] == []


def all_recommended():
    from medvit.evaluation.checklists import recommended as room

    pools = (room.OF_CLASSES, room.OF_POSITIVES, room.OF_THRESHOLDS, room.OF_CALIBRATION, room.OF_PIXELS)
    return [room.OF_GRADES, *(one for pool in pools for one in pool)]
