"""Predictions of mirrored and turned images are averaged."""

from __future__ import annotations

import pytest
import torch

from medvit.errors import ConfigError
from medvit.models.image import Model, ModelConfig
from medvit.training.task import require_turnable

VIT = {"name": "vit", "channels": 1, "patch_size": 4, "width": 24, "depth": 1, "heads": 2}


def model(kind: str, ndim: int, **options: object) -> Model:
    torch.manual_seed(0)
    head = {"name": "unetr", "channels": 2} if kind == "segmentation" else {"name": "linear"}
    given = {"kind": kind, "backbone": VIT | {"ndim": ndim}, "peft": "full", "head": head, "classes": ["a", "b"]}
    config = ModelConfig.parse(given | options)
    built = Model(config, config.backbone.build()).eval()
    for weight in built.head.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight)
    return built


@pytest.mark.parametrize(("ndim", "shape"), [(2, (8, 12)), (3, (8, 12, 4))])
def test_with_all_turns_and_mirrors_of_a_plane_a_turned_image_has_turned_predictions(ndim, shape):
    built = model("segmentation", ndim, mirrored_axes=[0, 1], turned_axes=[0, 1])
    pixels = torch.randn(1, 1, *shape)
    found = built.predict(pixels)
    for other in (lambda x: x.rot90(1, [2, 3]), lambda x: x.flip(2), lambda x: x.transpose(2, 3)):
        torch.testing.assert_close(built.predict(other(pixels)), other(found))
    alone = model("segmentation", ndim)
    assert not torch.allclose(alone.predict(pixels.rot90(1, [2, 3])), alone.predict(pixels).rot90(1, [2, 3]), atol=1e-3)


def test_turns_do_not_change_the_class_of_an_image():
    built = model("classification", 2, turned_axes=[0, 1])
    pixels = torch.randn(2, 1, 8, 12)
    torch.testing.assert_close(built.predict(pixels.rot90(1, [2, 3])), built.predict(pixels))


def test_mirrors_that_are_turns_are_not_predicted_twice():
    built = model("segmentation", 2, mirrored_axes=[0, 1], turned_axes=[0, 1])
    assert len(list(built._mirrors())) == 2


@pytest.mark.parametrize(("crop", "axes"), [((8, 16), (0, 1)), ((8, 8), (1, 1))])
def test_crops_that_turns_change_are_refused(crop, axes):
    with pytest.raises(ConfigError, match="needs two axes on which crops are equally long"):
        require_turnable(crop, axes)
