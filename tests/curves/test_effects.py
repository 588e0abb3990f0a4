"""Effects: metrics under weights equal their definition on repeated images, and intervals cover a known truth."""

import numpy as np
import pytest

from medvit.curves.effects import holm, mean_over_draws, paired_effect
from medvit.curves.scores import CaseScores, ClassScores, load, save, value
from medvit.evaluation.classification import classification_metrics


def class_scores(generator: np.random.Generator, *, num_classes: int = 2, shift: float = 1.0) -> ClassScores:
    truth = generator.integers(0, num_classes, 60)
    logits = generator.normal(size=(60, num_classes)).round(1) + shift * np.eye(num_classes)[truth]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return ClassScores(truth, probabilities, np.arange(60) // 2)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_auroc_with_weights_is_that_of_the_images_repeated(num_classes: int) -> None:
    generator = np.random.default_rng(0)
    scores = class_scores(generator, num_classes=num_classes)
    weights = generator.integers(0, 4, (5, 30))
    found = scores.metric(weights.astype(float))
    for given, metric in zip(weights, found, strict=True):
        drawn = np.repeat(np.arange(60), given[scores.patient])
        names = [str(label) for label in range(num_classes)]
        expected = classification_metrics(scores.truth[drawn], scores.probabilities[drawn], names)["auroc"]
        assert metric == pytest.approx(expected, abs=1e-12)


def test_images_of_a_patient_are_averaged_first_and_undefined_ones_left_out() -> None:
    scores = CaseScores(np.array([0.2, 0.4, 0.9, np.nan]), np.array([0, 0, 1, 2]))
    assert value(scores) == pytest.approx((0.3 + 0.9) / 2)
    assert scores.metric(np.array([[3.0, 1.0, 9.0]]))[0] == pytest.approx((3 * 0.3 + 0.9) / 4)


@pytest.mark.parametrize("kind", ["class", "case"])
def test_scores_return_from_their_file(tmp_path, kind: str) -> None:
    generator = np.random.default_rng(1)
    scores = class_scores(generator) if kind == "class" else CaseScores(generator.random(5), np.arange(5))
    save(tmp_path / "a.npz", scores)
    again = load(tmp_path / "a.npz")
    assert type(again) is type(scores)
    assert value(again) == value(scores)


def test_the_interval_covers_the_true_effect_of_new_draws_and_new_patients() -> None:
    """Both draws and patients vary: an interval over patients alone would cover far less often."""
    covered, alone = 0, 0
    for seed in range(60):
        generator = np.random.default_rng(seed)
        of_draw, of_patient = generator.normal(0, 0.1, (8, 1)), generator.normal(0, 0.3, 40)
        each = 0.2 + of_draw + of_patient + generator.normal(0, 0.05, (8, 40))
        one = [CaseScores(row, np.arange(40)) for row in each]
        other = [CaseScores(np.zeros(40), np.arange(40))] * 8
        effect = paired_effect(one, other, resamples=400, seed=seed)
        covered += effect.low <= 0.2 <= effect.high
        means = each.mean(axis=0)
        half = 1.96 * means.std(ddof=1) / np.sqrt(40)
        alone += abs(means.mean() - 0.2) <= half
    assert covered >= 51  # of 60; 57 are expected of exact intervals, fewer with 8 draws
    assert covered > alone


def test_equal_methods_have_no_effect_and_the_mean_is_that_of_the_draws() -> None:
    generator = np.random.default_rng(0)
    one = [class_scores(generator) for _ in range(4)]
    effect = paired_effect(one, one, resamples=200)
    assert (effect.mean, effect.low, effect.high, effect.p) == (0, 0, 0, 1)
    assert mean_over_draws(one, resamples=50).mean == pytest.approx(np.mean([value(each) for each in one]))
    with pytest.raises(ValueError, match="4 draws are compared with 3"):
        paired_effect(one, one[:3], resamples=10)


def test_holm_is_that_of_its_definition() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
