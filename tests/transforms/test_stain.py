import numpy as np
import pytest
import torch

from medvit.errors import ConfigError, DataError
from medvit.phantoms.slide import EOSIN, HEMATOXYLIN, slide
from medvit.transforms.augmentation.intensity import apply_intensity, draw_intensity
from medvit.transforms.augmentation.options import Augmentation
from medvit.transforms.preprocess import Normalization, Preprocess
from medvit.transforms.stain import (
    GLASS,
    REFERENCE_DEVIATION,
    REFERENCE_MEAN,
    StainChange,
    StainConfig,
    apply_stain,
    draw_stain,
    macenko,
    macenko_normalized,
    reinhard_normalized,
    tissue_statistics,
    to_lab,
)
from medvit.types import Image

NEUTRAL = StainChange((1.0, 1.0, 1.0), (0.0, 0.0, 0.0))


def mixed(vectors: np.ndarray, *, seed: int = 0, side: int = 64, strength: float = 1.0) -> torch.Tensor:
    """Tissue (1, 3, H, W) of two stains (3, 2), of which each is alone in places."""
    generator = np.random.default_rng(seed)
    amounts = generator.uniform(0.6, 1.6, (2, side * side)) * strength
    amounts[0, : side * side // 4] = 0.02
    amounts[1, -side * side // 4 :] = 0.02
    light = GLASS * np.exp(-(vectors @ amounts)) - 1.0
    return torch.from_numpy(np.clip(light / 255.0, 0, 1).reshape(1, 3, side, side)).float()


def unit(*columns: tuple[float, float, float]) -> np.ndarray:
    made = np.array(columns).T
    return made / np.linalg.norm(made, axis=0)


BRIGHT_STAINS = unit((0.65, 0.70, 0.29), (0.20, 0.90, 0.35))


def degrees(one: torch.Tensor, other: np.ndarray) -> np.ndarray:
    cosine = (one.numpy() * other).sum(axis=0)
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def test_macenko_finds_the_stains_that_were_mixed():
    found = macenko(mixed(BRIGHT_STAINS))
    assert found.is_known.all()
    assert degrees(found.vectors[0], BRIGHT_STAINS).max() < 3


def test_a_batch_gives_what_each_picture_gives_alone():
    batch = torch.cat([mixed(BRIGHT_STAINS, seed=n) for n in range(3)])
    alone = torch.cat([macenko_normalized(picture[None]) for picture in batch])
    torch.testing.assert_close(macenko_normalized(batch), alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize("normalize", [macenko_normalized, reinhard_normalized])
def test_slides_of_different_stain_look_alike_afterwards(normalize):
    one = mixed(BRIGHT_STAINS, strength=1.0)
    other = mixed(unit((0.55, 0.75, 0.35), (0.30, 0.85, 0.30)), strength=0.7)
    before = (one - other).abs().mean()
    assert (normalize(one) - normalize(other)).abs().mean() < 0.5 * before


def test_reinhard_gives_the_mean_and_spread_of_the_reference():
    light = reinhard_normalized(mixed(BRIGHT_STAINS, strength=0.6))
    mean, deviation = tissue_statistics(to_lab(light).flatten(2), torch.ones(1, 64 * 64, dtype=torch.bool))
    torch.testing.assert_close(mean[0], torch.tensor(REFERENCE_MEAN), atol=0.1, rtol=0)  # light ends at white
    torch.testing.assert_close(deviation[0], torch.tensor(REFERENCE_DEVIATION), atol=0.1, rtol=0)


@pytest.mark.parametrize("normalize", [macenko_normalized, reinhard_normalized])
def test_glass_alone_stays_as_it_is(normalize):
    glass = torch.full((2, 3, 32, 32), 0.95)
    torch.testing.assert_close(normalize(glass), glass)


def test_the_neutral_change_of_stain_changes_nothing():
    picture = mixed(BRIGHT_STAINS)
    torch.testing.assert_close(apply_stain(picture, NEUTRAL), picture, atol=2e-3, rtol=0)


def test_more_hematoxylin_darkens_nuclei_and_not_glass():
    picture = torch.full((1, 3, 4, 4), 0.94)
    picture[..., :2] = torch.tensor(GLASS / 255.0) * torch.exp(-1.2 * torch.tensor(HEMATOXYLIN))[None, :, None, None]
    changed = apply_stain(picture, StainChange((1.4, 1.0, 1.0), (0.0, 0.0, 0.0)))
    assert (changed[..., :2] < picture[..., :2]).all()
    torch.testing.assert_close(changed[..., 2:], picture[..., 2:], atol=5e-3, rtol=0)


def test_drawn_changes_stay_within_their_strength():
    drawn = [draw_stain(0.2, np.random.default_rng(n)) for n in range(50)]
    assert max(abs(gain - 1) for one in drawn for gain in one.gains) <= 0.2
    assert max(abs(shift) for one in drawn for shift in one.shifts) <= 0.04


def test_a_preprocessing_with_stain_keeps_its_range_and_refuses_gray():
    pixels = slide(np.random.default_rng(0), "tumor", shape=(128, 128)).pixels.transpose(2, 0, 1)
    chain = Preprocess(kind="image", channels=3, stain=StainConfig(), intensity=Normalization(method="range"))
    prepared = chain(Image(pixels, "image")).pixels
    assert 0.0 <= float(prepared.min()) < float(prepared.max()) <= 1.0
    assert Preprocess.parse(chain.tree()) == chain
    with pytest.raises(DataError, match="requires images with three channels of 8 bits"):
        chain(Image(pixels[:1], "image"))


def test_stain_is_varied_on_the_scale_of_light():
    config = Augmentation(chance=1.0, stain=0.2)
    intensity = Normalization(method="range", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    scale = config.unit_scale(intensity, key="augment")
    picture = mixed(BRIGHT_STAINS)[0]
    change = draw_intensity(config, np.random.default_rng(0), ndim=2, channels=3)
    varied = apply_intensity((picture - 0.5) / 0.25, change, scale=scale) * 0.25 + 0.5
    assert 0.005 < (varied - picture).abs().mean() < 0.2
    assert varied.min() >= -1e-6
    assert varied.max() <= 1 + 1e-6
    with pytest.raises(ConfigError, match="expected range"):
        config.unit_scale(Normalization(method="zscore"), key="augment")
    with pytest.raises(DataError, match="requires color images"):
        apply_intensity(picture[:1], change, scale=scale)


def test_eosin_of_the_phantom_is_told_from_hematoxylin():
    assert np.dot(EOSIN, HEMATOXYLIN) < 0.9
