"""Pretraining and fine-tuning as a user runs them, on a handful of tiny volumes and images."""

import json
import re
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from medvit.artifacts import ADAPTER, Checkpoint
from medvit.dataset.manifest import Manifest
from medvit.errors import CheckpointError, ConfigError, DataError, TrainingError
from medvit.models.image import Model
from medvit.tasks import image_task
from medvit.training.trainer import TrainerConfig, resolve_precision
from pipelines.finetune import finetune
from pipelines.pretrain import pretrain

OFF = {"enabled": False}
TINY = {"name": "vit", "channels": 1, "patch_size": 8, "width": 32, "depth": 2, "heads": 2}
MAE = {"name": "mae", "decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2}


def pretrain_options(data: Path, **more) -> dict:
    options = {
        "dataset": data,
        "tracking": OFF,
        "backbone": TINY | {"ndim": 3},
        "objective": MAE | {"views": {"size": [16, 16, 16]}},
        "trainer": {"epochs": 2, "steps_per_epoch": 2, "precision": "32-true"},
        "loader": {"batch_size": 2},
        "monitors": {"knn_images": 4},
    }
    return options | more


def finetune_options(data: Path, **more) -> dict:
    return {
        "dataset": data,
        "tracking": OFF,
        "backbone": TINY | {"ndim": 3},
        "head": {"name": "dense", "channels": 4, "num_depths": 2},
        "trainer": {"epochs": 2, "steps_per_epoch": 2, "precision": "32-true"},
        "loader": {"batch_size": 2},
    } | more


def interrupt(stage, monkeypatch, after: int, **options) -> None:
    """Runs a stage and stops it in the middle of the step after `after`, as a kill would."""
    from medvit.training.lightning_module import TrainingModule

    seeded = TrainingModule.on_train_batch_start

    def stop(module, batch, batch_idx):
        if module.global_step >= after:
            raise KeyboardInterrupt
        seeded(module, batch, batch_idx)

    with monkeypatch.context() as patched:
        patched.setattr(TrainingModule, "on_train_batch_start", stop)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            stage(**options)


def card_without_cost(folder: Path) -> str:
    """The model card without time and energy, which differ between runs."""
    return (folder / "model_card.md").read_text().partition("## Training cost")[0]


def same_weights(one: Checkpoint, other: Checkpoint) -> bool:
    assert one.state.keys() == other.state.keys()
    return all(torch.equal(one.state[name], other.state[name]) for name in one.state)


@pytest.fixture(scope="module")
def pretrained(volumes, tmp_path_factory) -> Checkpoint:
    """A run of the usual options that nothing interrupts."""
    return pretrain(output=tmp_path_factory.mktemp("pretrained") / "whole", **pretrain_options(volumes))


@pytest.fixture(scope="module")
def finetuned(volumes, tmp_path_factory) -> Checkpoint:
    """A run of the usual options that nothing interrupts."""
    return finetune(output=tmp_path_factory.mktemp("finetuned") / "whole", **finetune_options(volumes))


def test_a_resumed_pretraining_repeats_the_uninterrupted_one_bit_for_bit(volumes, pretrained, tmp_path, monkeypatch):
    interrupt(pretrain, monkeypatch, 3, output=tmp_path / "cut", **pretrain_options(volumes))
    assert not (tmp_path / "cut").exists()
    resumed = pretrain(output=tmp_path / "cut", resume=True, **pretrain_options(volumes))
    assert same_weights(Checkpoint.load(pretrained.folder), Checkpoint.load(resumed.folder))


def test_a_resumed_finetuning_repeats_the_uninterrupted_one_bit_for_bit(volumes, finetuned, tmp_path, monkeypatch):
    interrupt(finetune, monkeypatch, 3, output=tmp_path / "cut", **finetune_options(volumes))
    resumed = finetune(output=tmp_path / "cut", resume=True, **finetune_options(volumes))
    assert same_weights(Checkpoint.load(finetuned.folder), Checkpoint.load(resumed.folder))


def test_deep_supervision_trains_and_the_checkpoint_predicts(volumes, tmp_path):
    """The auxiliary layers differ from those of a head that is built again with the same seed."""
    head = {"name": "unetr", "channels": 4, "num_supervised": 2}
    options = finetune_options(volumes, head=head, crop=[12, 16, 16])
    made = finetune(output=tmp_path / "made", **options | {"trainer": {"epochs": 1, "steps_per_epoch": 1}})
    other = finetune(output=tmp_path / "other", **options | {"trainer": {"epochs": 1, "steps_per_epoch": 2}})
    names = [name for name in made.state if "auxiliary" in name]
    assert len(names) == 4  # weight and bias
    assert all(not torch.equal(made.state[name], other.state[name]) for name in names)
    found = Model.from_checkpoint(Checkpoint.load(other.folder)).predict(torch.randn(1, 1, 12, 16, 16))
    assert found.shape[2:] == (12, 16, 16)


@pytest.mark.parametrize("keep", ["best", "last"])
def test_a_resumed_finetuning_with_averaged_weights_repeats_the_uninterrupted_one(
    volumes, finetuned, tmp_path, monkeypatch, keep
):
    options = finetune_options(volumes, ema=0.9, keep=keep)
    whole = finetune(output=tmp_path / "whole", **options)
    assert not same_weights(whole, finetuned)
    interrupt(finetune, monkeypatch, 3, output=tmp_path / "cut", **options)
    assert same_weights(whole, finetune(output=tmp_path / "cut", resume=True, **options))


def test_the_average_does_not_change_the_training(volumes, tmp_path, monkeypatch):
    """The weights after the last step equal those of a run without an average."""
    plain = finetune(output=tmp_path / "plain", **finetune_options(volumes, keep="last"))
    with monkeypatch.context() as patched:
        patched.setattr("medvit.models.weight_average.WeightAverage.swap", lambda average: None)
        averaged = finetune(output=tmp_path / "averaged", **finetune_options(volumes, keep="last", ema=0.9))
    assert same_weights(plain, averaged)


@pytest.mark.parametrize(("more", "words"), [({"peft": "adalora"}, "peft=adalora removes"), ({}, "fsdp")])
def test_weights_that_cannot_be_averaged_are_refused(volumes, tmp_path, more, words):
    options = finetune_options(volumes, ema=0.9) | more
    options["trainer"] |= {} if more else {"strategy": "fsdp"}
    with pytest.raises(ConfigError, match=words):
        finetune(output=tmp_path / "out", **options)


def test_the_last_weights_need_no_validation_images(volumes, tmp_path, monkeypatch):
    """Whether there are validation images or none, the weights are those of the last step; a resumed run has them."""
    options = finetune_options(volumes, keep="last")
    whole = finetune(output=tmp_path / "whole", **options)
    alone = Manifest.read(volumes).filter(lambda row: row.split == "train")
    alone = replace(alone, folder=shutil.copytree(volumes, tmp_path / "train-only"))
    alone.write()
    assert same_weights(whole, finetune(output=tmp_path / "alone", **options | {"dataset": alone.folder}))
    interrupt(finetune, monkeypatch, 3, output=tmp_path / "cut", **options)
    assert same_weights(whole, finetune(output=tmp_path / "cut", resume=True, **options))
    assert whole.training["kept"] == "the weights of the last step"
    assert "val_dice" not in (whole.folder / "model_card.md").read_text()


def test_a_resumed_finetuning_with_a_schedule_of_ranks_repeats_the_uninterrupted_one(
    volumes, pretrained, tmp_path, monkeypatch
):
    way = {"name": "adalora", "rank": 2, "initial_rank": 4, "interval": 1, "final": 0.2}
    options = finetune_options(volumes, checkpoint=pretrained.folder, peft=way)
    options.pop("backbone", None)
    whole = finetune(output=tmp_path / "whole", **options)
    interrupt(finetune, monkeypatch, after=2, output=tmp_path / "cut", **options)
    resumed = finetune(output=tmp_path / "cut", resume=True, **options)
    assert same_weights(whole, resumed)


def test_pretraining_with_a_schedule_of_ranks_is_refused(volumes, tmp_path):
    with pytest.raises(ConfigError, match="peft=adalora changes its adapter during fine-tuning"):
        pretrain(output=tmp_path / "out", **pretrain_options(volumes, peft="adalora"))


def test_a_run_stopped_after_its_last_round_ends_with_the_figures_of_the_whole(
    volumes, finetuned, tmp_path, monkeypatch
):
    def stop(module):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("medvit.training.finetuning.Finetuning.restore_best", stop)
        with pytest.raises(KeyboardInterrupt):
            finetune(output=tmp_path / "cut", **finetune_options(volumes))
    resumed = finetune(output=tmp_path / "cut", resume=True, **finetune_options(volumes))
    assert same_weights(Checkpoint.load(finetuned.folder), Checkpoint.load(resumed.folder))
    one, other = (card_without_cost(made.folder) for made in (finetuned, resumed))
    assert "val_dice" in one
    assert "steps: 4 of 2 images: 8 images, 1 pass over the training data" in one
    assert one == other
    assert finetuned.training == resumed.training
    assert re.fullmatch(
        r"val_dice 0\.\d+, epoch \d of \d \(step \d+: \d+ images, .* training data\)", finetuned.training["best"]
    )


@pytest.mark.parametrize("stage", [pretrain, finetune], ids=["pretrain", "finetune"])
def test_a_run_killed_before_it_has_its_name_takes_no_step_again(volumes, tmp_path, monkeypatch, request, stage):
    from medvit.training.lightning_module import TrainingModule

    options = (pretrain_options if stage is pretrain else finetune_options)(volumes)
    whole = request.getfixturevalue("pretrained" if stage is pretrain else "finetuned")

    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("medvit.stage.rename", stop)
        with pytest.raises(KeyboardInterrupt):
            stage(output=tmp_path / "cut", **options)
    with monkeypatch.context() as patched:
        patched.setattr(TrainingModule, "on_train_batch_start", stop)
        resumed = stage(output=tmp_path / "cut", resume=True, **options)
    assert same_weights(Checkpoint.load(whole.folder), Checkpoint.load(resumed.folder))
    names = [{path.name for path in made.folder.iterdir()} for made in (whole, resumed)]
    assert names[0] == names[1]
    assert not {"last.ckpt", "best.safetensors", ".lock"} & names[0]


def test_the_configuration_that_is_kept_is_that_of_the_model(volumes, tmp_path):
    from pipelines.finetune import FinetuneConfig
    from pipelines.pretrain import PretrainConfig

    follows = {"objective": MAE, "trainer": {"epochs": 1, "steps_per_epoch": 2}}  # sizes and precision are not given
    backbone = pretrain(output=tmp_path / "backbone", **pretrain_options(volumes, **follows))
    kept = PretrainConfig.load(tmp_path / "backbone" / "config.yaml")
    assert kept.preprocess is not None
    assert kept.preprocess.tree() == backbone.preprocess
    assert kept.peft.name == "full"
    assert kept.trainer.precision == resolve_precision("auto")
    assert len(kept.objective.views.size) == 3
    options = finetune_options(volumes, checkpoint=backbone.folder)
    del options["backbone"], options["head"]
    model = finetune(output=tmp_path / "model", **options)
    tuned = FinetuneConfig.load(tmp_path / "model" / "config.yaml", [f"output={tmp_path / 'again'}"])
    assert tuned.backbone.tree() == model.model["backbone"]
    assert tuned.backbone.width == 32
    assert tuned.preprocess.tree() == model.preprocess
    assert tuned.head.tree() == model.model["head"]
    assert tuned.trainer.tree() == TrainerConfig.parse(options["trainer"]).in_force.tree()
    assert list(tuned.crop) == list(model.model["roi"])
    assert tuned.applies_to.tree() == model.model["applies_to"]
    again = finetune(tuned)
    assert same_weights(Checkpoint.load(model.folder), Checkpoint.load(again.folder))


def test_a_damaged_checkpoint_to_resume_from_is_told(volumes, tmp_path, monkeypatch):
    interrupt(finetune, monkeypatch, 3, output=tmp_path / "cut", **finetune_options(volumes))
    (tmp_path / "cut.partial" / "last.ckpt").write_bytes(b"damaged by a full disk")
    with pytest.raises(CheckpointError, match="is damaged and cannot be resumed from; remove it"):
        finetune(output=tmp_path / "cut", resume=True, **finetune_options(volumes))


def test_a_split_of_one_class_keeps_the_last_round_and_says_so(images, tmp_path, caplog):
    manifest = Manifest.read(images)
    (tmp_path / "images").symlink_to(images / "images") if (images / "images").exists() else None
    rows = tuple(r for r in manifest if r.split == "train" or r.labels["label"] == "dark")
    Manifest(rows, manifest.facts, tmp_path).write()
    options = finetune_options(
        tmp_path,
        backbone=TINY | {"ndim": 2},
        preprocess={"kind": "image"},
        head=None,
        trainer={"epochs": 2, "steps_per_epoch": 2},
    )
    tuned = finetune(output=tmp_path / "tuned", **options)
    assert "val_auroc is undefined on images of one class" in caplog.text
    assert "step of the kept epoch: 4" in (tuned.folder / "model_card.md").read_text()


def test_drop_path_is_of_the_training_and_other_options_are_of_the_checkpoint(volumes, pretrained, tmp_path, caplog):
    options = finetune_options(volumes, checkpoint=pretrained.folder, backbone={"drop_path": 0.25, "size": "large"})
    tuned = finetune(output=tmp_path / "tuned", **options)
    assert tuned.model["backbone"]["drop_path"] == 0.25
    assert tuned.model["backbone"]["width"] == 32
    assert "backbone.size=large is ignored" in caplog.text
    assert not any("drop_path" in record.message for record in caplog.records if record.levelname == "WARNING")


def test_options_that_masks_do_not_need_are_said_to_be_ignored(volumes, tmp_path, caplog):
    options = finetune_options(volumes, balance="sampler", smoothing=0.1, mixing={"mixup": 0.2})
    finetune(output=tmp_path / "tuned", **options)
    assert "balance=sampler is ignored" in caplog.text
    assert "mixing.mixup=0.2 is ignored" in caplog.text
    assert "smoothing=0.1 is ignored" in caplog.text


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"crop": [16, 16]}, "crop has 2 numbers; the images of this model have 3 axes"),
        ({"trainer": {"epochs": 0}}, "trainer.epochs: input should be greater than or equal to 1"),
        ({"loader": {"batch_size": 0}}, "loader.batch_size: input should be greater"),
        ({"peft": {"name": "lora", "rank": 0}}, "peft.rank: input should be greater"),
        ({"mirrored_axes": [7]}, "mirrored_axes.0: input should be less than or equal to 2"),
        ({"smoothing": 7}, "smoothing: input should be less than 1"),
        ({"preprocess": {"intensity": {"mean": [0.5]}}}, "the method zscore does not use mean"),
    ],
)
def test_options_that_cannot_work_are_refused_at_the_door(volumes, tmp_path, options, sentence):
    with pytest.raises(ConfigError) as caught:
        finetune(output=tmp_path / "tuned", **finetune_options(volumes, **options))
    assert sentence in str(caught.value)
    assert not (tmp_path / "tuned.partial").exists()


