"""A mark in a corner that gives a class away: maps find it, and covering the corner changes the prediction."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from medvit.explanations.checks import cell_values
from medvit.explanations.methods import MethodOptions, method_of
from medvit.explanations.outputs import ExplainedOutput
from medvit.models.image import Model
from tests.explanations.conftest import PATCH, SIDE, LesionImages, fit, tiny

CORNER = 35
"""Row-major number of the last of 6 x 6 cells."""


def marked(count: int, seed: int) -> LesionImages:
    """Two classes whose texture differs slightly; images of the second one have a bright mark in the last corner."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(2, (count,), generator=generator)
    pixels = torch.randn(count, 1, SIDE, SIDE, generator=generator) * (1.0 + 0.05 * classes[:, None, None, None])
    pixels[classes == 1, :, -PATCH:, -PATCH:] = 3.0
    return LesionImages(pixels, torch.full((count,), CORNER), classes)


def covered(pixels: Float[Tensor, "n 1 h w"]) -> Float[Tensor, "n 1 h w"]:
    other = pixels.clone()
    other[..., -PATCH:, -PATCH:] = torch.randn(len(pixels), 1, PATCH, PATCH, generator=torch.Generator().manual_seed(9))
    return other


@pytest.fixture(scope="module")
def model() -> Model:
    torch.set_num_threads(1)
    return fit(tiny({"name": "abmil"}, classes=("a", "b")), marked, steps=60)


@pytest.mark.parametrize("name", ["integrated_gradients", "occlusion", "gradients"])
def test_maps_have_their_maximum_at_the_mark(model: Model, name: str) -> None:
    images = marked(40, 900)
    assert (model(images.pixels).argmax(dim=1) == images.classes).float().mean() > 0.95
    method, options = method_of(name, model), MethodOptions.parse({"steps": 12, "window": 1 / 6})
    pixels = images.pixels[images.classes == 1][:12]
    maps = [method.map_of(model, one[None], ExplainedOutput(1, "b"), options) for one in pixels]
    hits = sum(int(cell_values(found, (PATCH, PATCH)).argmax()) == CORNER for found in maps)
    assert hits >= 11


def test_covering_the_corner_changes_the_prediction_and_covering_another_one_does_not(model: Model) -> None:
    images = marked(60, 901)
    pixels = images.pixels[images.classes == 1]
    changed = model(covered(pixels)).argmax(dim=1) != 1
    assert changed.float().mean() > 0.8
    elsewhere = covered(pixels.flip(2, 3)).flip(2, 3)
    assert (model(elsewhere).argmax(dim=1) != 1).float().mean() < 0.1
