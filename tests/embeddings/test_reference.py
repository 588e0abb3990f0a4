"""Distance of new images from the training images: in the findings of a study, with a note, for the same checkpoint."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medvit.artifacts import Checkpoint
from medvit.deidentification.pseudonyms import SiteNames
from medvit.embeddings.cohort import SHARE_BELOW
from medvit.embeddings.image_embedder import ImageEmbedder
from medvit.embeddings.reference import CohortReference
from medvit.embeddings.table import EmbeddedImage, EmbeddingTable
from medvit.errors import ConfigError
from medvit.inference.study_job import StudyJob
from medvit.models.image import AppliesTo
from medvit.records import Identity, Item
from medvit.types import Image, Prediction
from medvit.writers import Maker, Study
from medvit.writers.outputs import Outputs
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


def test_the_nearest_training_images_of_a_study_are_listed_without_its_patient(embedded: Path, tmp_path: Path) -> None:
    """The image is a copy of a training image of the same patient: the copy is not listed, and a note states it."""
    names = SiteNames(tmp_path / "site.key")
    patient = next(iter(names.patients(Identity(patient="A"))))
    table = EmbeddingTable.read(embedded)
    images = (replace(table.images[0], patient_id=patient, labels={"grade": "2"}), *table.images[1:])
    replace(table, images=images).write(embedded)
    checkpoint = Checkpoint.load(tmp_path / "backbone")
    reference = CohortReference.of(embedded, checkpoint, "cpu", num_neighbors=4)
    own = image(np.random.default_rng(0))  # image 0 of the table

    def listed(patient: str) -> tuple[list[dict[str, str]], list[str]]:
        item = Item("png", (), "image", identity=Identity(patient=patient))
        job = StudyJob(
            lambda _: Prediction(("a",), value=1.0), AppliesTo(kind="image"), names, Maker("0", "0"),
            outputs=Outputs.of([], "regression"), reference=reference,
        )  # fmt: skip
        study, folder = Study("s-new", (item,)), tmp_path / patient
        folder.mkdir()
        collected = job.begin(study, num_chosen=1)
        job.add(collected, study, item, own, job.predict(own), folder)
        assert collected.outputs == ["neighbors.csv"]
        with (folder / "neighbors.csv").open(encoding="utf-8") as stream:
            return list(csv.DictReader(stream)), collected.notes

    lines, notes = listed("A")
    assert len(lines) == 4
    assert all(line["image_id"] != "0" and line["patient_id"] != patient for line in lines)
    assert any(note.startswith("leakage: 1 training images are of the same patient") for note in notes)
    lines, notes = listed("B")
    assert (lines[0]["image_id"], lines[0]["labels"], lines[0]["cosine"]) == ("0", "grade=2", "1.0000")
    assert any("nearly identical" in note for note in notes)
