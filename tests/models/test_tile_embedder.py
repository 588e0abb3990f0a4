"""Tiles of slides become embeddings once: by the backbone, in the order of the grid, a slide at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medvit.backbones.vit import VitConfig
from medvit.dataset.manifest import Manifest
from medvit.errors import DataError
from medvit.models.embedding_store import FOLDER
from medvit.models.tile_embedder import Embedder, EmbeddingConfig, embed_manifest
from medvit.transforms.preprocess import Normalization, Preprocess
from medvit.wsi.locations import SlidesConfig
from medvit.wsi.slide import open_slide
from medvit.wsi.tiles import TileGrid
from tests.wsi.slides import SIZE, write_dataset

CHAIN = Preprocess(kind="image", channels=3, intensity=Normalization(method="range"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    return write_dataset(folder / "dataset", 4, key=folder / "site.key"), SlidesConfig(key=folder / "site.key")


def embedder(seed: int = 0, **options) -> Embedder:
    torch.manual_seed(seed)
    config = VitConfig(ndim=2, channels=3, patch_size=16, width=12, depth=1, heads=2, **options)
    return Embedder(config.build(), CHAIN, "class_mean")


def embed(made, folder: Path, one: Embedder | None = None, failures: list | None = None, **options):
    failures = [] if failures is None else failures
    config = EmbeddingConfig(batch_size=16, embeddings=folder, **options)
    return embed_manifest(made[0], made[1], embedder=one or embedder(), config=config, failures=failures)


def test_an_embedding_is_what_the_backbone_says_of_the_tile(made, tmp_path):
    one = embedder()
    slide = embed(made, tmp_path, one)[1]
    number = 17
    x, y = (int(value) for value in slide.grid.xy[number])
    pixels = open_slide(made[0].folder.with_name("dataset-source") / "i-001.tif").read(x, y, SIZE, slide.grid.mpp)
    tokens = one.backbone(torch.from_numpy(pixels[None] / np.float32(255)))
    expected = torch.cat([tokens.prefix[:, 0], tokens.patches.mean(1)], dim=1)
    found = slide.embeddings.take(torch.tensor([number]))
    torch.testing.assert_close(found, expected, atol=2e-2, rtol=2e-2)  # 16 bits, in the multiplication too


def test_processes_that_read_give_the_same(made, tmp_path):
    alone, together = embed(made, tmp_path / "a"), embed(made, tmp_path / "b", num_workers=2)
    for one, other in zip(alone, together, strict=True):
        assert one.embeddings.path.read_bytes() == other.embeddings.path.read_bytes()


def test_what_is_there_is_not_made_again_and_what_is_missing_is(made, tmp_path, caplog):
    caplog.set_level("INFO")
    first = embed(made, tmp_path)
    times = [slide.embeddings.path.stat().st_mtime_ns for slide in first]
    first[2].embeddings.path.unlink()
    second = embed(made, tmp_path)
    again = [slide.embeddings.path.stat().st_mtime_ns for slide in second]
    assert [a == b for a, b in zip(times, again, strict=True)] == [True, True, False, True]
    assert "embeddings of 3 of 4 slides exist already" in caplog.text


@pytest.mark.parametrize("changed", ["weights", "features", "preprocess", "tiles"])
def test_what_changes_an_embedding_changes_where_it_lies(made, tmp_path, changed):
    manifest, slides = made
    before = {slide.embeddings.path for slide in embed(made, tmp_path)}
    one = embedder(seed=1 if changed == "weights" else 0)
    if changed == "features":
        one = Embedder(one.backbone, CHAIN, "mean")
    if changed == "preprocess":
        one = Embedder(one.backbone, CHAIN.model_copy(update={"size": (48, 48)}), "class_mean")
    if changed == "tiles":
        copy = tmp_path / "copy"
        copy.mkdir()
        for row in manifest:
            grid = TileGrid.read(manifest.folder, row.image_id)
            fewer = TileGrid(grid.xy[1:], grid.size, grid.mpp, grid.tissue[1:], grid.flags[1:])
            fewer.write(copy, row.image_id)
        manifest = replace(manifest, folder=copy)
    after = {slide.embeddings.path for slide in embed((manifest, slides), tmp_path, one)}
    assert not before & after


def test_a_slide_that_fails_is_told_and_the_rest_goes_on(tmp_path):
    manifest = write_dataset(tmp_path / "dataset", 3, key=tmp_path / "site.key")
    broken = tmp_path / "dataset-source" / "i-001.tif"
    broken.write_bytes(broken.read_bytes()[:3000])
    failures: list[str] = []
    found = embed((manifest, SlidesConfig(key=tmp_path / "site.key")), tmp_path / "e", failures=failures)
    assert [slide.row.image_id for slide in found] == ["i-000", "i-002"]
    assert len(failures) == 1
    assert failures[0].startswith("slide i-001: ")
    assert str(tmp_path) not in failures[0]


def test_without_a_folder_they_are_kept_in_the_dataset(tmp_path):
    manifest = write_dataset(tmp_path / "dataset", 1, key=tmp_path / "site.key")
    (slide,) = embed((manifest, SlidesConfig(key=tmp_path / "site.key")), None)
    assert slide.embeddings.path.is_relative_to(tmp_path / "dataset" / FOLDER)
    assert Manifest.read(tmp_path / "dataset").hash == manifest.hash


def test_if_all_slides_fail_the_first_reason_is_told(tmp_path):
    manifest = write_dataset(tmp_path / "dataset", 2, key=tmp_path / "site.key")
    with pytest.raises(DataError, match=r"all 2 slides failed, first slide i-000: .* for this key file"):
        embed((manifest, SlidesConfig(key=tmp_path / "other.key")), tmp_path / "e")


def test_a_backbone_of_volumes_is_refused():
    backbone = VitConfig(ndim=3, channels=1, patch_size=8, width=12, depth=1, heads=2).build()
    with pytest.raises(DataError, match="the backbone is for volumes"):
        Embedder(backbone, CHAIN, "class_mean")
