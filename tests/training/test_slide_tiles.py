"""Pretraining on the tiles of slides, as a user runs it."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from medvit.artifacts import Checkpoint
from medvit.dataset.manifest import Manifest
from medvit.dataset.samples import TileSamples
from medvit.errors import ConfigError, DataError
from medvit.phantoms.slide import slide, write_tiff
from medvit.records import TileRow
from medvit.training.lightning_module import TrainingModule
from medvit.transforms.preprocess import Normalization, Preprocess
from medvit.wsi.locations import MixedSlidesConfig
from pipelines.ingest import ingest
from pipelines.pretrain import pretrain

OFF = {"enabled": False}


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import numpy as np

    folder = tmp_path_factory.mktemp("slides")
    for number in range(3):
        pixels = slide(np.random.default_rng(number), "tumor", shape=(384, 512)).pixels
        write_tiff(folder / "source" / f"{number}.tif", pixels)
    ingest(
        source=folder / "source",
        dataset=folder / "dataset",
        key=folder / "key",
        taking={"tiles": {"size": 64}},
        splits={"val": 0.0, "test": 0.0},
        tracking=OFF,
    )
    return folder


def options(folder: Path, **more) -> dict:
    return {
        "dataset": folder / "dataset",
        "slides": {"key": folder / "key"},
        "tracking": OFF,
        "backbone": {"name": "vit", "patch_size": 8, "width": 32, "depth": 2, "heads": 2},
        "objective": {"name": "mae", "decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2},
        "trainer": {"epochs": 2, "steps_per_epoch": 2, "precision": "32-true"},
        "loader": {"batch_size": 4},
        "monitors": {"knn_images": 4},
    } | more


def weights(checkpoint: Checkpoint) -> list[torch.Tensor]:
    return [checkpoint.state[name] for name in sorted(checkpoint.state)]


def test_slides_are_learned_from_tile_by_tile_and_a_run_that_stopped_goes_on_exactly(
    slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = pretrain(output=tmp_path / "whole", **options(slides))
    assert whole.preprocess["kind"] == "image"
    assert whole.preprocess["channels"] == 3
    seeded = TrainingModule.on_train_batch_start

    def stop(module, batch, batch_idx):
        if module.global_step >= 3:
            raise KeyboardInterrupt
        seeded(module, batch, batch_idx)

    with monkeypatch.context() as patched:
        patched.setattr(TrainingModule, "on_train_batch_start", stop)
        with pytest.raises(BaseException):  # noqa: B017 (how it ends is tested elsewhere)
            pretrain(output=tmp_path / "cut", **options(slides))
    resumed = pretrain(output=tmp_path / "cut", resume=True, **options(slides))
    assert all(torch.equal(*pair) for pair in zip(weights(whole), weights(resumed), strict=True))


def test_tiles_of_several_magnifications_are_drawn_by_their_shares_about_the_same_centers(slides: Path):
    shares = {"40x": 0.2, "20x": 0.4, "10x": 0.4}
    tiles = mixed(slides, shares)
    found = Counter()
    for seed in range(300):
        index = seed % len(tiles)
        before, row = tiles.row(index), tiles.drawn(index, seed).row
        assert isinstance(row, TileRow)
        assert row.shape == (3, 64, 64)
        found[row.mpp] += 1
        height, width = row.slide.shape[1:]
        side = 64 * row.mpp / row.slide.mpp
        assert min(row.x, row.y) >= 0
        assert max(row.x + side - width, row.y + side - height) <= 1
        if 32 < before.x < width - 96 and 32 < before.y < height - 96:
            assert abs(row.x + side / 2 - before.x - 32) <= 1
            assert abs(row.y + side / 2 - before.y - 32) <= 1
    assert set(found) == {0.5, 1.0}  # a slide of 20x has no 40x
    assert found[0.5] / 300 == pytest.approx(0.5, abs=0.1)
    assert torch.equal(tiles.drawn(3, 7).pixels, tiles.drawn(3, 7).pixels)
    assert tiles[0].row.mpp == 0.5


def test_slides_without_any_of_the_magnifications_are_told(slides: Path):
    with pytest.raises(DataError, match=r"too low a resolution for slides\.magnifications \(40x\)"):
        mixed(slides, {"40x": 1.0})


def test_pretraining_looks_at_several_magnifications(slides: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    magnifications = {"slides": {"key": slides / "key", "magnifications": {"40x": 0.2, "20x": 0.4, "10x": 0.4}}}
    pretrain(output=tmp_path / "out", **options(slides, **magnifications))
    assert "3 of 3 slides have no tiles at 40x; the other magnifications are used for them" in caplog.text


def mixed(folder: Path, shares: dict[str, float]) -> TileSamples:
    manifest = Manifest.read(folder / "dataset")
    config = MixedSlidesConfig.parse({"key": folder / "key", "magnifications": shares})
    return TileSamples(manifest, Preprocess(kind="image", channels=3, intensity=Normalization(method="range")), config)


def test_a_key_that_knows_no_slides_is_told(slides: Path, tmp_path: Path):
    with pytest.raises(DataError, match=r"no location of this slide is recorded.*; pass the slides\.key"):
        pretrain(output=tmp_path / "out", **options(slides, slides={"key": tmp_path / "other"}))


def test_crops_across_a_study_are_not_of_slides(slides: Path, tmp_path: Path):
    objective = {"name": "dino", "views": {"size": [32, 32], "local_size": [16, 16], "across_study": True}}
    with pytest.raises(ConfigError, match="not supported for tiles of slides"):
        pretrain(output=tmp_path / "out", **options(slides, objective=objective))
