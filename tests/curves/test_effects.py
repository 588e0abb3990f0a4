"""Effects: metrics under weights equal their definition on repeated images, and intervals cover a known truth."""

import numpy as np
import pytest

from medvit.curves.effects import Effect, draw_weights, mean_over_draws, paired_effect, resample_patients
from medvit.curves.scores import CaseScores, ClassScores, ImageScores, load, save, value
from medvit.errors import DataError
from medvit.evaluation.tasks.classification import classification_metrics
from medvit.metrics.auroc import mean_auroc


def class_scores(generator: np.random.Generator, *, num_classes: int = 2, shift: float = 1.0) -> ClassScores:
    truth = generator.integers(0, num_classes, 60)
    logits = generator.normal(size=(60, num_classes)).round(1) + shift * np.eye(num_classes)[truth]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return ClassScores(truth, probabilities, np.arange(60) // 2)


def effect_of(
    one: list[ImageScores],
    other: list[ImageScores],
    clusters: list[int] | None = None,
    *,
    resamples: int,
    seed: int = 0,
) -> Effect:
    found = resample_patients(dict(enumerate([*one, *other])), resamples=resamples, seed=seed)
    first, second = [found[n] for n in range(len(one))], [found[n + len(one)] for n in range(len(other))]
    return paired_effect(first, second, clusters or list(range(len(one))), seed=seed)


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


def test_auroc_is_the_mean_over_the_classes_that_are_present() -> None:
    generator = np.random.default_rng(0)
    scores = class_scores(generator, num_classes=4)
    lacking = scores.truth != 3
    known = ClassScores(scores.truth[lacking], scores.probabilities[lacking], scores.patient[lacking])
    assert value(known) == pytest.approx(mean_auroc(known.truth, known.probabilities))
    alone = scores.truth == 0
    assert np.isnan(value(ClassScores(scores.truth[alone], scores.probabilities[alone, :2], scores.patient[alone])))


def test_a_run_with_probabilities_that_are_not_finite_is_refused_by_its_name(tmp_path) -> None:
    scores = class_scores(np.random.default_rng(0))
    scores.probabilities[4] = np.nan
    save(tmp_path / "test-scratch.npz", scores)
    with pytest.raises(DataError, match="test-scratch: the probabilities of 1 of 60 images are not finite"):
        load(tmp_path / "test-scratch.npz")


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
        effect = effect_of(one, other, resamples=400, seed=seed)
        covered += effect.low <= 0.2 <= effect.high
        means = each.mean(axis=0)
        half = 1.96 * means.std(ddof=1) / np.sqrt(40)
        alone += abs(means.mean() - 0.2) <= half
    assert covered >= 51  # of 60; 57 are expected of exact intervals, fewer with 8 draws
    assert covered > alone


@pytest.mark.parametrize("clusters", [[0, 1, 2, 3, 4, 5], [0, 1, 2, 0, 1, 2, 0], [5, 5, 5]])
def test_every_draw_has_the_same_weight_on_average_and_those_of_a_resample_sum_to_one(clusters: list[int]) -> None:
    weights = draw_weights(clusters, 20_000, seed=0)
    assert weights.sum(axis=1) == pytest.approx(1.0)
    assert weights.mean(axis=0) == pytest.approx(1 / len(clusters), abs=0.02)


def test_draws_that_share_a_pretraining_are_left_out_together() -> None:
    weights = draw_weights([0, 1, 2] * 4, 2000, seed=0)
    num_left_out = (weights.reshape(-1, 4, 3).sum(axis=1) == 0).any(axis=1).mean()
    assert num_left_out > 0.7  # of three pretrainings, all three are drawn with a chance of 2 in 9


def test_intervals_are_wider_for_pretrainings_that_differ_than_for_draws_alone() -> None:
    generator = np.random.default_rng(0)
    of_pretraining = np.array([0.0, 0.3, 0.6])[np.arange(9) % 3]
    each = of_pretraining[:, None] + generator.normal(0, 0.05, (9, 40))
    one = [CaseScores(row, np.arange(40)) for row in each]
    other = [CaseScores(np.zeros(40), np.arange(40))] * 9
    alone, by_pretraining = (effect_of(one, other, clusters, resamples=2000) for clusters in (None, [0, 1, 2] * 3))
    assert alone.mean == by_pretraining.mean
    assert by_pretraining.high - by_pretraining.low > 1.3 * (alone.high - alone.low)


def test_equal_methods_have_no_effect_and_the_mean_is_that_of_the_draws() -> None:
    generator = np.random.default_rng(0)
    one: list[ImageScores] = [class_scores(generator) for _ in range(4)]
    effect = effect_of(one, one, resamples=200)
    assert (effect.mean, effect.low, effect.high, effect.p) == (0, 0, 0, 1)
    found = list(resample_patients(dict(enumerate(one)), resamples=50).values())
    assert mean_over_draws(found, range(4)).mean == pytest.approx(np.mean([value(each) for each in one]))
    with pytest.raises(ValueError, match="4 draws are compared with 3"):
        paired_effect(found, found[:3], range(4))
