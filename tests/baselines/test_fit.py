"""Regressions of the baselines: those of scikit-learn, with the penalty that is best on validation images."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from medvit.baselines.fit import (
    PENALTIES,
    STRENGTHS,
    chosen_regression,
    chosen_ridge,
    fitted,
    majority,
    scale_of_all,
    scale_of_each,
)


def planted(number: int, seed: int, *, num_classes: int = 2, num_noise: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Features of which the first ones depend on the class, on scales that differ by orders of magnitude."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, num_classes, number)
    signal = np.eye(num_classes)[truth] + generator.normal(size=(number, num_classes))
    noise = generator.normal(size=(number, num_noise))
    return np.concatenate([signal * 1000, noise], axis=1), truth


@pytest.mark.parametrize("num_classes", [2, 4])
def test_the_probabilities_are_those_of_scikit_learn(num_classes: int) -> None:
    features, truth = planted(300, 0, num_classes=num_classes)
    others, _ = planted(100, 1, num_classes=num_classes)
    found = fitted(features, truth, num_classes, scale_of_each(features), 0.1)(others)
    classifier = LogisticRegression(C=0.1, class_weight="balanced", max_iter=2000)
    expected = make_pipeline(StandardScaler(), classifier).fit(features, truth).predict_proba(others)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_the_penalty_is_the_one_with_the_highest_auroc_on_the_validation_images() -> None:
    """With 60 images and 200 features of noise, a weak penalty overfits."""
    (features, truth), (val, val_truth) = planted(60, 0, num_noise=200), planted(500, 1, num_noise=200)
    scale = scale_of_each(features)
    chosen = chosen_regression(features, truth, val, val_truth, 2, scale)
    scores = [roc_auc_score(val_truth, fitted(features, truth, 2, scale, c)(val)[:, 1]) for c in STRENGTHS]
    assert chosen.strength == STRENGTHS[int(np.argmax(scores))]
    assert max(scores) > min(scores) + 0.01


def test_without_validation_images_the_penalty_is_one() -> None:
    features, truth = planted(50, 0)
    empty = np.zeros((0, features.shape[1])), np.zeros(0, dtype=int)
    assert chosen_regression(features, truth, *empty, 2, scale_of_each(features)).strength == 1.0


def test_a_class_without_training_images_has_probability_zero() -> None:
    features, truth = planted(80, 0)
    found = fitted(features, truth, 3, scale_of_each(features), 1.0)(features)
    assert (found[:, 2] == 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1.0)
    found = fitted(features, truth + 1, 3, scale_of_each(features), 1.0)(features)
    assert (found[:, 0] == 0).all()


def test_constant_features_are_not_amplified() -> None:
    features = np.full((10, 3), 0.1)
    features[:, 1] = np.arange(10)
    assert scale_of_each(features).tolist() == [1.0, np.arange(10).std(), 1.0]
    assert len(set(scale_of_all(features))) == 1


def test_the_majority_has_the_class_frequencies_of_the_training_images() -> None:
    assert majority(np.array([0, 0, 0, 2]), 3, 2).tolist() == [[0.75, 0.0, 0.25]] * 2


def numbers(number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of which the first is the number, with noise, among many of noise alone."""
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(number, 40))
    return features, 3.0 * features[:, 0] + 50.0 + generator.normal(size=number)


def test_the_ridge_is_that_of_scikit_learn_with_the_lowest_error_on_the_validation_images() -> None:
    (features, truth), (val, val_truth), (others, _) = (numbers(60, seed) for seed in range(3))
    chosen = chosen_ridge(features, truth, val, val_truth, scale_of_each(features))
    plain = {alpha: make_pipeline(StandardScaler(), Ridge(alpha=alpha)).fit(features, truth) for alpha in PENALTIES}
    errors = {alpha: float(np.mean((model.predict(val) - val_truth) ** 2)) for alpha, model in plain.items()}
    assert chosen.penalty == min(errors, key=lambda alpha: errors[alpha])
    np.testing.assert_allclose(chosen(others), plain[chosen.penalty].predict(others), rtol=1e-6)


def test_without_validation_images_the_penalty_has_the_lowest_error_of_leaving_out_one_image() -> None:
    features, truth = numbers(40, 0)
    chosen = chosen_ridge(features, truth, features[:0], truth[:0], scale_of_each(features))
    scaled = (features - features.mean(axis=0)) / features.std(axis=0)

    def left_out(alpha: float) -> float:
        kept = [np.delete(np.arange(len(truth)), index) for index in range(len(truth))]
        found = [Ridge(alpha=alpha).fit(scaled[k], truth[k]).predict(scaled[[i]])[0] for i, k in enumerate(kept)]
        return float(np.mean((np.array(found) - truth) ** 2))

    assert chosen.penalty == min(PENALTIES, key=left_out)
