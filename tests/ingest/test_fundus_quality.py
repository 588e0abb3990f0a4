"""The quality of fundus photographs: calibrated on phantoms, on real photographs, and on copies made worse."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy import ndarray as Array
from PIL import Image as Picture
from scipy.ndimage import gaussian_filter

from medvit.ingest.fundus_quality import KEYS, Quality, is_judged, judge
from medvit.phantoms.fundus import CLASSES, fundus
from medvit.records import Flag
from medvit.types import Image

DAMAGES: dict[Flag, Callable[[Array], Array]] = {
    "blurred": lambda pixels: blurred(pixels, 1.5),
    "underexposed": lambda pixels: (pixels * 0.15).astype(np.uint8),
    "overexposed": lambda pixels: np.clip(pixels * 3.2 + 25.0, 0, 255).astype(np.uint8),
    "cut_field": lambda pixels: pixels[:, int(pixels.shape[1] * 0.42) :],
}


def blurred(pixels: Array, sigma: float) -> Array:
    """A smoothed copy; sigma in 1/256 of the field."""
    across = pixels.shape[2] / 256
    return np.stack([gaussian_filter(one.astype(float), sigma * across) for one in pixels]).astype(np.uint8)


@cache
def phantom(number: int) -> Array:
    pixels = fundus(np.random.default_rng([7, number]), CLASSES[number % 3], 200).transpose(2, 0, 1)
    pixels.flags.writeable = False
    return pixels


def quality(pixels: Array) -> Quality:
    return judge(Image(np.ascontiguousarray(pixels), "image", modality="OP"))


@pytest.mark.parametrize("number", range(4))
def test_a_good_photograph_has_the_best_scores_and_no_flag(number: int) -> None:
    found = quality(phantom(number))
    assert found == Quality(True, (), 1.0, 1.0, 1.0)
    assert found.attributes == dict.fromkeys(KEYS, "1.00")


@pytest.mark.parametrize("flag", list(DAMAGES))
@pytest.mark.parametrize("number", range(2))
def test_each_damage_is_told_by_its_own_flag(flag: Flag, number: int) -> None:
    found = quality(DAMAGES[flag](phantom(number)))
    assert found.flags == (flag,)
    assert float(found.attributes["fundus_quality"]) < 0.6


def test_the_more_a_photograph_is_smoothed_the_less_sharp_it_is() -> None:
    scores = [quality(blurred(phantom(0), sigma)).sharpness or 0.0 for sigma in (0.0, 0.7, 1.4, 2.8)]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == len(scores)


def test_light_does_not_change_sharpness() -> None:
    bright, dark = (quality((phantom(0) * factor).astype(np.uint8)) for factor in (1.0, 0.5))
    assert bright.sharpness == pytest.approx(dark.sharpness, abs=0.02)


@pytest.mark.parametrize("what", ["gray", "blue", "square"])
def test_what_is_no_fundus_is_told(what: str) -> None:
    pixels = phantom(0)
    if what == "gray":
        pixels = pixels[:1].repeat(3, axis=0)
    if what == "blue":
        pixels = pixels[::-1]
    if what == "square":
        pixels = np.zeros((3, 150, 200), np.uint8)
        pixels[:, 40:110, 30:170] = np.array([200, 120, 60]).reshape(3, 1, 1)
    found = quality(pixels)
    assert not found.is_fundus
    assert found.flags == ("not_fundus",)
    assert found.attributes == {}


def test_only_color_photographs_of_the_eye_are_judged() -> None:
    assert is_judged(Image(phantom(0), "image", modality="OP"))
    assert not is_judged(Image(phantom(0), "image", modality="US"))
    assert not is_judged(Image(phantom(0)[:1], "image", modality="OP"))  # red-free, infrared, angiography


def test_the_photographs_of_drive_are_good_and_their_smoothed_copies_are_not(shared_data: Path) -> None:
    paths = sorted(shared_data.glob("drive/*/images/*.tif"))[::5]
    assert paths
    for pixels in (np.asarray(Picture.open(path)).transpose(2, 0, 1) for path in paths):
        assert quality(pixels).flags == ()
        assert quality(blurred(pixels, 1.0)).flags == ("blurred",)


@pytest.mark.parametrize("pattern", ["busi-ultrasound/normal/*.png", "bbbc038-nuclei/images/*.png", "wsi/tiles/*.png"])
def test_other_pictures_are_no_fundus(shared_data: Path, pattern: str) -> None:
    paths = sorted(shared_data.glob(pattern))[:20]
    assert paths
    for path in paths:
        assert not quality(np.asarray(Picture.open(path).convert("RGB")).transpose(2, 0, 1)).is_fundus


def test_photographs_of_few_pixels_are_judged_by_color_and_light_alone(shared_data: Path) -> None:
    pictures = np.load(shared_data / "medmnist" / "retinamnist.npz")["val_images"].transpose(0, 3, 1, 2)
    found = [quality(picture) for picture in pictures]
    assert all(one.is_fundus and one.sharpness is None for one in found)
    assert sum(bool(one.flags) for one in found) < 0.05 * len(found)
