"""The field of view of fundus photographs: found, cropped, and undone without a trace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy import ndarray as Array
from PIL import Image as Picture

from medvit.artifacts import Checkpoint
from medvit.errors import ConfigError, DataError
from medvit.inference.predictor import Predictor
from medvit.models.image import Model, ModelConfig
from medvit.phantoms.fundus import fundus
from medvit.transforms.field_of_view import FieldOfViewConfig, FieldSquare, blackened, find_disc, require_disc
from medvit.transforms.preprocess import Preprocess
from medvit.types import Image

SHAPE = (200, 260)
CHAIN = {"kind": "image", "channels": 3, "intensity": {"method": "range"}, "field_of_view": {}}


def photograph(
    row: float = 95.0, column: float = 140.0, radius: float = 80.0, shape: tuple[int, int] = SHAPE, border: int = 6
) -> Array:
    """A disc (3, H, W) on a border of dark noise, brighter on one side, with a speck of light outside."""
    draw = np.random.default_rng(0)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    inside = np.hypot(rows - row, columns - column) <= radius
    light = (0.55 + 0.4 * columns / shape[1]) * np.array([200, 120, 60]).reshape(3, 1, 1)
    picture = np.where(inside, light, 0) + draw.integers(0, border + 1, (3, *shape))
    picture[:, 2:5, 2:5] = 250
    return picture.astype(np.uint8)


@pytest.mark.parametrize(
    ("row", "column", "radius"), [(95.0, 140.0, 80.0), (100.0, 130.0, 115.0), (70.0, 101.5, 60.5), (99.5, 129.5, 99.5)]
)
def test_the_disc_is_found_within_two_pixels_also_where_the_frame_cuts_it(
    row: float, column: float, radius: float
) -> None:
    disc = require_disc(photograph(row, column, radius))
    assert np.abs(np.array([disc.row - row, disc.column - column, disc.radius - radius])).max() < 2.0
    assert disc.agreement > 0.95


def test_a_large_photograph_has_the_same_disc_as_its_small_copy() -> None:
    small = photograph()
    large = small.repeat(5, axis=1).repeat(5, axis=2)
    one, other = require_disc(small), require_disc(large)
    assert other.radius / 5 == pytest.approx(one.radius, abs=1.0)
    assert (other.row + 0.5) / 5 - 0.5 == pytest.approx(one.row, abs=1.0)


def test_a_frame_within_the_field_is_taken_whole() -> None:
    disc = require_disc(photograph(radius=400.0))
    assert disc.is_whole_frame
    assert disc.inside(SHAPE).all()


@pytest.mark.parametrize("what", ["black", "square", "stripe"])
def test_what_shows_no_disc_is_refused_in_one_sentence(what: str) -> None:
    picture = np.zeros((3, *SHAPE), np.uint8)
    if what == "square":
        picture[:, 40:160, 60:180] = 200
    if what == "stripe":
        picture[:, 80:120] = 200
    assert find_disc(picture) is None
    with pytest.raises(DataError, match="the image does not show a round field of view; expected a fundus photograph"):
        require_disc(picture)
    pixels, crop = FieldOfViewConfig(missing="whole")(picture)
    assert pixels is picture
    assert (crop.side, crop.left) == (260, 0)


@pytest.mark.parametrize(
    "crop", [FieldSquare(-7, 3, 50), FieldSquare(10, 20, 5), FieldSquare(-60, -60, 300), FieldSquare(0, 0, 200)]
)
def test_a_crop_put_back_lies_where_it_was(crop: FieldSquare) -> None:
    values = np.arange(1, 1 + np.prod(SHAPE)).reshape(SHAPE)
    back = crop.back(crop.of(values), SHAPE)
    kept = back > 0
    assert np.array_equal(back[kept], values[kept])
    rows = slice(max(0, crop.top), min(SHAPE[0], crop.top + crop.side))
    columns = slice(max(0, crop.left), min(SHAPE[1], crop.left + crop.side))
    assert kept[rows, columns].all()
    assert kept.sum() == kept[rows, columns].size


def test_the_border_becomes_black_and_the_retina_stays_as_it_is() -> None:
    picture = photograph()
    disc = require_disc(picture)
    black, inside = blackened(picture, disc), disc.inside(SHAPE)
    assert not black[:, ~inside].any()
    assert np.array_equal(black[:, inside], picture[:, inside])


def test_the_prepared_photograph_does_not_depend_on_the_border_nor_on_where_the_disc_lies() -> None:
    chain = Preprocess.parse(CHAIN | {"size": [64, 64]})
    bordered = photograph()
    shifted = np.zeros((3, 240, 300), np.uint8)
    shifted[:, 17:217, 31:291] = blackened(bordered, require_disc(bordered))
    one, other = (chain(Image(pixels, "image")).pixels for pixels in (bordered, shifted))
    assert float((one - other).abs().mean()) < 0.01  # of the range; the discs may differ by a rim of a pixel


def test_the_mask_goes_through_the_same_crop() -> None:
    chain = Preprocess.parse(CHAIN | {"size": [160, 160]})
    picture, mask = photograph(), np.zeros(SHAPE, np.uint8)
    mask[90:101, 135:146] = 1
    picture[:, mask > 0] = 255
    prepared = chain(Image(picture, "image", mask=mask))
    assert prepared.mask is not None
    marked = prepared.mask.bool()
    assert marked.sum() == pytest.approx(121, abs=25)
    assert (
        float(prepared.pixels[:, marked].mean()) > 0.95 > 0.9 > float(prepared.pixels[:, ~marked].max(dim=1)[0].mean())
    )


@pytest.mark.parametrize(("size", "overlap"), [([160, 160], 0.9), ([40, 40], 0.8)])
def test_a_prediction_comes_back_on_the_photograph(
    tmp_path: Path, size: list[int], overlap: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that labels bright pixels as foreground finds a bright spot at its place."""
    picture = photograph()
    picture[:, 60:90, 150:180] = 255
    predictor = Predictor(_segmentation(tmp_path, size=size), "cpu")
    monkeypatch.setattr(predictor.model, "predict", _threshold)
    mask = predictor(Image(picture, "image")).mask
    assert mask is not None
    assert mask.shape == SHAPE
    spot = np.zeros(SHAPE, bool)
    spot[60:90, 150:180] = True
    assert (mask.astype(bool) & spot).sum() / (mask.astype(bool) | spot).sum() > overlap