def test_a_large_image_is_classified_by_the_mean_over_crops_that_cover_it(images, tmp_path):
    options = finetune_options(
        images, backbone=TINY | {"ndim": 2}, preprocess={"kind": "image"}, head=None, crop=[8, 8], overlap=0
    )
    model = Model.from_checkpoint(Checkpoint.load(finetune(output=tmp_path / "tuned", **options).folder))
    pixels = torch.randn(1, 1, 16, 24)
    crops = [pixels[..., i : i + 8, j : j + 8] for i in (0, 8) for j in (0, 8, 16)]
    mean = torch.stack([model.predict(crop) for crop in crops]).mean(0)
    torch.testing.assert_close(model.predict(pixels), mean, atol=1e-6, rtol=0)


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
        trainer={"epochs": 2, "steps_per_epoch": 20},
        loader={"batch_size": 4},
    )
    tuned = finetune(output=tmp_path / "tuned", **options)
    model = Model.from_checkpoint(Checkpoint.load(tuned.folder))
    assert model.config.classes == ("dark", "bright")
    manifest = Manifest.read(images).split("val")
    from medvit.dataset.samples import Samples

    encode = partial(image_task("classification").encoded, target=model.config.target)
    samples = Samples(manifest, start_preprocess(tuned), encode=encode)
    hits = [int(model.predict(sample.pixels[None]).argmax()) == int(sample.target) for sample in samples]
    assert np.mean(hits) == 1.0


