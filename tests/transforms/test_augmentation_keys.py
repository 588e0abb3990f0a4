"""One set of keys in every stage, each with one meaning; earlier names are accepted with a warning."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from medvit.config import RENAMED, keys
from medvit.errors import ConfigError
from medvit.objectives.simmim import SimMimConfig
from medvit.training.finetuning_options import FinetuningOptions
from medvit.transforms.augmentation.change import CropDraw, apply_change, draw_change
from medvit.transforms.augmentation.options import (
    Augmentation,
    ContrastiveAugmentation,
    FinetuningAugmentation,
    MaskedAugmentation,
)
from medvit.transforms.augmentation.spatial import CropBox
from medvit.transforms.views import MaskedViewsConfig, MultiCropConfig, ViewsConfig

EVERYTHING = {
    "rotation_degrees": 20,
    "scale": 0.1,
    "translation": 0.1,
    "flipped_axes": [0, 1],
    "chance": 1.0,
    "windows": [[40, 400]],
    "stain": 0.1,
    "gamma": 0.2,
    "contrast": 0.2,
    "brightness": 0.2,
    "bias_field": 0.2,
    "color": 0.1,
    "grayscale": 1.0,
    "blur": 1.0,
    "blur_chances": [1.0],
    "solarize": 1.0,
    "one_of": [],
    "noise": 0.1,
    "erasing": 1.0,
}


def augment_keys(kind) -> dict[str, tuple[str, str]]:
    """Keys of the group `augment` with their type and help."""
    found = [key for key in keys(kind) if key.name.startswith("augment.") and key.type != RENAMED]
    return {key.name.removeprefix("augment."): (key.type, key.help) for key in found}


def test_fine_tuning_and_every_kind_of_views_have_the_same_keys_with_the_same_help():
    expected = augment_keys(FinetuningOptions)
    assert expected.keys() == EVERYTHING.keys()
    assert all(text for _, text in expected.values())
    for kind in (ViewsConfig, MultiCropConfig, MaskedViewsConfig):
        assert augment_keys(kind) == expected


def test_by_default_plain_views_change_nothing_and_nothing_is_flipped_anywhere():
    plain = Augmentation()
    pixels = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0))
    for seed in range(10):
        change = draw_change(plain, np.random.default_rng(seed), ndim=2, channels=3)
        sampler = CropDraw(CropBox((0, 0), (8, 8)), change).sampler((8, 8), (8, 8), None)
        assert torch.equal(apply_change(pixels, sampler, change), pixels)
    for kind in (FinetuningAugmentation, ContrastiveAugmentation, MaskedAugmentation):
        assert kind().flipped_axes == kind().windows == ()
        assert kind().erasing == kind().solarize == kind().grayscale == 0


@pytest.mark.parametrize("key", [key for key in EVERYTHING if key not in ("chance", "blur_chances", "one_of")])
@pytest.mark.parametrize("ndim", [2, 3])
def test_turning_one_change_off_leaves_every_other_draw_as_it_is(key, ndim):
    off = Augmentation.parse({name: value for name, value in EVERYTHING.items() if name != key})
    on = Augmentation.parse(EVERYTHING)
    own = {
        "rotation_degrees": {"angles"},
        "scale": {"scales"},
        "translation": {"shifts"},
        "flipped_axes": {"flipped_axes"},
        "windows": {"window"},
        "stain": {"stain"},
        "gamma": {"gamma"},
        "contrast": {"contrast"},
        "brightness": {"brightness"},
        "bias_field": {"field"},
        "color": {"gains"},
        "grayscale": {"is_gray"},
        "blur": {"sigma"},
        "solarize": {"is_solarized"},
        "noise": {"noise"},
        "erasing": {"erasure"},
    }[key]
    for seed in range(20):
        with_it, without = (
            draw_change(config, np.random.default_rng(seed), ndim=ndim, channels=3) for config in (on, off)
        )
        parts = [(with_it.spatial, without.spatial), (with_it.intensity, without.intensity)]
        pairs = {name: (value, vars(after)[name]) for before, after in parts for name, value in vars(before).items()}
        pairs["erasure"] = (with_it.erasure, without.erasure)
        differing = {name for name, (one, other) in pairs.items() if one != other}
        assert differing <= own
        assert differing or key == "flipped_axes"


def test_earlier_names_mean_the_present_keys_and_warn(caplog):
    with caplog.at_level(logging.WARNING, logger="medvit"):
        fine = FinetuningAugmentation.parse({"probability": 0.1})
        views = MultiCropConfig.parse({"intensity": {"gamma": 0.1}, "flipped_axes": [1]})
        plain = ViewsConfig.parse({"flipped_axes": [0]})
    assert fine.chance == 0.1
    assert (views.augment.gamma, views.augment.flipped_axes, views.augment.contrast) == (0.1, (1,), 0.2)
    assert plain.augment.flipped_axes == (0,)
    for old, new in (("probability", "chance"), ("intensity", "augment"), ("flipped_axes", "augment.flipped_axes")):
        assert f"{old} is now called {new}" in caplog.text


def test_giving_one_key_leaves_the_others_at_the_default_of_the_stage():
    assert MaskedViewsConfig.parse({"num_local": 2}).scale == (0.32, 1.0)
    assert MaskedViewsConfig.parse({"augment": {"noise": 0}}).augment.blur_chances == (0.0, 0.9, 0.5)
    assert FinetuningAugmentation.parse({"noise": 0}).rotation_degrees == 15


def test_blur_has_one_chance_or_one_of_each_kind_of_crop():
    assert [Augmentation(chance=0.2).blur_chance(kind) for kind in range(3)] == [0.2, 0.2, 0.2]
    assert [Augmentation(blur_chances=(0.4,)).blur_chance(kind) for kind in range(3)] == [0.4, 0.4, 0.4]
    assert [ContrastiveAugmentation().blur_chance(kind) for kind in range(3)] == [1.0, 0.1, 0.5]
    with pytest.raises(ConfigError, match="blur_chances has 2 numbers; expected an empty list, one number or three"):
        Augmentation.parse({"blur_chances": [0.1, 0.2]})
    with pytest.raises(ConfigError, match="fine-tuning has one kind of crop"):
        FinetuningAugmentation.parse({"blur_chances": [0.1, 0.2, 0.3]})


def test_one_key_of_the_views_of_simmim_leaves_the_scale_of_its_crops():
    assert SimMimConfig.parse({"views": {"size": [32, 32]}}).views.scale == SimMimConfig().views.scale == (0.67, 1.0)
