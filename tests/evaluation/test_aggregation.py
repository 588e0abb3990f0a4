"""By eye, visit and patient, and by strata: documented functions, and parts that add up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy import ndarray as Array

from medvit.errors import ConfigError
from medvit.evaluation.aggregation import (
    LEVELS,
    Answers,
    answers,
    are_ordered,
    at_level,
    breakdowns,
    ranks,
    uncertainty,
)
from medvit.evaluation.report.page import ReportSubject, write_report
from medvit.evaluation.tasks.classification import evaluate_classes
from medvit.records import Row

GRADES = ("0", "1", "2", "3")


def row(image: str, patient: str, study: str, side: str = "", quality: str = "") -> Row:
    attributes = {"laterality": side, "fundus_quality": quality}
    return Row(
        image_id=image,
        patient_id=patient,
        study_id=study,
        series_id="e",
        modality="OP",
        kind="image",
        dataset="toy",
        split="test",
        shape=(3, 4, 4),
        dtype="uint8",
        sha256="",
        attributes={key: value for key, value in attributes.items() if value},
    )


def made(rows: Sequence[Row], truth: Sequence[int], scores: Sequence[float], classes: int = 2) -> Answers:
    """Probabilities that put `scores` on the last class and the rest on the first."""
    probabilities = np.zeros((len(rows), classes))
    probabilities[:, -1] = scores
    probabilities[:, 0] = 1 - np.array(scores)
    return answers(rows, np.array(truth), probabilities)


ONE = [
    row("a", "p", "s1", "right"),
    row("b", "p", "s1", "right"),
    row("c", "p", "s1", "left"),
    row("d", "p", "s2", "left"),
    row("e", "q", "s3", "left"),
]


def scores(images: Answers, level: str, is_ordered: bool = True) -> Array:
    return at_level(images, level, is_ordered=is_ordered).probabilities[:, -1]  # type: ignore[arg-type]


def test_an_eye_is_the_mean_of_its_images_and_all_else_the_worst_eye() -> None:
    images = made(ONE, [0, 1, 0, 0, 0], [0.2, 0.4, 0.1, 0.25, 0.6])
    assert scores(images, "image") == pytest.approx([0.2, 0.4, 0.1, 0.25, 0.6])
    assert scores(images, "eye") == pytest.approx([0.3, 0.1, 0.25, 0.6])
    assert scores(images, "visit") == pytest.approx([0.3, 0.25, 0.6])
    assert scores(images, "patient") == pytest.approx([0.3, 0.6])
    assert at_level(images, "patient", is_ordered=True).truth.tolist() == [1, 0]


def test_the_score_of_a_patient_comes_from_both_eyes() -> None:
    """Whichever eye is worse decides; making the other one better changes nothing."""
    pair = [row("a", "p", "s", "right"), row("b", "p", "s", "left")]
    assert scores(made(pair, [0, 1], [0.2, 0.7]), "patient") == pytest.approx([0.7])
    assert scores(made(pair, [1, 0], [0.9, 0.7]), "patient") == pytest.approx([0.9])
    assert scores(made(pair, [1, 0], [0.1, 0.7]), "patient") == pytest.approx([0.7])


def test_of_grades_the_eye_with_the_highest_expected_grade_is_the_worst() -> None:
    pair = [row("a", "p", "s", "right"), row("b", "p", "s", "left")]
    sure, torn = [0.0, 0.0, 1.0, 0.0], [0.5, 0.0, 0.1, 0.4]
    images = answers(pair, np.array([2, 3]), np.array([sure, torn]))
    patient = at_level(images, "patient", is_ordered=are_ordered(GRADES))
    assert patient.probabilities.tolist() == [sure]
    assert patient.truth.tolist() == [3]


def test_classes_without_an_order_are_averaged_and_must_agree() -> None:
    assert not are_ordered(("glaucoma", "healthy", "other"))
    images = made(ONE, [0, 0, 0, 1, 2], [0.2, 0.4, 0.1, 0.25, 0.6], classes=3)
    assert scores(images, "eye", is_ordered=False) == pytest.approx([0.3, 0.1, 0.25, 0.6])
    assert scores(images, "visit", is_ordered=False) == pytest.approx([0.2, 0.25, 0.6])
    assert scores(images, "patient", is_ordered=False) == pytest.approx([0.6])  # the visits of p differ


def test_an_order_says_which_class_is_the_worst() -> None:
    pair = [row("a", "p", "s", "right"), row("b", "p", "s", "left")]
    images = answers(pair, np.array([1, 0]), np.array([[0.1, 0.9], [0.8, 0.2]]))
    classes = ("severe", "mild")
    patient = at_level(images, "patient", is_ordered=True, rank=ranks(classes, ("mild", "severe")))
    assert patient.truth.tolist() == [0]
    assert patient.probabilities.tolist() == [[0.8, 0.2]]
    with pytest.raises(ConfigError, match="expected each of severe, mild once, the worst last"):
        ranks(classes, ("mild", "moderate"))


def test_an_image_without_a_side_is_an_eye_of_its_own() -> None:
    images = made([row("a", "p", "s"), row("b", "p", "s")], [0, 1], [0.1, 0.9])
    assert len(at_level(images, "eye", is_ordered=True)) == 2
    assert len(at_level(images, "patient", is_ordered=True)) == 1


def test_the_parts_of_a_breakdown_add_up() -> None:
    draw = np.random.default_rng(0)
    rows = [
        row(f"i{n}", f"p{n // 4}", f"s{n // 4}", ("right", "left")[n % 2], ("0.9", "0.6", "0.1", "")[n % 4])
        for n in range(80)
    ]
    images = made(rows, draw.integers(0, 2, 80).tolist(), draw.random(80).tolist())
    found = {one.title: one for one in breakdowns(rows, images, ("no", "yes"), LEVELS, resamples=100, seed=0)}
    assert list(found) == ["By level", "By quality", "By uncertainty"]
    assert [line.num_items for line in found["By level"].lines] == [80, 40, 20, 20]
    assert {line.name: line.num_items for line in found["By quality"].lines} == dict.fromkeys(
        ("good", "usable", "poor", "not judged"), 20
    )
    assert sum(line.num_items for line in found["By uncertainty"].lines) == 80
    for line in found["By level"].lines:
        estimate = line.metrics["auroc"]
        assert estimate.low <= estimate.value <= estimate.high


def test_uncertainty_is_one_where_nothing_is_known_and_zero_where_all_is() -> None:
    assert uncertainty(np.array([[0.5, 0.5], [1.0, 0.0], [0.9, 0.1]])) == pytest.approx([1.0, 0.0, 0.469], abs=1e-3)


def test_a_certain_model_that_is_right_has_its_errors_in_the_last_third() -> None:
    truth = [0, 1] * 15
    sure = [0.01 if t == 0 else 0.99 for t in truth[:20]] + [0.6 if t == 0 else 0.4 for t in truth[20:]]
    rows = [row(f"i{n}", f"p{n}", f"s{n}", "right") for n in range(30)]
    found = breakdowns(rows, made(rows, truth, sure), ("no", "yes"), LEVELS, resamples=100, seed=0)
    accuracies = [line.metrics["accuracy"].value for line in found[-1].lines]
    assert accuracies == [1.0, 1.0, 0.0]


def test_levels_stand_in_the_report(tmp_path: Path) -> None:
    rows = [row(f"i{n}", f"p{n // 2}", f"s{n // 2}", ("right", "left")[n % 2], "0.9") for n in range(12)]
    images = made(rows, [0, 1, 1, 0, 0, 1] * 2, np.linspace(0.1, 0.9, 12).tolist())
    classes = ("no", "yes")
    whole = evaluate_classes(rows, images.truth, images.probabilities, classes, resamples=100, seed=0)
    parts = breakdowns(rows, images, classes, LEVELS, resamples=100, seed=0)
    write_report(tmp_path, ReportSubject("x", {}), replace(whole, breakdowns=parts))
    breakdown = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))["breakdowns"]["By level"]
    assert [(line["name"], line["items"]) for line in breakdown] == [
        ("image", 12),
        ("eye", 12),
        ("visit", 6),
        ("patient", 6),
    ]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "By level" in page
    assert "worst eye" in page
