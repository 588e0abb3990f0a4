"""Probes: parity with their definitions, recovery of a planted class, and choice on the val split."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from medvit.metrics.auroc import mean_auroc
from medvit.probing.classifiers import (
    NEIGHBORS,
    STRENGTHS,
    ProbeSplits,
    probe_linear,
    probe_logistic,
    probe_neighbors,
    probe_ridge,
)
from medvit.probing.layer_features import LayerFeatures

WIDTH, CLASSES = 12, 3


def features(number: int, seed: int, *, depth: int = 2, planted: int = 1) -> tuple[LayerFeatures, np.ndarray]:
    """Features of noise in `depth` layers, in one of which the class token depends on the class."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, CLASSES, number)
    vectors = generator.normal(size=(number, depth, 2, WIDTH)).astype(np.float32)
    vectors[:, planted, 0, :CLASSES] += 2.0 * np.eye(CLASSES)[truth]
    return LayerFeatures(vectors.reshape(number, -1), (WIDTH,) * depth, has_class_token=True), truth


def splits(*, planted: int = 1) -> tuple[ProbeSplits, np.ndarray]:
    (train, known), (val, chosen), (test, asked) = (
        features(number, seed, planted=planted) for seed, number in enumerate((240, 60, 90))
    )
    return ProbeSplits(train, val, test, known, chosen, CLASSES), asked


def last(part: LayerFeatures) -> np.ndarray:
    return part.layer(1)


def test_nearest_neighbors_vote_as_the_module_of_dinov2_defines() -> None:
    """Votes are a softmax of cosine / 0.07 over the 200 nearest, of which the first k are summed by class."""
    given, _ = splits()
    found = probe_neighbors(given, last)
    bank, queries = (torch.nn.functional.normalize(torch.from_numpy(last(p)), dim=1) for p in (given.train, given.test))
    similarity, nearest = (queries @ bank.T).topk(max(NEIGHBORS), dim=1)
    weights = torch.softmax(similarity / 0.07, dim=1)
    number = int(found.chosen.removeprefix("k = "))
    labels = torch.nn.functional.one_hot(torch.from_numpy(given.train_truth)[nearest], CLASSES)
    votes = (labels * weights[:, :, None])[:, :number].sum(dim=1)
    expected = (votes / votes.sum(dim=1, keepdim=True)).numpy()
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)


def test_the_logistic_regression_is_the_best_on_val_fitted_to_train_and_val() -> None:
    given, _ = splits()
    found = probe_logistic(given, last)
    assert len(found.tried) == 45
    strength = min(STRENGTHS, key=lambda one: abs(one - float(found.chosen.removeprefix("C = "))))
    assert found.tried[found.chosen] == max(found.tried.values())
    both = np.concatenate([last(given.train), last(given.val)]).astype(np.float64)
    truth = np.concatenate([given.train_truth, given.val_truth])
    plain = LogisticRegression(C=strength, max_iter=1000, tol=1e-8).fit(both, truth)
    expected = plain.predict_proba(last(given.test).astype(np.float64))
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-3)


@pytest.mark.parametrize("probe", [probe_neighbors, probe_logistic])
def test_a_planted_class_is_found_and_noise_is_not(probe: object) -> None:
    for planted, low, high in ((1, 0.85, 1.0), (0, 0.35, 0.65)):  # the probes see only the last layer, 1
        given, truth = splits(planted=planted)
        assert low < mean_auroc(truth, probe(given, last).probabilities) <= high  # type: ignore[operator]


def test_the_linear_grid_finds_a_class_in_an_earlier_layer() -> None:
    given, truth = splits(planted=0)
    found = probe_linear(given, seed=0)
    assert len(found.tried) == 13 * 2 * 2
    assert "layers = 4" in found.chosen
    assert mean_auroc(truth, found.probabilities) > 0.85
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1.0, atol=1e-5)


def test_the_linear_classifiers_follow_the_gradient_of_torch() -> None:
    """One step of SGD from the same start equals that of torch's own optimizer."""
    from medvit.probing import classifiers

    given, _ = splits()
    train, truth = torch.from_numpy(last(given.train)), torch.from_numpy(given.train_truth)
    generator = torch.Generator().manual_seed(0)
    start = classifiers.INITIAL_DEVIATION * torch.randn(train.shape[1], CLASSES, generator=generator)
    layer = torch.nn.Linear(train.shape[1], CLASSES)
    layer.weight.data, layer.bias.data = start.T.clone(), torch.zeros(CLASSES)
    rate = classifiers.RATES[-1] * classifiers.BATCH / 256
    optimizer = torch.optim.SGD(layer.parameters(), lr=rate, momentum=classifiers.MOMENTUM)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, classifiers.STEPS)
    for _ in range(classifiers.STEPS):
        chosen = torch.randint(len(train), (classifiers.BATCH,), generator=generator)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(layer(train[chosen]), truth[chosen]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    heads = classifiers._linear_heads(train, truth, CLASSES, seed=0)
    torch.testing.assert_close(heads.weights[-1], layer.weight.data.T, atol=1e-4, rtol=1e-3)


def test_the_sweep_shows_the_layer_with_the_class() -> None:
    given, truth = splits(planted=0)
    scores = [mean_auroc(truth, probe_ridge(given, lambda p, n=n: p.layer(n))[1]) for n in (0, 1)]  # type: ignore[misc]
    assert scores[0] > 0.85 > 0.65 > scores[1]


def test_tokens_and_layers_are_taken_from_their_places() -> None:
    part, _ = features(4, 0, depth=3)
    vectors = part.vectors.reshape(4, 3, 2, WIDTH)
    np.testing.assert_array_equal(part.layer(1, "class"), vectors[:, 1, 0])
    np.testing.assert_array_equal(part.layer(2, "mean"), vectors[:, 2, 1])
    expected = np.concatenate([vectors[:, 1, 0], vectors[:, 2, 0], vectors[:, 2, 1]], axis=1)
    np.testing.assert_array_equal(part.last_blocks(2, with_mean=True), expected)
    network = LayerFeatures(np.arange(10.0).reshape(2, 5), (2, 3), has_class_token=False)  # a pyramid
    assert network.layer(1).tolist() == [[2, 3, 4], [7, 8, 9]]
    assert network.last_blocks(4, with_mean=True).shape == (2, 5)
