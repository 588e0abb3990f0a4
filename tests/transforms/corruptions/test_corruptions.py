"""Laws of all corruptions: seeded, monotone in severity, in the unit of the image, and without moving anything."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from numpy import ndarray as Array

from medvit.errors import ConfigError
from medvit.geometry import Affine
from medvit.phantoms.ct import ct
from medvit.records import Row
from medvit.registry import occupants
from medvit.transforms.corruptions import SEVERITIES, Corruption, corruptions, corruptions_of
from medvit.transforms.corruptions.scaled_image import SOFT_TISSUE_HU, scaled
from medvit.types import Image

EVERY = {one.name: one for one in corruptions()}
NEEDED = (
    "noise motion_blur mr_motion bias_field ghosting contrast resolution stain jpeg pen bubbles missing_slices gamma"
)


def row(image_id: str) -> Row:
    return Row(image_id, "p", "s", "r", "", "image", "d", "test", (1, 96, 96), "uint8", "")


def disks(channels: int, *, side: int = 96) -> Array:
    """Bright disks with fine texture on a dark, uniform ground."""
    rows, columns = np.mgrid[:side, :side] / side
    texture = 12 * np.sin(40 * rows) * np.cos(55 * columns)
    pixels = np.zeros((channels, side, side))
    for number, (row_, column, radius) in enumerate([(0.5, 0.5, 0.42), (0.4, 0.4, 0.15), (0.65, 0.6, 0.1)]):
        inside = np.hypot(rows - row_, columns - column) < radius
        for channel in range(channels):
            pixels[channel][inside] = 110 + 40 * number - 25 * channel * (number + 1) / 2
    return np.clip(pixels + texture * (pixels > 0), 0, 255).astype(np.uint8)


def image_of(modality: str) -> Image:
    channels = 3 if modality in ("SM", "OP", "XC") else 1
    return Image(disks(channels), "image", modality)


def volume_of(modality: str) -> Image:
    phantom, affine = ct(np.random.default_rng(3)), Affine.from_spacing((2.0, 2.0, 5.0))
    hu = phantom.hu.astype(np.int16)[None]
    if modality == "CT":
        return Image(hu, "volume", "CT", affine, unit="HU", mask=phantom.labels)
    return Image((hu + 1024).astype(np.uint16), "volume", modality, affine, mask=phantom.labels)


IMAGES = {f"{name} image": image_of(name) for name in ("CR", "MR", "OP", "OPT", "SM", "US", "XC", "")}
VOLUMES = {f"{name} volume": volume_of(name) for name in ("CT", "MR")}
CASES = [
    pytest.param(one, image, id=f"{one.name}-{name}")
    for name, image in {**IMAGES, **VOLUMES}.items()
    for one in corruptions_of(image)
]


def difference(one: Image, other: Image) -> float:
    return float(np.sqrt(np.mean((one.intensities() - other.intensities()) ** 2)))


def test_the_degradations_of_every_modality_are_there() -> None:
    assert set(NEEDED.split()) <= set(EVERY)
    assert {one.values[0].name for one in CASES} == set(EVERY)
    assert occupants("medvit.transforms.corruptions", "CORRUPTION") == corruptions()


@pytest.mark.parametrize(("corruption", "image"), CASES)
def test_a_higher_severity_changes_an_image_more(corruption: Corruption, image: Image) -> None:
    errors = [difference(corruption(image, severity, seed=5), image) for severity in SEVERITIES]
    assert errors[0] > 0.0
    assert all(one < other for one, other in itertools.pairwise(errors))


@pytest.mark.parametrize(("corruption", "image"), CASES)
def test_type_geometry_and_label_map_remain(corruption: Corruption, image: Image) -> None:
    changed = corruption(image, 5)
    assert changed.pixels.dtype == image.pixels.dtype
    assert replace(changed, pixels=image.pixels) == replace(image)
    assert changed.mask is image.mask


@pytest.mark.parametrize(("corruption", "image"), CASES)
def test_the_same_seed_gives_the_same_image_and_severity_0_the_image_itself(
    corruption: Corruption, image: Image
) -> None:
    one, other = (corruption(image, 3, seed=8).pixels for _ in range(2))
    np.testing.assert_array_equal(one, other)
    assert corruption(image, 0) is image


@pytest.mark.parametrize("name", ["noise", "speckle", "shot_noise", "motion_blur", "bubbles", "pen", "ghosting"])
def test_another_seed_and_another_image_draw_other_numbers(name: str) -> None:
    corruption = EVERY[name]
    image = next(one for one in IMAGES.values() if corruption.applies(one))
    named = [replace(image, row=row(name)) for name in ("i-1", "i-2")]
    drawn = [corruption(named[0], 4, seed=1), corruption(named[0], 4, seed=2), corruption(named[1], 4, seed=1)]
    assert len({one.pixels.tobytes() for one in drawn}) == 3


@pytest.mark.parametrize(("corruption", "image"), CASES)
def test_a_constant_background_that_reaches_the_border_remains(corruption: Corruption, image: Image) -> None:
    background = scaled(image).background
    if background is None or corruption.is_over_background:
        pytest.skip("no background, or a mark over it")
    changed = corruption(image, 5)
    np.testing.assert_array_equal(changed.pixels[:, background], image.pixels[:, background])


@pytest.mark.parametrize("corruption", [one for one in EVERY.values() if one.applies(IMAGES["MR image"])])
def test_padding_and_missing_values_remain(corruption: Corruption) -> None:
    pixels = disks(1).astype(np.float32) + 10.0
    pixels[0, 40:50, 30:35], pixels[0, 60, 60] = -5.0, np.nan
    image = Image(pixels, "image", "MR", padding=(-5.0, -5.0))
    changed = corruption(image, 5).pixels
    lost = (pixels == -5.0) | np.isnan(pixels)
    np.testing.assert_array_equal(changed[lost], pixels[lost])
    assert np.isfinite(changed[~lost]).all()


@pytest.mark.parametrize("corruption", [one for one in EVERY.values() if one.applies(VOLUMES["CT volume"])])
def test_a_ct_stays_in_hu(corruption: Corruption) -> None:
    """No value is below that of the scanner, and tissue keeps its mean unless it mixes with air at its surface."""
    image = VOLUMES["CT volume"]
    changed, before = corruption(image, 5).intensities(), image.intensities()
    assert changed.min() >= -1024.0
    if corruption.name in ("noise", "contrast", "missing_slices"):
        tissue = (before > SOFT_TISSUE_HU[0]) & (before < SOFT_TISSUE_HU[1])
        assert changed[tissue].mean() == pytest.approx(before[tissue].mean(), abs=30.0)


def test_rescaled_storage_gives_the_same_degradation() -> None:
    """A CT stored with another slope and intercept is degraded by the same HU; tolerance: half a stored unit."""
    image = VOLUMES["CT volume"]
    other = replace(image, pixels=((image.pixels + 1024) * 2).astype(np.uint16), slope=0.5, intercept=-1024.0)
    for name in ("noise", "blur", "contrast"):
        one, two = EVERY[name](image, 3).intensities(), EVERY[name](other, 3).intensities()
        assert np.abs(one - two).max() <= 0.76, name


def test_no_other_severity_name_or_kind_is_accepted() -> None:
    with pytest.raises(ValueError, match="severity 6; expected 0 to 5"):
        EVERY["blur"](IMAGES["US image"], 6)
    with pytest.raises(ConfigError, match="no corruption 'blurr'; known are bias_field"):
        corruptions_of(IMAGES["US image"], ("blurr",))
    with pytest.raises(ConfigError, match="stain needs three channels, and the images are images with 1"):
        corruptions_of(IMAGES["US image"], ("stain",))
    with pytest.raises(ConfigError, match="missing_slices needs a volume"):
        corruptions_of(IMAGES["US image"], ("missing_slices",))
