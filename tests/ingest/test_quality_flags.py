"""Every flag on images made to deserve it, and on images made not to."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medvit.geometry import Affine
from medvit.ingest.quality_flags import flags
from medvit.phantoms import FUNDUS_CLASSES, RADIOGRAPH_CLASSES
from medvit.phantoms.fundus import fundus
from medvit.phantoms.radiograph import radiograph
from medvit.records import Flag, OfFundus
from medvit.types import Image

RNG = np.random.default_rng(0)


def smooth(*shape: int) -> np.ndarray:
    """Soft clouds from 0 to 1."""
    clouds = gaussian_filter(np.random.default_rng(1).normal(size=shape), 4)
    return (clouds - clouds.min()) / np.ptp(clouds)


def gray(values: np.ndarray, modality: str = "MR") -> Image:
    return Image(values[None], "image", modality)


def body(side: int = 96) -> np.ndarray:
    """A bright disc on a dark ground, of 12 bits."""
    y, x = np.mgrid[:side, :side] - side / 2
    inside = gaussian_filter((y**2 + x**2 < (0.36 * side) ** 2).astype(float), 2)
    return (inside * (1500 + 1500 * smooth(side, side)) + 20 * smooth(side, side)).astype(np.uint16)


def volume(spacing: tuple[float, float, float], shape: tuple[int, ...] = (32, 32, 20)) -> Image:
    affine = Affine(np.diag([*spacing, 1.0]))
    return Image((1000 * smooth(*shape)).astype(np.int16)[None], "volume", "MR", affine)


def chest() -> np.ndarray:
    return radiograph(np.random.default_rng(0), RADIOGRAPH_CLASSES[0])


def collimated(pixels: np.ndarray) -> np.ndarray:
    """The same within film that a collimator kept from exposure, which is bright."""
    return np.pad(pixels, 40, constant_values=4095)


PADDED = np.zeros((100, 100), np.uint8)
PADDED[30:70, 20:80] = 30 + 200 * smooth(40, 60)


def holed(values: np.ndarray, bad: float) -> np.ndarray:
    """Pixels (1, *S) of floating point, two of which are `bad`."""
    pixels = values.astype(np.promote_types(values.dtype, np.float32))
    pixels[(3,) * values.ndim] = pixels[(4,) * values.ndim] = bad
    return pixels[None]


SOFT = np.uint8(20 + 200 * smooth(64, 64))

POSITIVES: list[tuple[Flag, str, Image]] = [
    ("constant", "zeros", gray(np.zeros((64, 64), np.uint8))),
    ("constant", "one value", gray(np.full((64, 64), -1024, np.int16), "CT")),
    ("constant", "nothing finite", gray(np.full((64, 64), np.nan, np.float32))),
    ("not_finite", "nothing finite", gray(np.full((64, 64), np.nan, np.float32))),
    ("not_finite", "a volume with two NaN voxels", Image(holed(smooth(24, 24, 24), np.nan), "volume", "MR")),
    ("not_finite", "a picture with an infinite pixel", Image(holed(smooth(64, 64), np.inf), "image", "MR")),
    ("not_finite", "double precision beyond float32", Image(holed(smooth(64, 64).astype(np.float64), 1e300), "image")),
    ("blank", "noise alone", gray(RNG.normal(100, 10, (64, 64)).astype(np.float32))),
    ("blank", "noise alone, a volume", Image(RNG.integers(0, 90, (1, 24, 24, 24), np.int16), "volume", "MR")),
    ("blank", "an even white slide", gray(np.uint8(250 + 3 * smooth(128, 128)), "SM")),
    ("low_contrast", "ten gray levels", gray(np.uint8(120 + 12 * smooth(64, 64)))),
    ("clipped", "an overexposed picture", gray(np.uint8(np.clip(380 * smooth(64, 64), 0, 255)), "XC")),
    ("clipped", "12 bits cut off", gray(np.uint16(np.clip(6000 * smooth(64, 64), 0, 4095)))),
    ("inverted", "a body on a bright ground", gray(np.uint16(4095 - body()))),
    ("inverted", "a limb in a radiograph turned around", gray(np.uint16(4095 - body(160)), "DX")),
    ("padded", "a picture within empty bands", gray(PADDED)),
    ("tiny", "12 rows", gray(np.uint8(255 * smooth(12, 90)))),
    ("tiny", "a thin volume", volume((1.0, 1.0, 1.0), (80, 10, 8))),
    ("spacing", "voxels of 1 mm given in meters", volume((0.001, 0.001, 0.001))),
    ("spacing", "voxels of half a meter", volume((500.0, 500.0, 500.0))),
    ("spacing", "slices 100 pixels apart", volume((0.1, 0.1, 10.0))),
    ("spacing", "pixels of a meter", replace(gray(SOFT), mpp=1e6)),
]
NEGATIVES: dict[str, Image] = {
    "a radiograph": gray(chest(), "DX"),
    "a fundus photograph": Image(
        np.moveaxis(fundus(np.random.default_rng(0), FUNDUS_CLASSES[0]), -1, 0), "image", "OP"
    ),
    "a body": gray(body()),
    "a volume": volume((0.7, 0.7, 5.0)),
    "a volume of one millimeter": volume((1.0, 1.0, 1.0)),
    "soft clouds": gray(SOFT),
    "an image with noise": gray(np.uint8(np.clip(SOFT + RNG.normal(0, 8, SOFT.shape), 0, 254))),
    "a scan of a large man": volume((0.98, 0.98, 5.0), (64, 64, 40)),
}


@pytest.mark.parametrize(("flag", "what", "image"), POSITIVES, ids=[f"{p[0]}: {p[1]}" for p in POSITIVES])
def test_a_fault_is_flagged(flag: Flag, what: str, image: Image) -> None:
    assert flag in flags(image)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("what", NEGATIVES)
def test_a_few_voxels_that_are_not_finite_bring_no_other_flag(what: str, bad: float) -> None:
    image = NEGATIVES[what]
    assert flags(replace(image, pixels=holed(image.pixels[0].astype(np.float32), bad))) == ("not_finite",)


@pytest.mark.parametrize("what", NEGATIVES)
def test_what_has_no_fault_is_not_flagged(what: str) -> None:
    assert flags(NEGATIVES[what]) == ()


def test_every_flag_has_a_case() -> None:
    assert {flag for flag, _, _ in POSITIVES} == set(get_args(Flag)) - set(get_args(OfFundus))


def test_a_constant_image_is_told_of_once() -> None:
    assert flags(gray(np.full((64, 64), 255, np.uint8), "DX")) == ("constant",)


def test_one_pixel_that_differs_is_enough_not_to_be_constant() -> None:
    pixels = np.zeros((700, 900), np.uint8)
    pixels[333, 421] = 1  # between the pixels that are looked at
    assert "constant" not in flags(gray(pixels))


def test_a_small_label_map_is_not_blank() -> None:
    shape = np.zeros((32, 32, 32), np.uint8)
    shape[10:16, 10:16, 10:16] = 255
    assert "blank" not in flags(Image(shape[None], "volume"))


@pytest.mark.parametrize("modality", ["SM", "OP", ""])
def test_a_bright_ground_is_no_fault_where_it_is_natural(modality: str) -> None:
    assert "inverted" not in flags(gray(np.uint16(4095 - body()), modality))


def test_film_behind_a_collimator_is_bright_in_a_proper_radiograph() -> None:
    assert "inverted" not in flags(gray(collimated(body(160)), "CR"))
    assert "inverted" in flags(gray(np.uint16(4095 - body(160)), "CR"))


def test_values_with_a_unit_have_no_polarity() -> None:
    assert "inverted" not in flags(replace(gray(4095 - body().astype(np.int16), "CT"), unit="HU"))


def test_a_volume_cut_out_of_a_body_is_not_inverted() -> None:
    assert flags(volume((1.0, 1.0, 1.0))) == ()
