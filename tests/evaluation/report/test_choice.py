"""The cases of a report are the worst errors, then a median and a best case, each image once."""

from __future__ import annotations

import numpy as np

from medvit.evaluation.report.choice import choose_cases
from medvit.evaluation.tasks.classification import evaluate_classes
from medvit.evaluation.tasks.regression import evaluate_values
from medvit.evaluation.tasks.segmentation import evaluate_masks, score_case
from medvit.records import Row


def rows(count: int) -> list[Row]:
    return [
        Row(f"i{n}", f"p{n}", f"i{n}", f"i{n}", "US", "image", "d", "test", (1, 8, 8), "int16", "0")
        for n in range(count)
    ]


def two_classes(truth: list[int], probability: list[float]):
    return evaluate_classes(
        rows(len(truth)),
        np.array(truth),
        np.stack([1 - np.array(probability), np.array(probability)], axis=1),
        ("benign", "malignant"),
        resamples=100,
        seed=0,
    )


def test_false_negatives_come_before_false_positives_and_the_most_confident_first() -> None:
    found = choose_cases(two_classes([1, 1, 1, 0, 0, 0], [0.4, 0.1, 0.9, 0.6, 0.8, 0.2]), 6)
    assert [(one.row.image_id, one.kind) for one in found] == [
        ("i1", "false negative"),
        ("i0", "false negative"),
        ("i4", "false positive"),
        ("i3", "false positive"),
        ("i2", "best"),
    ]
    assert found[0].truth == "malignant"
    assert found[0].prediction == "benign (0.900)"


def test_false_negatives_with_the_largest_lesion_come_first() -> None:
    evaluation = two_classes([1, 1, 0], [0.4, 0.1, 0.2])
    found = choose_cases(evaluation, 6, lambda row: {"i0": 900.0}.get(row.image_id, 1.0))
    assert [one.row.image_id for one in found][:2] == ["i0", "i1"]


def test_false_negatives_leave_unused_places_to_false_positives() -> None:
    truth, probability = [1] + [0] * 9, [0.1] + [0.9] * 9
    kinds = [one.kind for one in choose_cases(two_classes(truth, probability), 6)]
    assert kinds[:4] == ["false negative"] + ["false positive"] * 3
    assert len(kinds) <= 6


def test_no_image_is_shown_twice_and_a_limit_holds() -> None:
    generator = np.random.default_rng(0)
    evaluation = two_classes(list(generator.integers(0, 2, 50)), list(generator.uniform(0, 1, 50)))
    for limit in (1, 2, 3, 7, 100):
        shown = [one.row.image_id for one in choose_cases(evaluation, limit)]
        assert len(shown) == len(set(shown))
        assert 1 <= len(shown) <= limit


def test_missed_structures_come_by_size_then_invented_ones_then_low_dice() -> None:
    def block(size: int, shift: int = 0) -> np.ndarray:
        mask = np.zeros((16, 16), np.uint8)
        mask[shift : shift + size, :size] = 1
        return mask

    pairs = [(2, 0, 0), (5, 0, 0), (0, 3, 0), (6, 6, 3), (6, 6, 1), (6, 6, 0)]
    scores = [
        score_case(block(true), block(given, shift), ("b", "lesion"), (1.0, 1.0), tolerance_mm=1, unit="px")
        for true, given, shift in pairs
    ]
    found = choose_cases(evaluate_masks(rows(6), scores, ("b", "lesion"), resamples=100, seed=0), 12)
    kinds = [(one.row.image_id, one.kind) for one in found]
    assert kinds[:3] == [
        ("i1", "false negative: lesion"),
        ("i0", "false negative: lesion"),
        ("i2", "false positive: lesion"),
    ]
    assert kinds[-1] == ("i5", "best")
    assert found[0].truth == "lesion 25 px"


def test_numbers_with_the_largest_error_come_first() -> None:
    truth, predicted = np.array([10.0, 20.0, 30.0, 40.0]), np.array([11.0, 12.0, 30.5, 40.0])
    found = choose_cases(evaluate_values(rows(4), truth, predicted, "age", resamples=100, seed=0), 6)
    assert [(one.row.image_id, one.kind) for one in found][:2] == [("i1", "too low"), ("i0", "too high")]
    assert found[0].score == "error -8"