def test_a_field_of_view_needs_a_size() -> None:
    with pytest.raises(ConfigError, match="requires kind: image and a size"):
        Preprocess.parse({"kind": "image", "field_of_view": {}})


def test_the_disc_of_a_phantom_is_the_one_drawn() -> None:
    disc = require_disc(fundus(np.random.default_rng(0), "mild", 192).transpose(2, 0, 1))
    assert disc.radius == pytest.approx(0.96 * 191 / 2, abs=1.5)


def test_the_discs_of_drive_are_those_of_its_masks(shared_data: Path) -> None:
    """Of its 30 photographs the overlap over union is 0.967 at least and 0.982 at the median."""
    overlaps = []
    for path in sorted(shared_data.glob("drive/*/images/*.tif")):
        truth = np.asarray(Picture.open(path.parent.parent / "mask" / f"{path.stem}_mask.gif")) > 0
        inside = require_disc(np.asarray(Picture.open(path)).transpose(2, 0, 1)).inside(truth.shape)
        overlaps.append((inside & truth).sum() / (inside | truth).sum())
    assert min(overlaps) > 0.96


def test_retinamnist_is_cropped_already(shared_data: Path) -> None:
    pictures = np.load(shared_data / "medmnist" / "retinamnist.npz")["test_images"].transpose(0, 3, 1, 2)
    discs = [find_disc(picture) for picture in pictures]
    assert sum(disc is None for disc in discs) <= 3
    assert np.median([disc.radius for disc in discs if disc]) > 13.0


def _threshold(pixels: object) -> object:
    import torch

    assert isinstance(pixels, torch.Tensor)
    found = (pixels.mean(dim=1) > 0.72).float()
    return torch.stack([1 - found, found], dim=1)


def _segmentation(folder: Path, *, size: list[int]) -> Checkpoint:
    make: Callable[..., ModelConfig] = ModelConfig.parse
    config = make(
        {
            "kind": "segmentation",
            "backbone": {"name": "vit", "ndim": 2, "channels": 3, "patch_size": 8, "width": 12, "depth": 2, "heads": 2},
            "peft": {"name": "full"},
            "head": {"name": "dense", "channels": 4},
            "classes": ("background", "spot"),
            "applies_to": {"kind": "image"},
        }
    )
    state = Model(config, config.backbone.build()).state_dict()
    return Checkpoint(folder / "model", config.tree(), Preprocess.parse(CHAIN | {"size": size}).tree(), state).save()
