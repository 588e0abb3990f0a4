"""Metrics of masks equal their definitions, in millimeters."""

import math

import numpy as np
import pytest

from medvit.evaluation.tasks.segmentation import counted_classes, evaluate_masks, score_case
from medvit.records import IGNORED, Row
from medvit.transforms.regions import Regions

CLASSES = ("background", "organ")
SPACING_MM = (0.8, 1.0, 2.5)


def score(truth, found, tolerance_mm=1.0):
    return score_case(truth, found, CLASSES, SPACING_MM, tolerance_mm=tolerance_mm)


def ball(center, radius_mm, shape=(24, 24, 14)):
    distance = np.linalg.norm((np.indices(shape).T - center) * SPACING_MM, axis=-1).T
    return (distance < radius_mm).astype(np.uint8)


def test_a_perfect_mask_has_dice_one_and_no_distance():
    truth = ball((12, 12, 7), 6)
    found = score(truth, truth)
    assert (found["dice.organ"], found["hd95_mm.organ"], found["nsd.organ"]) == (1.0, 0.0, 1.0)


def test_a_missed_organ_costs_the_diagonal_and_an_absent_one_costs_nothing():
    truth, empty = ball((12, 12, 7), 6), np.zeros((24, 24, 14), np.uint8)
    missed, absent = score(truth, empty), score(empty, empty)
    assert missed["dice.organ"] == 0.0
    assert missed["hd95_mm.organ"] == pytest.approx(np.linalg.norm(np.array((24, 24, 14)) * SPACING_MM))
    assert math.isnan(absent["dice.organ"])


def test_volumes_are_in_milliliters():
    truth = np.zeros((10, 10, 10), np.uint8)
    truth[:5, :5, :4] = 1
    assert score(truth, truth)["true_volume_ml.organ"] == pytest.approx(100 * 2.0 / 1000)


def test_images_without_the_organ_are_counted_and_do_not_count():
    truth, empty = ball((12, 12, 7), 6), np.zeros((24, 24, 14), np.uint8)
    rows = [
        Row(str(n), str(n), str(n), str(n), "CT", "volume", "d", "test", (1, 24, 24, 14), "int16", "0")
        for n in range(3)
    ]
    scores = [score(truth, truth), score(truth, truth), score(empty, empty)]
    evaluation = evaluate_masks(rows, scores, CLASSES, resamples=100, seed=0)
    assert evaluation.metrics["dice"].value == 1.0
    assert evaluation.notes == ("organ, in 1 of 3 images: absent from truth and prediction; does not count for it",)


def test_in_pixels_every_pixel_counts_as_one_and_nothing_is_called_mm():
    truth = np.zeros((12, 12), np.uint8)
    truth[3:8, 3:8] = 1
    scores = score_case(truth, np.roll(truth, 2, axis=0), CLASSES, (1.0, 1.0), tolerance_mm=1.0, unit="px")
    assert scores["hd95_px.organ"] == 2.0
    assert not [name for name in scores if "mm" in name or "ml" in name]


def test_volume_bias_is_the_mean_of_found_minus_true_in_milliliters():
    truth, found = ball((12, 12, 7), 6), ball((12, 12, 7), 4)
    rows = [Row("i", "p", "s", "e", "CT", "volume", "d", "test", (1, 24, 24, 14), "int16", "0")]
    evaluation = evaluate_masks(rows, [score(truth, found)], CLASSES, resamples=100, seed=0)
    expected = (int(found.sum()) - int(truth.sum())) * 0.8 * 1.0 * 2.5 / 1000
    assert evaluation.metrics["volume_bias_ml.organ"].value == pytest.approx(expected)


def test_what_is_missed_and_what_is_invented_is_counted():
    truth, empty = ball((12, 12, 7), 6), np.zeros((24, 24, 14), np.uint8)
    rows = [Row(str(n), str(n), "", "", "CT", "volume", "d", "test", (1, 24, 24, 14), "int16", "0") for n in range(2)]
    scores = [score(truth, empty), score(empty, truth)]
    notes = evaluate_masks(rows, scores, CLASSES, resamples=100, seed=0).notes
    assert [note.split(":")[1].split(";")[0] for note in notes] == [" missed completely", " predicted although absent"]


def test_pixels_that_do_not_count_change_no_score() -> None:
    truth, found = np.zeros((2, 16, 16), np.uint8)
    truth[2:6, 2:6], found[2:7, 2:6] = 1, 1
    scores = score_case(truth, found, ("background", "a"), (1.0, 1.0), tolerance_mm=1.0)
    truth[10:], found[10:] = IGNORED, 1
    cut = score_case(truth, found, ("background", "a"), (1.0, 1.0), tolerance_mm=1.0)
    assert cut == scores | {"counted_voxels.a": 10 * 16}


