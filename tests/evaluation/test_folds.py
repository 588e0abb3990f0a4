"""Reports on out-of-fold predictions pool patients, and have AUROC within folds beside that of all pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from medvit.evaluation.folds import fold_part
from medvit.evaluation.tasks.classification import evaluate_classes
from medvit.evaluation.tasks.multilabel import evaluate_labels
from medvit.evaluation.tasks.regression import evaluate_values
from medvit.inference.out_of_fold import StoredPredictions
from medvit.models.image import ModelConfig
from medvit.records import Row

NUM = 60
FOLDS = np.arange(NUM) % 3
ROWS = [Row(f"i{n}", f"p{n}", "", "", "", "image", "d", "test", (1, 8, 8), "uint8", "0") for n in range(NUM)]


@pytest.fixture
def predictions() -> StoredPredictions:
    lines = {f"i{n}": {"image_id": f"i{n}", "models": [int(fold) + 1, int(fold) + 4]} for n, fold in enumerate(FOLDS)}
    return StoredPredictions(Path(), ModelConfig.model_construct(), "", "", lines)


def scores(truth: np.ndarray) -> np.ndarray:
    """Return probabilities whose scale differs between folds."""
    generator = np.random.default_rng(0)
    return 1 / (1 + np.exp(-(1.5 * truth + generator.normal(0, 1, truth.shape) + 2.0 * FOLDS - 2.0)))


def within_folds(truth: np.ndarray, found: np.ndarray) -> float:
    folds = [fold == FOLDS for fold in range(3)]
    pairs = [truth[own].sum() * (1 - truth[own]).sum() for own in folds]
    return float(np.average([roc_auc_score(truth[own], found[own]) for own in folds], weights=pairs))


def test_auroc_within_folds_is_the_mean_over_folds_weighted_by_pairs(predictions: StoredPredictions) -> None:
    truth = np.random.default_rng(1).integers(0, 2, NUM)
    found = scores(truth)
    probabilities = np.stack([1 - found, found], axis=1)
    evaluation = evaluate_classes(ROWS, truth, probabilities, ("no", "yes"), resamples=100, seed=0)
    part = fold_part(evaluation, predictions)
    expected = {"all_pairs": roc_auc_score(truth, found), "within_folds": within_folds(truth, found)}
    assert part.numbers == {"number": 3, "auroc": {"auroc": pytest.approx(expected)}}
    assert expected["within_folds"] > expected["all_pairs"] + 0.05
    assert "There are 3 such groups." in str(part.section.blocks[1])


def test_labels_that_are_unknown_do_not_count(predictions: StoredPredictions) -> None:
    truth = np.random.default_rng(1).integers(0, 2, (NUM, 2)).astype(float)
    found = np.stack([scores(one) for one in truth.T], axis=1)
    truth[::5, 1] = np.nan
    evaluation = evaluate_labels(ROWS, truth, found, ("a", "b"), resamples=100, seed=0)
    numbers = fold_part(evaluation, predictions).numbers["auroc"]
    assert isinstance(numbers, dict)
    assert numbers.keys() == {"auroc.a", "auroc.b", "auroc_micro"}
    assert numbers["auroc.a"]["within_folds"] == pytest.approx(within_folds(truth[:, 0], found[:, 0]))


def test_regressions_are_pooled_without_a_table(predictions: StoredPredictions) -> None:
    evaluation = evaluate_values(ROWS, np.arange(NUM), np.arange(NUM) + 1.0, "age", resamples=100, seed=0)
    part = fold_part(evaluation, predictions)
    assert part.numbers == {"number": 3, "auroc": {}}
    assert len(part.section.blocks) == 1
