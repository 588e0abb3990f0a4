"""Training with random patch sizes: one checkpoint predicts with each of them."""

from __future__ import annotations

import numpy as np
import pytest

from medvit.dataset.manifest import Manifest
from medvit.dataset.samples import load
from medvit.errors import ConfigError
from medvit.inference.predictor import Predictor
from pipelines.finetune import finetune
from pipelines.pretrain import pretrain
from tests.training.ensembles.test_folds import DENSE, QUICK
from tests.training.test_runs import TINY

FLEXIBLE = {"backbone": TINY | {"patch_sizes": [4, 8, 16]}}


@pytest.fixture(scope="module")
def classifier(images, tmp_path_factory):
    trainer = {"epochs": 2, "steps_per_epoch": 30, "precision": "32-true"}
    window = {"method": "window", "window_center": 150, "window_width": 300}
    preprocess = {"kind": "image", "intensity": window}
    options = QUICK | FLEXIBLE | {"trainer": trainer, "optim": {"lr": 2e-3}, "preprocess": preprocess}
    return finetune(dataset=images, output=tmp_path_factory.mktemp("flexible") / "model", **options)


@pytest.mark.parametrize("size", [None, 4, 8, 16])
def test_one_model_predicts_with_patches_of_every_size(classifier, images, size):
    manifest = Manifest.read(images).split("val")
    predictor = Predictor(classifier, device="cpu", patch_size=size)
    found = [predictor(load(manifest, row)).probabilities for row in manifest]
    names = [predictor.config.classes[int(np.argmax(one))] for one in found]
    assert names == [row.labels["label"] for row in manifest]


def test_patches_of_another_size_need_a_model_that_was_trained_with_several(images, tmp_path):
    fixed = finetune(dataset=images, output=tmp_path / "model", **QUICK)
    with pytest.raises(ConfigError, match="trained with patches of one size"):
        Predictor(fixed, device="cpu", patch_size=4)


def test_decoders_receive_tokens_on_the_usual_grid(volumes, tmp_path):
    options = DENSE | {"backbone": DENSE["backbone"] | {"patch_sizes": [4, 8]}}
    model = finetune(dataset=volumes, output=tmp_path / "model", **options)
    manifest = Manifest.read(volumes)
    image = load(manifest, manifest.rows[0])
    for size in (None, 4):
        mask = Predictor(model, device="cpu", patch_size=size)(image).mask
        assert mask is not None
        assert mask.shape == image.pixels.shape[1:]


def test_sizes_that_do_not_divide_the_crop_are_refused(images, tmp_path):
    with pytest.raises(ConfigError, match=r"the size 16 x 16, which does not divide crop=\[24, 24\]"):
        finetune(dataset=images, output=tmp_path / "model", crop=[24, 24], **QUICK | FLEXIBLE)


def test_objectives_on_patches_of_a_fixed_size_are_refused(images, tmp_path):
    options = {key: value for key, value in QUICK.items() if key != "backbone"}
    with pytest.raises(ConfigError, match="objective=mae predicts patches of a fixed size"):
        pretrain(dataset=images, output=tmp_path / "p", objective="mae", **options, **FLEXIBLE)


def test_dino_trains_with_random_patch_sizes(images, tmp_path):
    options = {key: value for key, value in QUICK.items() if key != "backbone"}
    views = {"size": [16, 16], "local_size": [16, 16], "num_local": 1}
    head = {"hidden": 16, "bottleneck": 8, "prototypes": 16}
    objective = {"name": "dino", "views": views, "head": head}
    made = pretrain(dataset=images, output=tmp_path / "p", objective=objective, **options, **FLEXIBLE)
    assert made.model["backbone"]["patch_sizes"] == [4, 8, 16]
