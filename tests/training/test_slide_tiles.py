"""Pretraining on the tiles of slides, as a user runs it."""

from pathlib import Path

import pytest
import torch

from medvit.artifacts import Checkpoint
from medvit.errors import ConfigError, DataError
from medvit.phantoms.slide import slide, write_tiff
from medvit.training.module import TrainingModule
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
        tiles={"size": 64},
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
        "trainer": {"rounds": 2, "round_steps": 2, "precision": "32-true"},
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
        with pytest.raises(BaseException):  # noqa: B017 (how it ends is told elsewhere)
            pretrain(output=tmp_path / "cut", **options(slides))
    resumed = pretrain(output=tmp_path / "cut", resume=True, **options(slides))
    assert all(torch.equal(*pair) for pair in zip(weights(whole), weights(resumed), strict=True))


def test_a_key_that_knows_no_slides_is_told(slides: Path, tmp_path: Path):
    with pytest.raises(DataError, match=r"is not written beside the key; give slides\.key"):
        pretrain(output=tmp_path / "out", **options(slides, slides={"key": tmp_path / "other"}))


def test_crops_across_a_study_are_not_of_slides(slides: Path, tmp_path: Path):
    objective = {"name": "dino", "views": {"size": [32, 32], "local_size": [16, 16], "across_study": True}}
    with pytest.raises(ConfigError, match="tiles of slides have none"):
        pretrain(output=tmp_path / "out", **options(slides, objective=objective))
