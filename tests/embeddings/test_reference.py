"""Distance of new images from the training images: in the findings of a study, with a note, for the same checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medvit.artifacts import Checkpoint
from medvit.embeddings.cohort import SHARE_BELOW
from medvit.embeddings.image_embedder import ImageEmbedder
from medvit.embeddings.reference import CohortReference
from medvit.embeddings.table import EmbeddedImage, EmbeddingTable
from medvit.errors import ConfigError
from medvit.types import Image
from tests.models.tuned import backbone_in


def image(generator: np.random.Generator, *, slope: float = 0.0) -> Image:
    """Noise, with a gradient from left to right."""
    return Image((generator.normal(size=(1, 16, 16)) + slope * np.arange(16)).astype(np.float32), "image")


@pytest.fixture
def embedded(tmp_path: Path) -> Path:
    """Embeddings of 120 training and 60 validation images of noise."""
    generator = np.random.default_rng(0)
    embedder = ImageEmbedder(Checkpoint.load(backbone_in(tmp_path / "backbone")), "cpu")
    vectors = embedder.embed(embedder.parts(image(generator)) for _ in range(180))
    splits = ["train"] * 120 + ["val"] * 60
    rows = tuple(EmbeddedImage(*[f"{n}"] * 4, "MR", "image", "d", split, {}, {}) for n, split in enumerate(splits))
    (tmp_path / "embeddings").mkdir()
    EmbeddingTable(rows, vectors, embedder.facts).write(tmp_path / "embeddings")
    return tmp_path / "embeddings"


def test_images_like_the_training_images_are_near_and_others_are_noted(embedded: Path, tmp_path: Path) -> None:
    reference, generator = (
        CohortReference.of(embedded, Checkpoint.load(tmp_path / "backbone"), "cpu"),
        np.random.default_rng(1),
    )
    near = [reference.note(reference(image(generator))) for _ in range(60)]
    assert np.mean([not note for note in near]) > SHARE_BELOW - 0.1
    far = [reference.note(reference(image(generator, slope=1.0))) for _ in range(20)]
    noted = [note.startswith("unlike the training images: the distance") for note in far]
    assert np.mean(noted) > 0.5


def test_embeddings_of_another_checkpoint_are_refused(embedded: Path, tmp_path: Path) -> None:
    other = Checkpoint.load(backbone_in(tmp_path / "other", seed=3))
    with pytest.raises(ConfigError, match="embedded with another checkpoint"):
        CohortReference.of(embedded, other, "cpu")
