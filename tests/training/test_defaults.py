"""Defaults follow the data, also where one key of a group is set."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from safetensors.torch import save_file

from medvit.backbones.vit import VitConfig
from medvit.dataset.manifest import Manifest
from medvit.models.image import AppliesTo
from medvit.training.assembly import _rule
from medvit.training.loading.epochs import LoaderConfig
from medvit.training.loading.schedule import Schedule
from medvit.training.trainer import TrainerConfig
from medvit.transforms.preprocess import Preprocess
from medvit.types import RunLength
from pipelines.finetune import FinetuneConfig
from tests.training.test_runs import TINY, finetune_options


def preprocess_of(data: Path, out: Path, **more: object) -> Preprocess:
    options = finetune_options(data, output=out, backbone=TINY | {"ndim": 2}, head=None, **more)
    return FinetuneConfig.parse(options).start(Manifest.read(data), None).preprocess


def test_one_key_of_preprocessing_leaves_the_others_to_follow_the_data(images: Path, tmp_path: Path) -> None:
    whole = preprocess_of(images, tmp_path)
    sized = preprocess_of(images, tmp_path, preprocess={"size": [64, 64]})
    assert sized == whole.model_copy(update={"size": (64, 64)})
    assert sized.kind == "image"


def test_a_preprocessing_that_names_its_kind_is_taken_as_it_stands(images: Path, tmp_path: Path) -> None:
    given = {"kind": "image", "channels": 1}
    assert preprocess_of(images, tmp_path, preprocess=given) == Preprocess.parse(given)


def test_one_key_of_the_rule_for_series_leaves_kind_and_modality_to_the_data() -> None:
    followed = AppliesTo(kind="image", modality="DX")
    assert _rule(None, followed) == followed
    found = _rule(AppliesTo.parse({"description": "chest"}), followed)
    assert (found.kind, found.modality, found.description) == ("image", "DX", "chest")
    assert _rule(AppliesTo.parse({"modality": None}), followed).modality is None


@pytest.mark.parametrize(("given", "grid"), [({}, (8, 8)), ({"weights_grid": [4, 16]}, (4, 16))])
def test_the_grid_that_public_positions_were_taken_for_is_recorded_and_reads_alike_again(
    images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, given: dict[str, object], grid: tuple[int, int]
) -> None:
    """A bare file of 64 positions does not state whether they are of 8 x 8 patches or of 4 x 16."""
    shape = TINY | {"ndim": 2, "positions": "learned", "image_size": 64}
    plain = VitConfig.parse({key: value for key, value in shape.items() if key != "name"})
    save_file(plain.build().state_dict(), tmp_path / "w.safetensors")
    options = finetune_options(images, output=tmp_path / "out", head=None)
    options["backbone"] = shape | {"weights": str(tmp_path / "w.safetensors")} | given
    with caplog.at_level(logging.INFO, "medvit"):
        start = FinetuneConfig.parse(options).start(Manifest.read(images), None)
    assert start.config.weights_grid == grid
    assert ("positions assumed to be a grid of 8 x 8" in caplog.text) == (not given)
    options["backbone"] = start.config.tree()
    again = FinetuneConfig.parse(options).start(Manifest.read(images), None)
    assert again.config == start.config
    assert again.backbone.pos_embed.equal(start.backbone.pos_embed)


def test_a_training_that_does_not_see_every_image_once_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    schedule = Schedule(LoaderConfig(batch_size=4), TrainerConfig(epochs=2, steps_per_epoch=5))
    with caplog.at_level(logging.INFO, "medvit"):
        schedule.report_exposure(100)
        schedule.report_exposure(20)
    assert "10 steps of 4 images see 40 of 100 training images: trainer.epochs=5 sees each once" in caplog.text
    assert "10 steps of 4 images, 40 in all: each of the 20 training images is seen 2 times" in caplog.text


def test_batches_of_a_step_are_counted_one_by_one_where_every_batch_counts() -> None:
    trainer = TrainerConfig(epochs=2, steps_per_epoch=5, accumulate=3, devices=2)
    length = Schedule(LoaderConfig(batch_size=4), trainer).run_length(100)
    assert (length.step_images, length.num_steps) == (24, 10)
    assert length.in_batches == RunLength(100, step_images=8, num_steps=30)
