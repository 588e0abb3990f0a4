"""Pretraining and fine-tuning as a user runs them, on a handful of tiny volumes and images."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from medvit.artifacts import ADAPTER, Checkpoint
from medvit.errors import CheckpointError, DataError, TrainingError
from medvit.geometry import Affine
from medvit.manifest import Facts, Manifest
from medvit.model import Model
from medvit.samples import Row
from pipelines.finetune import finetune
from pipelines.pretrain import pretrain

OFF = {"enabled": False}
TINY = {"name": "vit", "channels": 1, "patch_size": 8, "width": 32, "depth": 2, "heads": 2}
MAE = {"name": "mae", "decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2}


def row(manifest: Manifest, number: int, split: str, voxels: np.ndarray, mask: np.ndarray | None, labels: dict) -> Row:
    name = f"i-{number}"
    volume = voxels.ndim == 4
    affine = Affine.from_spacing((1.0, 1.0, 1.0))
    return Row(
        name,
        f"p-{number}",
        name,
        name,
        "MR",
        "volume" if volume else "image",
        "tiny",
        split,
        voxels.shape,
        str(voxels.dtype),
        manifest.store.put(voxels),
        labels=labels,
        mask=None if mask is None else manifest.store.put(mask),
        spacing_mm=affine.spacing_mm if volume else None,
        affine=tuple(affine.matrix.ravel()) if volume else None,
    )


def dataset(folder: Path, *, ndim: int) -> Path:
    """Bright balls on noise with their masks in 3D; bright and dark squares as two classes in 2D."""
    folder.mkdir()
    facts = Facts(
        "tiny", classes={"label": ("dark", "bright")}, mask_classes=("background", "ball") if ndim == 3 else ()
    )
    manifest = Manifest((), facts, folder)
    generator = np.random.default_rng(0)
    rows = []
    for number in range(12):
        split = "val" if number % 3 == 0 else "train"
        noise = generator.normal(100, 10, (16,) * ndim)
        if ndim == 3:
            center = generator.uniform(5, 11, 3)
            inside = np.linalg.norm(np.indices(noise.shape).T - center, axis=-1).T < 4
            voxels, labels = noise + 80 * inside, {}
        else:
            inside = None
            voxels, labels = noise * (1 + number % 2), {"label": ("dark", "bright")[number % 2]}
        mask = None if inside is None else inside.astype(np.uint8)
        rows.append(row(manifest, number, split, voxels[None].astype(np.int16), mask, labels))
    Manifest(tuple(rows), facts, folder).write()
    return folder


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    return dataset(tmp_path_factory.mktemp("data") / "volumes", ndim=3)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return dataset(tmp_path_factory.mktemp("data") / "images", ndim=2)


def pretrain_options(data: Path, **more) -> dict:
    options = {
        "dataset": data,
        "tracking": OFF,
        "backbone": TINY | {"ndim": 3},
        "objective": MAE | {"views": {"size": [16, 16, 16]}},
        "trainer": {"rounds": 3, "round_steps": 2, "precision": "32-true"},
        "loader": {"batch_size": 2},
        "monitors": {"knn_images": 4},
    }
    return options | more


def finetune_options(data: Path, **more) -> dict:
    return {
        "dataset": data,
        "tracking": OFF,
        "backbone": TINY | {"ndim": 3},
        "head": {"name": "dense", "channels": 8, "num_depths": 2},
        "trainer": {"rounds": 3, "round_steps": 2, "precision": "32-true"},
        "loader": {"batch_size": 2},
    } | more


def interrupt(stage, monkeypatch, after: int, **options) -> None:
    """Runs a stage and stops it in the middle of the step after `after`, as a kill would."""
    from medvit.training.module import TrainingModule

    seeded = TrainingModule.on_train_batch_start

    def stop(module, batch, batch_idx):
        if module.global_step >= after:
            raise KeyboardInterrupt
        seeded(module, batch, batch_idx)

    with monkeypatch.context() as patched:
        patched.setattr(TrainingModule, "on_train_batch_start", stop)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            stage(**options)


def same_weights(one: Checkpoint, other: Checkpoint) -> bool:
    assert one.state.keys() == other.state.keys()
    return all(torch.equal(one.state[name], other.state[name]) for name in one.state)


def test_a_resumed_pretraining_repeats_the_uninterrupted_one_bit_for_bit(volumes, tmp_path, monkeypatch):
    whole = pretrain(output=tmp_path / "whole", **pretrain_options(volumes))
    interrupt(pretrain, monkeypatch, 3, output=tmp_path / "cut", **pretrain_options(volumes))
    assert not (tmp_path / "cut").exists()
    resumed = pretrain(output=tmp_path / "cut", resume=True, **pretrain_options(volumes))
    assert same_weights(Checkpoint.load(whole.folder), Checkpoint.load(resumed.folder))


def test_a_resumed_finetuning_repeats_the_uninterrupted_one_bit_for_bit(volumes, tmp_path, monkeypatch):
    whole = finetune(output=tmp_path / "whole", **finetune_options(volumes))
    interrupt(finetune, monkeypatch, 5, output=tmp_path / "cut", **finetune_options(volumes))
    resumed = finetune(output=tmp_path / "cut", resume=True, **finetune_options(volumes))
    assert same_weights(Checkpoint.load(whole.folder), Checkpoint.load(resumed.folder))


def test_pretrain_then_finetune_hands_on_the_backbone_and_its_preprocessing(volumes, tmp_path):
    start = pretrain(output=tmp_path / "start", **pretrain_options(volumes, preprocess={"spacing_mm": [1.5, 1.5, 1.5]}))
    options = finetune_options(volumes, checkpoint=start.folder, peft={"name": "frozen"})
    tuned = Checkpoint.load(finetune(output=tmp_path / "tuned", **options).folder)
    assert tuned.preprocess["spacing_mm"] == [1.5, 1.5, 1.5]
    for name, weight in start.state.items():
        assert torch.equal(tuned.state[f"backbone.{name}"], weight), name


def test_a_finetuned_checkpoint_predicts_probabilities_on_any_size(volumes, tmp_path):
    tuned = finetune(output=tmp_path / "tuned", **finetune_options(volumes, crop=[16, 16, 16]))
    model = Model.from_checkpoint(Checkpoint.load(tuned.folder))
    for shape in ((9, 16, 12), (21, 17, 30)):
        probabilities = model.predict(torch.randn(1, 1, *shape))
        assert probabilities.shape == (1, 2, *shape)
        torch.testing.assert_close(probabilities.sum(1), torch.ones(1, *shape), atol=1e-4, rtol=0)


def test_the_adapter_is_small_and_lies_apart(volumes, tmp_path):
    options = finetune_options(volumes, peft={"name": "lora", "rank": 2})
    tuned = Checkpoint.load(finetune(output=tmp_path / "tuned", **options).folder)
    names = set(load_file(tuned.folder / ADAPTER))
    assert any("lora_A" in name for name in names)
    assert not any(name.endswith("base_layer.weight") for name in names)
    assert {name.removeprefix("backbone.") for name in tuned.state if "backbone" in name}.isdisjoint(names)


def test_classes_are_learned_from_images(images, tmp_path):
    options = finetune_options(
        images,
        backbone=TINY | {"ndim": 2},
        preprocess={"kind": "image", "intensity": {"method": "window", "window_center": 150, "window_width": 300}},
        head={"name": "linear"},
        peft="full",
        optim={"lr": 2e-3},
        trainer={"rounds": 2, "round_steps": 20},
        loader={"batch_size": 4},
    )
    tuned = finetune(output=tmp_path / "tuned", **options)
    model = Model.from_checkpoint(Checkpoint.load(tuned.folder))
    assert model.config.classes == ("dark", "bright")
    manifest = Manifest.read(images).split("val")
    from medvit.dataset import Samples

    samples = Samples(manifest, start_preprocess(tuned), label="label", classes=model.config.classes)
    hits = [int(model.predict(sample.pixels[None]).argmax()) == int(sample.target) for sample in samples]
    assert np.mean(hits) == 1.0


def start_preprocess(checkpoint):
    from medvit.transforms.preprocess import Preprocess

    return Preprocess.parse(checkpoint.preprocess)


def test_a_checkpoint_of_another_task_is_refused_in_one_sentence(volumes, tmp_path):
    tuned = finetune(output=tmp_path / "tuned", **finetune_options(volumes))
    with pytest.raises(CheckpointError, match="is a segmentation checkpoint; this stage needs backbone"):
        finetune(output=tmp_path / "again", **finetune_options(volumes, checkpoint=tuned.folder))
    assert not (tmp_path / "again").exists()
    assert not (tmp_path / "again.partial").exists()


def test_a_dataset_without_the_label_says_which_it_has(images, tmp_path):
    options = finetune_options(
        images, backbone=TINY | {"ndim": 2}, preprocess={"kind": "image"}, label="grade", head=None
    )
    with pytest.raises(DataError, match=r"none has a mask or a label 'grade' \(labels found: label\)"):
        finetune(output=tmp_path / "tuned", **options)


def test_a_loss_that_is_no_number_stops_before_the_weights_change(volumes, tmp_path):
    options = pretrain_options(volumes, optim={"lr": 1e30, "clip": 1e30})
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) at step \d+; lower optim\.lr"):
        pretrain(output=tmp_path / "out", **options)


def test_the_card_of_a_checkpoint_says_what_it_is_and_is_not(volumes, tmp_path):
    tuned = finetune(output=tmp_path / "tuned", **finetune_options(volumes))
    card = (tuned.folder / "model_card.md").read_text()
    assert "Not a medical device" in card
    assert "background, ball" in card
    assert json.loads((tuned.folder / "lineage.json").read_text())["stage"] == "finetune"
    shutil.rmtree(tuned.folder)
