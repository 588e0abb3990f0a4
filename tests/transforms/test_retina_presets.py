"""The retina presets process photographs like the published recipes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image as Picture

from medvit.phantoms.fundus import fundus
from medvit.transforms.field_of_view import FieldOfViewConfig
from medvit.transforms.preprocess import Preprocess
from medvit.types import Image

CONFIGS = Path(__file__).parents[2] / "configs"
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def chain(name: str) -> Preprocess:
    tree = yaml.safe_load((CONFIGS / "retina" / f"{name}.yaml").read_text(encoding="utf-8"))
    return Preprocess.parse(tree["preprocess"])


def published(picture: Picture.Image) -> np.ndarray:
    """Evaluation of RETFound and UrFound on a square: 256 pixels bicubic, the middle 224, ImageNet's scale."""
    scaled = picture.resize((256, 256), Picture.Resampling.BICUBIC)
    middle = np.asarray(scaled.crop((16, 16, 240, 240))) / 255.0
    return ((middle - MEAN) / STD).transpose(2, 0, 1)


@pytest.mark.parametrize("name", ["finetune-retfound", "finetune-urfound"])
@pytest.mark.parametrize("size", [200, 500])
def test_the_preset_is_the_published_chain_after_the_field_of_view(name: str, size: int) -> None:
    """Within 0.03 standard deviations on average: the middle is cut before and not after the resizing."""
    pixels = fundus(np.random.default_rng(size), "severe", size).transpose(2, 0, 1)
    black, crop = FieldOfViewConfig()(pixels)
    expected = published(Picture.fromarray(crop.of(black).transpose(1, 2, 0)))
    found = chain(name)(Image(pixels, "image")).pixels.numpy()
    assert found.shape == expected.shape == (3, 224, 224)
    assert np.abs(found - expected).mean() < 0.03
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.999


def test_pretraining_of_retfound_sees_squares_of_256_pixels_with_a_black_border() -> None:
    pixels = fundus(np.random.default_rng(1), "none", 300).transpose(2, 0, 1)
    found = chain("pretrain-retfound")(Image(pixels, "image")).pixels
    assert found.shape == (3, 256, 256)
    black = torch.tensor((0.0 - MEAN) / STD, dtype=torch.float32)
    torch.testing.assert_close(found[:, 0, 0], black, atol=1e-3, rtol=0)


def test_presets_of_photographs_crop_to_the_field_of_view() -> None:
    trees = {path.stem: yaml.safe_load(path.read_text("utf-8")) for path in (CONFIGS / "retina").glob("*.yaml")}
    chains = {name: tree.get("preprocess", {}) for name, tree in trees.items() if "slices" not in tree}
    photographs = {name: chain for name, chain in chains.items() if chain.get("kind") == "image"}
    assert photographs
    assert [name for name, chain in photographs.items() if chain["field_of_view"] is None] == []
