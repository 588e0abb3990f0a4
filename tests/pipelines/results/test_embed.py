"""Embedding of a dataset: one row per image, failures listed, and a resumed run equal to an uninterrupted one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medvit.dataset.manifest import Facts, Manifest
from medvit.embeddings import run as runs
from medvit.embeddings.image_embedder import ImageEmbedder
from medvit.embeddings.table import EmbeddingTable
from medvit.errors import DataError
from medvit.records import Row
from pipelines.results.embed import EmbedConfig, embed
from tests.models.tuned import backbone_in


def dataset_in(folder: Path, number: int = 7) -> Manifest:
    """Write a dataset of small images, some in each split."""
    folder.mkdir(exist_ok=True)
    manifest = Manifest((), Facts("small"), folder)
    generator, rows = np.random.default_rng(0), []
    for index in range(number):
        pixels = generator.integers(0, 100, (1, 16, 16)).astype(np.int16)
        names = [f"{what}-{index:03}" for what in "ipsq"]
        split = ("train", "val", "test")[index % 3]
        digest = manifest.store.put(pixels)
        rows.append(Row(*names, "MR", "image", "d", split, pixels.shape, "int16", digest, labels={"side": "left"}))
    written = replace(manifest, rows=tuple(rows))
    written.write()
    return written


def test_every_image_has_a_row_with_its_pseudonyms_and_its_embedding(tmp_path: Path) -> None:
    dataset_in(tmp_path / "dataset")
    made = embed(checkpoint=backbone_in(tmp_path / "b"), dataset=tmp_path / "dataset", output=tmp_path / "found")
    table = EmbeddingTable.read(made.folder)
    assert table.values("image_id") == [f"i-{n:03}" for n in range(7)]
    assert table.values("patient_id")[6] == "p-006"
    assert table.vectors.shape == (7, 96)
    assert table.values("side") == ["left"] * 7
    assert not (made.folder / "chunks").exists()


def test_only_the_chosen_splits_are_embedded(tmp_path: Path) -> None:
    dataset_in(tmp_path / "dataset")
    folders = {"checkpoint": backbone_in(tmp_path / "b"), "dataset": tmp_path / "dataset"}
    made = embed(**folders, output=tmp_path / "found", splits=["val"])
    assert EmbeddingTable.read(made.folder).values("image_id") == ["i-001", "i-004"]


def test_a_damaged_image_is_listed_and_the_others_are_embedded(tmp_path: Path) -> None:
    manifest = dataset_in(tmp_path / "dataset")
    manifest.store.path(manifest.rows[2].sha256).unlink()
    folders = {"checkpoint": backbone_in(tmp_path / "b"), "dataset": tmp_path / "dataset"}
    finished = embed.run(EmbedConfig(**folders, output=tmp_path / "found"))
    assert len(finished.failures) == 1
    assert "i-002" in finished.failures[0]
    assert len(finished.artifact.table) == 6


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "CHUNK", 2)
    dataset_in(tmp_path / "dataset")
    folders = {"checkpoint": backbone_in(tmp_path / "b"), "dataset": tmp_path / "dataset"}
    whole = embed(**folders, output=tmp_path / "whole")
    own, calls = ImageEmbedder.embed, []

    def interrupted(embedder: ImageEmbedder, images: object) -> object:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return own(embedder, images)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(ImageEmbedder, "embed", interrupted)
        with pytest.raises(KeyboardInterrupt):
            embed(**folders, output=tmp_path / "found")
    stored = sorted((tmp_path / "found.partial" / "chunks").iterdir())
    assert len(stored) == 2
    resumed = embed(**folders, output=tmp_path / "found", resume=True)
    one, other = EmbeddingTable.read(whole.folder), EmbeddingTable.read(resumed.folder)
    assert one.images == other.images
    np.testing.assert_array_equal(one.vectors, other.vectors)


def test_a_checkpoint_for_volumes_is_refused_for_images(tmp_path: Path) -> None:
    dataset_in(tmp_path / "dataset")
    backbone = backbone_in(tmp_path / "b", ndim=3)
    with pytest.raises(DataError, match="the checkpoint is for volumes, the chosen splits have images"):
        embed(checkpoint=backbone, dataset=tmp_path / "dataset", output=tmp_path / "found")
