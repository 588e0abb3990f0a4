"""Largest components are kept where this raises Dice on validation images, and predictions then have one component."""

from __future__ import annotations

import pytest
import torch

from medvit.errors import ConfigError
from medvit.models.image import Model, ModelConfig
from medvit.records import IGNORED
from medvit.training.finetuning import choose_largest_components
from medvit.types import Batch
from pipelines.finetune import finetune
from tests.training.test_runs import finetune_options

VIT = {"name": "vit", "ndim": 2, "channels": 1, "patch_size": 4, "width": 12, "depth": 1, "heads": 2}


class Echo(Model):
    """Model that predicts the classes given as pixels."""

    def predict(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(pixels[:, 0].long(), 3).movedim(-1, 1).float()


def echo() -> Echo:
    head = {"name": "dense", "channels": 4}
    given = {"kind": "segmentation", "backbone": VIT, "peft": "full", "head": head, "classes": ["none", "a", "b"]}
    config = ModelConfig.parse(given)
    return Echo(config, config.backbone.build())


def batch(*, ignored: bool = False) -> Batch:
    """An image in which the second component of `a` is wrong, and that of `b` is true."""
    found, truth = torch.zeros(1, 1, 16, 16), torch.zeros(1, 16, 16, dtype=torch.long)
    for masks in (found[:, 0], truth):
        masks[:, 1:4, 1:4] = 1
        masks[:, 8:11, 1:4], masks[:, 8:10, 8:10] = 2, 2
    found[:, 0, 12:14, 12:14] = 1
    if ignored:
        truth[:, 12:14, 12:14] = IGNORED
    return Batch(found, truth)


def test_only_classes_whose_other_components_are_wrong_are_chosen() -> None:
    assert choose_largest_components(echo(), [batch(), batch()]) == ("a",)


def test_a_component_in_ignored_pixels_does_not_decide() -> None:
    assert choose_largest_components(echo(), [batch(ignored=True)]) == ()


def test_the_decision_is_in_the_checkpoint(volumes, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("pipelines.finetune.choose_largest_components", lambda model, loader: model.config.classes[1:2])
    made = finetune(output=tmp_path / "made", **finetune_options(volumes, largest_components=True))
    assert tuple(made.model["largest_components"]) == tuple(made.model["classes"][1:2])


def test_without_validation_masks_it_is_refused(volumes, tmp_path) -> None:
    options = finetune_options(volumes, largest_components=True, keep="last")
    with pytest.raises(ConfigError, match="decided on masks of the val split, which keep=last does not use"):
        finetune(output=tmp_path / "out", **options)
