"""Regressions on frozen features: parity with their definitions, recovery of a planted number, choice on val."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from medvit.baselines.fit import PENALTIES
from medvit.probing.classifiers import NEIGHBORS
from medvit.probing.layer_features import LayerFeatures
from medvit.probing.regressors import (
    NumberSplits,
    layer_scores,
    neighbor_mean,
    regress_neighbors,
    regress_ridge,
)

WIDTH = 12


def features(number: int, seed: int, *, planted: int) -> tuple[LayerFeatures, np.ndarray]:
    """Features of noise in two layers, in one of which the class token depends on a number from 20 to 80."""
    generator = np.random.default_rng(seed)
    truth = generator.uniform(20, 80, number)
    vectors = generator.normal(size=(number, 2, 2, WIDTH)).astype(np.float32)
    angle = (truth - 20) / 60 * np.pi
    vectors[:, planted, 0, :2] = 6.0 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return LayerFeatures(vectors.reshape(number, -1), (WIDTH,) * 2, has_class_token=True), truth


def splits(*, planted: int = 1) -> tuple[NumberSplits, np.ndarray]:
    (train, known), (val, chosen), (test, asked) = (
        features(number, seed, planted=planted) for seed, number in enumerate((300, 80, 90))
    )
    return NumberSplits(train, val, test, known, chosen), asked


def last(part: LayerFeatures) -> np.ndarray:
    return part.layer(1)


def test_the_mean_of_neighbors_is_weighted_by_the_exponential_of_their_cosine() -> None:
    generator = np.random.default_rng(0)
    bank, queries, numbers = generator.normal(size=(20, 4)), generator.normal(size=(3, 4)), generator.normal(size=20)
    found = neighbor_mean(*(torch.from_numpy(one) for one in (bank, numbers, queries)), 5)
    for query, value in zip(queries, found, strict=True):
        cosine = bank @ query / np.linalg.norm(bank, axis=1) / np.linalg.norm(query)
        nearest = np.argsort(-cosine)[:5]
        weights = np.exp(cosine[nearest] / 0.07)
        assert float(value) == pytest.approx(float((weights * numbers[nearest]).sum() / weights.sum()))


def test_the_number_of_neighbors_is_the_best_on_val() -> None:
    given, _ = splits()
    found = regress_neighbors(given, last)
    assert list(found.tried) == [f"k = {count}" for count in NEIGHBORS]
    assert found.tried[found.chosen] == max(found.tried.values())


def test_the_ridge_is_the_best_on_val_fitted_to_train_and_val() -> None:
    given, _ = splits()
    found = regress_ridge(given, last)
    train, val, test = (last(part).astype(np.float64) for part in (given.train, given.val, given.test))
    scores = {}
    for penalty in PENALTIES:
        model = make_pipeline(StandardScaler(), Ridge(alpha=penalty)).fit(train, given.train_truth)
        scores[penalty] = r2_score(given.val_truth, model.predict(val))
    best = max(scores, key=lambda penalty: scores[penalty])
    assert found.chosen == f"penalty = {best:g}"
    assert found.tried[found.chosen] == pytest.approx(scores[best], rel=1e-6)
    both = np.concatenate([train, val])
    mean, scale = both.mean(axis=0), train.std(axis=0)
    final = Ridge(alpha=best).fit((both - mean) / scale, np.concatenate([given.train_truth, given.val_truth]))
    np.testing.assert_allclose(found.values, final.predict((test - mean) / scale), rtol=1e-6)


@pytest.mark.parametrize("probe", [regress_neighbors, regress_ridge])
def test_a_planted_number_is_found_and_noise_is_not(probe: object) -> None:
    for planted, low, high in ((1, 0.8, 1.0), (0, -0.3, 0.15)):  # the probes see only the last layer, 1
        given, truth = splits(planted=planted)
        assert low < r2_score(truth, probe(given, last).values) <= high  # type: ignore[operator]


def test_the_sweep_shows_the_layer_with_the_number() -> None:
    given, truth = splits(planted=0)
    scores = [layer_scores(given, truth, lambda part, n=n: part.layer(n)) for n in (0, 1)]  # type: ignore[misc]
    assert min(scores[0]) > 0.8 > 0.15 > max(scores[1])