def test_pooled_dice_is_that_of_all_counted_pixels_together() -> None:
    large, small = np.zeros((2, 1, 20), np.uint8)
    large[:, :10], small[:, :2] = 1, 1
    found_large, found_small = np.roll(large, 2), np.roll(small, 1)
    large[:, 15:], found_large[:, 15:] = IGNORED, 1
    pairs = [(large, found_large), (small, found_small)]
    scores = [score_case(*pair, CLASSES, (1.0, 1.0), tolerance_mm=1.0, unit="px") for pair in pairs]
    rows = [Row(str(n), str(n), "", "", "OP", "image", "d", "test", (1, 1, 20), "uint8", "0") for n in range(40)]
    metrics = evaluate_masks(rows, scores * 20, CLASSES, resamples=100, seed=0).metrics
    assert metrics["dice"].value == pytest.approx((2 * 8 / 20 + 2 * 1 / 4) / 2)
    assert metrics["dice_pooled"].value == metrics["dice_pooled.organ"].value == pytest.approx(2 * 9 / 24)
    assert metrics["sensitivity_pooled"].value == pytest.approx(9 / 12)
    assert metrics["specificity_pooled"].value == pytest.approx(1 - 3 / (15 + 20 - 12))
    assert 2 * 1 / 4 < metrics["dice_pooled"].low < metrics["dice_pooled"].value < metrics["dice_pooled"].high < 0.8


def test_classes_that_are_not_annotated_have_no_score() -> None:
    truth, found = np.zeros((2, 4, 4, 4), np.uint8)
    truth[0], found[0, :2], found[2:] = 1, 1, 2
    classes = ("background", "a", "b")
    how = {"tolerance_mm": 1.0}
    full = score_case(truth, found, classes, SPACING_MM, **how)
    only_a = score_case(truth, found, classes, SPACING_MM, **how, annotated=("a",))
    assert only_a.keys() == full.keys()
    assert {name: value for name, value in only_a.items() if name.endswith(".a")} == {
        name: value for name, value in full.items() if name.endswith(".a")
    }
    assert all(math.isnan(value) for name, value in only_a.items() if name.endswith(".b"))
    rows = [Row(str(n), str(n), "", "", "CT", "volume", "d", "test", (1, 4, 4, 4), "int16", "0") for n in range(2)]
    both = score_case(truth, truth, classes, SPACING_MM, **how)
    evaluation = evaluate_masks(rows, [only_a, both], classes, resamples=100, seed=0)
    assert evaluation.metrics["dice.a"].value == pytest.approx((1 + 2 * 8 / 24) / 2)
    assert evaluation.metrics["dice"].value == evaluation.metrics["dice.a"].value
    assert math.isnan(evaluation.metrics["dice_pooled.b"].value)
    assert math.isnan(evaluate_masks(rows[:1], [only_a], classes, resamples=100, seed=0).metrics["dice.b"].value)
    assert evaluation.metrics["volume_bias_ml.a"].value == pytest.approx(-8 * 2.0 / 1000 / 2)
    assert evaluation.notes == (
        "b is annotated in 1 of 2 images; others do not count",
        "b, in 1 of 1 images: absent from truth and prediction; does not count for it",
    )


def test_a_region_has_the_scores_of_the_union_of_its_classes() -> None:
    generator = np.random.default_rng(0)
    truth, found = generator.integers(0, 3, (2, 6, 6, 4))
    classes, how = ("background", "a", "b"), {"tolerance_mm": 1.0}
    regions = Regions.of({"both": ["a", "b"], "b": ["b"]}, ["a", "b"], classes)
    scores = score_case(truth, found, classes, SPACING_MM, **how, regions=regions)
    union = score_case(truth > 0, found > 0, ("background", "both"), SPACING_MM, **how)
    of_classes = score_case(truth, found, classes, SPACING_MM, **how)
    assert {name: value for name, value in scores.items() if name.endswith(".both")} == union
    assert {name: value for name, value in scores.items() if name.endswith(".b")} == {
        name: value for name, value in of_classes.items() if name.endswith(".b")
    }
    partly = score_case(truth, found, classes, SPACING_MM, **how, regions=regions, annotated=["b"])
    assert math.isnan(partly["dice.both"])
    assert partly["dice.b"] == scores["dice.b"]


def test_examples_show_only_predictions_that_count() -> None:
    truth, found = np.array([[0, 1, IGNORED], [0, 1, 2]]), np.array([[2, 1, 1], [1, 2, 2]])
    classes = ("b", "liver", "spleen")
    assert counted_classes(truth, found, classes, None).tolist() == [[2, 1, 0], [1, 2, 2]]
    assert counted_classes(truth, found, classes, ("liver",)).tolist() == [[0, 1, 0], [1, 0, 0]]
