"""Metrics of a group are those of an evaluation of this group; gaps find a planted weak group, and rarely others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy import ndarray as Array

from medvit.evaluation import Evaluation
from medvit.evaluation.subgroups import SubgroupAnalysis
from medvit.evaluation.subgroups.analysis import with_subgroups
from medvit.evaluation.subgroups.findings import findings, p_value
from medvit.evaluation.tasks.classification import evaluate_classes
from medvit.evaluation.tasks.multilabel import evaluate_labels
from medvit.evaluation.tasks.regression import evaluate_values
from medvit.evaluation.tasks.segmentation import evaluate_masks, score_case
from medvit.evaluation.tasks.survival import evaluate_survival
from medvit.records import Row
from medvit.statistics import Estimate

HOW = {"resamples": 200, "seed": 0}
SCANNERS = ("A", "B", "C")


def rows_of(scanners: Sequence[str], images_per_patient: int = 1) -> list[Row]:
    return [
        Row(
            image_id=f"i{n:04d}",
            patient_id=f"p{n // images_per_patient}",
            study_id=f"s{n}",
            series_id=f"e{n}",
            modality="MR",
            kind="image",
            dataset="d",
            split="test",
            shape=(1, 8, 8),
            dtype="uint8",
            sha256="0",
            attributes={"model": name, "side": "LR"[n % 2]} if name else {},
        )
        for n, name in enumerate(scanners)
    ]


def classified(scanners: Sequence[str], *, weak: str = "", seed: int = 0, images_per_patient: int = 1) -> Evaluation:
    """Two classes; the scores of images of the weak scanner are random."""
    draw = np.random.default_rng(seed)
    truth = draw.integers(0, 2, len(scanners))
    strength = np.where(np.array(scanners) == weak, 0.0, 2.0)
    positive = 1 / (1 + np.exp(-(strength * (truth - 0.5) + draw.normal(size=len(truth)))))
    rows = rows_of(scanners, images_per_patient)
    return evaluate_classes(rows, truth, np.stack([1 - positive, positive], axis=1), ("no", "yes"), **HOW)


def analysis_of(evaluation: Evaluation, *names: str) -> SubgroupAnalysis:
    (found,) = with_subgroups(evaluation, names, **HOW).subgroups
    return found


def part_of(evaluation: Evaluation, those: Array) -> Evaluation:
    rows = [evaluation.rows[index] for index in those]
    return evaluate_classes(rows, evaluation.truth[those], evaluation.probabilities[those], evaluation.classes, **HOW)


def test_a_group_has_the_numbers_of_an_evaluation_of_its_images() -> None:
    evaluation = classified(SCANNERS * 40, images_per_patient=2)
    for group in analysis_of(evaluation, "model").groups:
        those = np.flatnonzero([row.attributes["model"] == group.name for row in evaluation.rows])
        expected = part_of(evaluation, those).metrics
        assert {key: str(expected[key]) for key in group.metrics} == {k: str(e) for k, e in group.metrics.items()}
        assert group.num_items == len(those)
        assert group.num_positives == evaluation.truth[those].sum()


def test_a_gap_is_the_metric_of_the_group_minus_that_of_the_rest() -> None:
    evaluation = classified(SCANNERS * 40, weak="B")
    (group,) = (one for one in analysis_of(evaluation, "model").groups if one.name == "B")
    is_inside = np.array([row.attributes["model"] == "B" for row in evaluation.rows])
    group_and_rest = [part_of(evaluation, np.flatnonzero(those)).metrics for those in (is_inside, ~is_inside)]
    for key, gap in group.gaps.items():
        assert gap.value == pytest.approx(group_and_rest[0][key].value - group_and_rest[1][key].value)
        assert gap.low <= gap.value <= gap.high


def test_a_planted_weak_scanner_is_first_and_named_in_words() -> None:
    analysis = analysis_of(classified(SCANNERS * 60, weak="B"), "model", "side")
    assert str(analysis.groups[0]) == "model: B"
    assert analysis.groups[0].gaps["auroc"].high < 0
    text = " ".join(findings(analysis))
    assert "Largest gap: model: B. Its AUROC is" in text
    assert "remains significant after correction for 4 comparisons (Holm)" in text
    assert "about 0.2 of their 95 % intervals would exclude 0 by chance" in text
    assert "Number of comparisons: 4." in text


def test_without_a_weak_scanner_intervals_of_gaps_rarely_exclude_zero() -> None:
    """At most 7 of 60 intervals: with a rate of 5 %, more have a chance below 2 % (binomial)."""
    excluded = 0
    for seed in range(20):
        groups = analysis_of(classified(SCANNERS * 40, seed=seed), "model").groups
        excluded += sum(one.gaps["auroc"].low > 0 or one.gaps["auroc"].high < 0 for one in groups)
    assert excluded <= 7


def test_small_groups_are_marked_and_listed_last_even_with_the_largest_gap() -> None:
    evaluation = classified([*SCANNERS[:2] * 40, *"C" * 6], weak="C")
    analysis = analysis_of(evaluation, "model")
    last = analysis.groups[-1]
    assert (last.name, last.is_small) == ("C", True)
    assert "fewer than 20 patients" in last.doubts
    assert "1 of 3 groups (marked *) is too small for reliable numbers" in " ".join(findings(analysis))
    assert all(group.name != "C" for group in analysis.compared)


def test_unknown_values_are_a_group_and_an_attribute_with_one_value_is_not_compared() -> None:
    evaluation = classified(["A"] * 40 + [""] * 40)
    rows = [replace(row, attributes={**row.attributes, "sex": "F"}) for row in evaluation.rows]
    analysis = analysis_of(replace(evaluation, rows=tuple(rows)), "model", "sex")
    assert {group.name for group in analysis.groups} == {"A", "unknown"}
    assert analysis.alike == {"sex": "F"}
    assert len(analysis.compared) == 1  # each of two groups is the rest of the other


def test_a_metric_without_a_value_in_a_group_is_replaced_by_one_that_all_groups_have() -> None:
    draw = np.random.default_rng(0)
    truth = np.array([0, 1] * 30 + [0, 1, 2] * 20)
    rows = rows_of(["A"] * 60 + ["B"] * 60)
    three = evaluate_classes(rows, truth, draw.dirichlet(np.ones(3), 120), ("a", "b", "c"), **HOW)
    analysis = analysis_of(three, "model")
    assert analysis.main == "accuracy"
    assert "AUROC is undefined in a group, so groups are compared by Accuracy" in analysis.note
    assert all(np.isnan(group.metrics["auroc"].value) for group in analysis.groups if group.name == "A")


def test_a_group_that_is_compared_with_few_patients_is_marked() -> None:
    draw = np.random.default_rng(0)
    rows = rows_of(["A"] * 90 + ["B"] * 10)
    two = evaluate_classes(rows, np.array([0, 1] * 50), draw.dirichlet(np.ones(2), 100), ("a", "b"), **HOW)
    doubts = {group.name: group.doubts for group in analysis_of(two, "model").groups}
    assert "fewer than 20 other patients" in doubts["A"]
    assert "fewer than 20 patients" in doubts["B"]
    assert analysis_of(two, "model").compared == ()


def of_kind(kind: str) -> Evaluation:
    """90 images, of which those of scanner B are predicted worst."""
    draw, scanners = np.random.default_rng(1), SCANNERS * 30
    rows, noise = rows_of(scanners), np.where(np.array(scanners) == "B", 5.0, 0.3)
    truth = draw.normal(size=90) * 2
    guess = truth + noise * draw.normal(size=90)
    if kind == "regression":
        return evaluate_values(rows, truth, guess, "weight", **HOW)
    if kind == "ordinal":
        grades = np.clip(np.round(truth + 2), 0, 3).astype(int)
        near = np.exp(-((np.arange(4) - (guess[:, None] + 2)) ** 2))
        return evaluate_classes(
            rows, grades, near / near.sum(axis=1, keepdims=True), tuple("0123"), is_graded=True, **HOW
        )
    if kind == "multilabel":
        both = np.stack([truth > 0, truth > 1], axis=1).astype(float)
        given = 1 / (1 + np.exp(-(guess[:, None] - np.array([0.0, 1.0]))))
        return evaluate_labels(rows, both, given, ("a", "b"), **HOW)
    if kind == "survival":
        times = np.exp(truth / 2)
        curves = np.exp(-np.array([0.5, 1.0, 2.0]) / np.exp(guess / 2)[:, None])
        outcome = np.stack([times, draw.integers(0, 2, 90)], axis=1)
        names = ("days > 0.5", "days > 1", "days > 2")
        return evaluate_survival(rows, outcome, curves, names, horizons=(1.0,), **HOW)
    mask = np.zeros((12, 12), np.uint8)
    mask[3:8, 3:8] = 1
    scores = [
        score_case(mask, np.roll(mask, 4 if name == "B" else n % 2, 0), ("b", "organ"), (1, 1), tolerance_mm=1)
        for n, name in enumerate(scanners)
    ]
    return evaluate_masks(rows, scores, ("b", "organ"), **HOW)


@pytest.mark.parametrize(
    ("kind", "main"),
    [
        ("regression", "mae"),
        ("ordinal", "grade_error"),
        ("multilabel", "auroc_macro"),
        ("survival", "c_index"),
        ("segmentation", "dice"),
    ],
)
def test_every_task_ranks_its_weak_scanner_first(kind: str, main: str) -> None:
    evaluation = of_kind(kind)
    analysis = analysis_of(evaluation, "model")
    assert analysis.main == main
    assert analysis.groups[0].name == "B"
    assert "Largest gap: model: B" in findings(analysis)[0]
    whole = {key: evaluation.metrics[key].value for key in analysis.groups[0].metrics}
    assert all(np.isfinite(list(whole.values())))


def test_p_values_follow_the_interval() -> None:
    assert p_value(Estimate(1.96, 0.0, 3.92)) == pytest.approx(0.05, abs=1e-3)
    assert p_value(Estimate(0.0, -1.0, 1.0)) == pytest.approx(1.0)