def test_every_correction_of_imbalance_changes_what_is_learned(images, tmp_path):
    manifest = Manifest.read(images)
    (tmp_path / "images").symlink_to(images / "images")
    bright = [row.image_id for row in manifest if row.split == "train" and row.labels["label"] == "bright"]
    rows = tuple(row for row in manifest if row.image_id not in bright[1:])
    Manifest(rows, manifest.facts, tmp_path).write()

    def trained(balance: str) -> Checkpoint:
        options = finetune_options(
            tmp_path,
            backbone=TINY | {"ndim": 2},
            preprocess={"kind": "image"},
            head=None,
            peft="frozen",
            balance=balance,
            keep="last",
            loader={"batch_size": 4},
            trainer={"epochs": 1, "steps_per_epoch": 5, "precision": "32-true"},
        )
        return finetune(output=tmp_path / balance, **options)

    plain = trained("off")
    for balance in ("loss", "sampler", "logits", "deferred", "repeat"):
        assert not same_weights(trained(balance), plain), balance


def start_preprocess(checkpoint):
    from medvit.transforms.preprocess import Preprocess

    return Preprocess.parse(checkpoint.preprocess)


def test_a_checkpoint_of_another_task_is_refused_in_one_sentence(volumes, finetuned, tmp_path):
    with pytest.raises(CheckpointError, match="is a segmentation checkpoint; this stage needs backbone"):
        finetune(output=tmp_path / "again", **finetune_options(volumes, checkpoint=finetuned.folder))
    assert not (tmp_path / "again").exists()
    assert not (tmp_path / "again.partial").exists()


def test_a_dataset_without_the_label_says_which_it_has(images, tmp_path):
    options = finetune_options(
        images, backbone=TINY | {"ndim": 2}, preprocess={"kind": "image"}, label="grade", head=None
    )
    with pytest.raises(DataError, match=r"has a mask or a label 'grade' \(labels found: label\)"):
        finetune(output=tmp_path / "tuned", **options)


def test_a_loss_that_is_no_number_stops_before_the_weights_change(volumes, tmp_path):
    options = pretrain_options(volumes, optim={"lr": 1e30, "clip": 1e30})
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) at step \d+ \(reconstruction .*; rows i-\d+"):
        pretrain(output=tmp_path / "out", **options)


def test_the_card_of_a_checkpoint_says_what_it_is_and_is_not(finetuned):
    card = (finetuned.folder / "model_card.md").read_text()
    assert "Not a medical device" in card
    assert "background, ball" in card
    assert json.loads((finetuned.folder / "lineage.json").read_text())["stage"] == "finetune"
