"""A weak stratum that only the embeddings show is found and named by the attributes of its members."""

from __future__ import annotations

import numpy as np
import pytest
from numpy import ndarray as Array

from medvit.evaluation import Evaluation
from medvit.evaluation.subgroups.hidden_strata import clusters, with_hidden_strata
from medvit.evaluation.tasks.classification import evaluate_classes
from medvit.records import Row

HOW = {"resamples": 200, "seed": 0}


def planted(num_images: int = 240) -> tuple[Evaluation, Array, Array]:
    """Images of two classes and two strata; the model is at chance in the second, a quarter, mostly of scanner B."""
    draw = np.random.default_rng(0)
    truth, is_hidden = draw.integers(0, 2, num_images), draw.random(num_images) < 0.25
    scanners = np.where(draw.random(num_images) < np.where(is_hidden, 0.9, 0.1), "B", "A")
    score = 1 / (1 + np.exp(-(np.where(is_hidden, 0.0, 3.0) * (truth - 0.5) + draw.normal(size=num_images))))
    identity = ("MR", "image", "d", "test", (1, 8, 8), "uint8", "0")
    rows = [
        Row(f"i{n:03d}", f"p{n}", f"s{n}", f"e{n}", *identity, attributes={"model": str(scanner)})
        for n, scanner in enumerate(scanners)
    ]
    evaluation = evaluate_classes(rows, truth, np.stack([1 - score, score], axis=1), ("no", "yes"), **HOW)
    class_direction, stratum_direction = draw.normal(size=(2, 32))
    embeddings = draw.normal(size=(num_images, 32)) * 0.5
    # The classes are farther apart than the strata, as in the embeddings of a fine-tuned model.
    embeddings += np.outer(truth * 6.0, class_direction) + np.outer(is_hidden * 2.0, stratum_direction)
    return evaluation, embeddings, is_hidden


def test_clusters_are_the_strata_and_not_the_classes() -> None:
    evaluation, embeddings, is_hidden = planted()
    labels = clusters(evaluation, embeddings, seed=0)
    assert labels is not None
    assert sorted(np.unique(labels)) == [1, 2]
    assert ((labels == 2) == is_hidden).mean() > 0.98  # cluster 1 is the largest


def test_the_weak_stratum_is_first_and_named_by_its_scanner() -> None:
    evaluation, embeddings, _ = planted()
    (analysis,) = with_hidden_strata(evaluation, embeddings, ("model",), **HOW).subgroups
    assert analysis.title == "Hidden strata"
    worst = analysis.groups[0]
    assert worst.gaps["auroc"].high < 0
    assert worst.name.startswith("2, model B (")
    assert analysis.groups[1].name.startswith("1, model A (")


def test_clusters_do_not_change_from_run_to_run() -> None:
    evaluation, embeddings, _ = planted()
    first, second = (clusters(evaluation, embeddings.copy(), seed=0) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_a_cluster_without_a_frequent_attribute_says_so() -> None:
    evaluation, embeddings, _ = planted()
    (analysis,) = with_hidden_strata(evaluation, embeddings, (), **HOW).subgroups
    assert {group.name for group in analysis.groups} == {"1, no attribute stands out", "2, no attribute stands out"}


@pytest.mark.parametrize("num_images", [10, 39])
def test_too_few_patients_have_no_clusters(num_images: int) -> None:
    evaluation, embeddings, _ = planted(num_images)
    assert with_hidden_strata(evaluation, embeddings, ("model",), **HOW) is evaluation
