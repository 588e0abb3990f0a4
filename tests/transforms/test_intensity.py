"""Changes of intensity mean what they say, and what is turned off does nothing."""

import numpy as np
import pytest
import torch

from medvit.transforms.intensity import (
    Change,
    IntensityAugmentation,
    UnitScale,
    apply_change,
    draw_change,
    smooth_field,
    smoothed,
)
from medvit.transforms.preprocess import Normalization


def crop(*shape: int) -> torch.Tensor:
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))


def test_a_neutral_change_leaves_a_crop_as_it_is():
    assert torch.equal(apply_change(crop(16, 16), Change()), crop(16, 16))


@pytest.mark.parametrize("ndim", [2, 3])
def test_what_is_turned_off_never_happens(ndim):
    off = IntensityAugmentation(chance=1, contrast=0, brightness=0, gamma=0, noise=0, blur_chances=(0, 0, 0))
    change = draw_change(off, np.random.default_rng(0), ndim=ndim, channels=1, kind=0)
    assert torch.equal(apply_change(crop(*(8,) * ndim), change), crop(*(8,) * ndim))


def test_by_default_nothing_is_solarized_or_turned_gray():
    generator = np.random.default_rng(0)
    drawn = [draw_change(IntensityAugmentation(), generator, ndim=2, channels=3, kind=k % 3) for k in range(300)]
    assert not any(change.is_gray or change.is_solarized or change.gains for change in drawn)


def test_blur_has_the_published_chances_by_kind_of_crop():
    """1.0 for the first global crop, 0.1 for the second, 0.5 for a local one (Caron et al., ICCV 2021)."""
    generator = np.random.default_rng(0)
    for kind, chance in enumerate((1.0, 0.1, 0.5)):
        drawn = [draw_change(IntensityAugmentation(), generator, ndim=2, channels=1, kind=kind) for _ in range(2000)]
        assert np.mean([change.sigma > 0 for change in drawn]) == pytest.approx(chance, abs=0.03)


def test_another_window_equals_preprocessing_with_it():
    hu = np.linspace(-1000, 1000, 64, dtype=np.float32).reshape(1, 8, 8)
    standard = {"mean": (0.4,), "std": (0.3,)}
    wide, narrow = (
        Normalization(method="window", window_center=c, window_width=w, **standard) for c, w in ((0, 2000), (40, 400))
    )
    pixels = torch.from_numpy(wide(hu, np.dtype("int16")))
    found = apply_change(pixels, Change(window=(40, 400)), UnitScale(wide))
    torch.testing.assert_close(found, torch.from_numpy(narrow(hu, np.dtype("int16"))), atol=1e-4, rtol=0)


def test_gamma_keeps_the_range_and_its_order():
    pixels = crop(16, 16)
    changed = apply_change(pixels, Change(gamma=0.7))
    torch.testing.assert_close(changed.aminmax(), pixels.aminmax(), atol=1e-5, rtol=0)
    assert torch.equal(changed.flatten().argsort(), pixels.flatten().argsort())


def test_contrast_keeps_the_mean_and_brightness_moves_it_by_deviations():
    pixels = crop(16, 16)
    changed = apply_change(pixels, Change(contrast=1.2, brightness=0.5))
    torch.testing.assert_close(changed.mean(), pixels.mean() + 0.5 * pixels.std(correction=0), atol=1e-5, rtol=0)
    torch.testing.assert_close(changed.std(), 1.2 * pixels.std(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("shape", "terms"), [((8, 9), 9), ((6, 7, 8), 19)])
def test_a_bias_field_is_positive_and_one_without_coefficients(shape, terms):
    assert (smooth_field(shape, (0.3,) * terms) > 0).all()
    assert torch.equal(smooth_field(shape, (0.0,) * terms), torch.ones(shape))


@pytest.mark.parametrize("shape", [(16, 16), (8, 8, 8)])
def test_smoothing_keeps_a_constant_and_lowers_the_deviation(shape):
    torch.testing.assert_close(smoothed(torch.full((1, *shape), 3.0), 1.0), torch.full((1, *shape), 3.0))
    assert smoothed(crop(*shape), 1.0).std() < 0.5 * crop(*shape).std()


def test_noise_is_of_its_seed_and_in_deviations_of_the_crop():
    pixels = 10 * crop(64, 64)
    one, same, other = (apply_change(pixels, Change(noise=0.1, noise_seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    torch.testing.assert_close((one - pixels).std().item(), 1.0, atol=0.05, rtol=0)
