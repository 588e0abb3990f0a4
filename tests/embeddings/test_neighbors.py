"""Nearest training cases: copies come first with a warning, and a patient's own images are never neighbors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medvit.embeddings.neighbors import COLUMNS, TrainingNeighbors
from medvit.embeddings.search import unit_rows
from medvit.embeddings.table import EmbeddedImage, EmbeddingTable
from medvit.errors import DataError

NUM = 60


@pytest.fixture
def table() -> EmbeddingTable:
    """Embeddings of 30 patients with two images each; the last 10 images are of the val split."""
    vectors = np.random.default_rng(0).normal(size=(NUM, 16)).astype(np.float32)
    images = tuple(
        EmbeddedImage(
            f"i-{n}", f"p-{n // 2}", f"s-{n}", f"e-{n}", "OP", "image", "d", "train" if n < 50 else "val",
            {"grade": str(n % 3)}, {},
        )
        for n in range(NUM)
    )  # fmt: skip
    return EmbeddingTable(images, vectors, {"features": "class_mean"})


def test_the_nearest_of_an_exact_copy_is_that_image_and_a_warning_says_so(table: EmbeddingTable) -> None:
    found = TrainingNeighbors.of(table, 3)(table.vectors[7])
    assert found.neighbors[0].image.image_id == "i-7"
    assert found.neighbors[0].cosine == pytest.approx(1.0, abs=1e-6)
    assert [("i-7 is nearly identical" in warning) for warning in found.warnings] == [True]


def test_images_of_the_patient_or_study_are_no_neighbors_and_are_reported(table: EmbeddingTable) -> None:
    search = TrainingNeighbors.of(table, 50)
    found = search(table.vectors[7], patients={"p-3"})
    assert {one.image.image_id for one in found.neighbors}.isdisjoint({"i-6", "i-7"})
    assert len(found.neighbors) == 48
    assert found.warnings[0].startswith("leakage: 2 training images are of the same patient")
    of_study = search(table.vectors[7], study="s-7")
    assert {one.image.image_id for one in of_study.neighbors}.isdisjoint({"i-7"})
    assert len(of_study.neighbors) == 49


def test_neighbors_are_those_of_the_definition_and_only_training_images(table: EmbeddingTable) -> None:
    query = np.random.default_rng(1).normal(size=16)
    found = TrainingNeighbors.of(table, 5)(query)
    cosines = unit_rows(table.vectors[:50]) @ (query / np.linalg.norm(query))
    expected = np.argsort(-cosines)[:5]
    assert [one.image.image_id for one in found.neighbors] == [f"i-{n}" for n in expected]
    assert [one.cosine for one in found.neighbors] == pytest.approx(list(cosines[expected]), abs=1e-6)
    assert not found.warnings
    assert [len(line) for line in found.lines()] == [len(COLUMNS)] * 5
    assert found.lines()[0][-1] == f"grade={expected[0] % 3}"


def test_without_training_images_the_search_is_refused(table: EmbeddingTable) -> None:
    only_val = replace(table, images=table.images[50:], vectors=table.vectors[50:])
    with pytest.raises(DataError, match="no image of the train split"):
        TrainingNeighbors.of(only_val, 3)
