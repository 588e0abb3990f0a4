"""Intensity augmentations have the documented effect, and disabled ones change nothing."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from medvit.transforms.augmentation.intensity import (
    IntensityAugmentation,
    IntensityChange,
    apply_intensity,
    draw_intensity,
    smooth_field,
)
from medvit.transforms.augmentation.options import Augmentation, ContrastiveAugmentation
from medvit.transforms.augmentation.smoothing import smoothed
from medvit.transforms.augmentation.units import UnitScale
from medvit.transforms.preprocess import Normalization


def crop(*shape: int) -> torch.Tensor:
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))


def test_a_neutral_change_leaves_a_crop_as_it_is():
    assert torch.equal(apply_intensity(crop(16, 16), IntensityChange()), crop(16, 16))


@pytest.mark.parametrize("ndim", [2, 3])
def test_what_is_turned_off_never_happens(ndim):
    off = IntensityAugmentation(chance=1)
    change = draw_intensity(off, np.random.default_rng(0), ndim=ndim, channels=1, kind=0)
    assert torch.equal(apply_intensity(crop(*(8,) * ndim), change), crop(*(8,) * ndim))


def test_by_default_nothing_is_solarized_or_turned_gray():
    generator = np.random.default_rng(0)
    drawn = [draw_intensity(ContrastiveAugmentation(), generator, ndim=2, channels=3, kind=k % 3) for k in range(300)]
    assert not any(change.is_gray or change.is_solarized or change.gains for change in drawn)


def test_blur_has_the_published_chances_by_kind_of_crop():
    """1.0 for the first global crop, 0.1 for the second, 0.5 for a local one (Caron et al., ICCV 2021)."""
    generator = np.random.default_rng(0)
    for kind, chance in enumerate((1.0, 0.1, 0.5)):
        drawn = [
            draw_intensity(ContrastiveAugmentation(), generator, ndim=2, channels=1, kind=kind) for _ in range(2000)
        ]
        assert np.mean([change.sigma > 0 for change in drawn]) == pytest.approx(chance, abs=0.03)


def test_another_window_equals_preprocessing_with_it():
    hu = np.linspace(-1000, 1000, 64, dtype=np.float32).reshape(1, 8, 8)
    standard = {"mean": (0.4,), "std": (0.3,)}
    wide, narrow = (
        Normalization(method="window", window_center=c, window_width=w, **standard) for c, w in ((0, 2000), (40, 400))
    )
    pixels = torch.from_numpy(wide(hu, np.dtype("int16")))
    found = apply_intensity(pixels, IntensityChange(window=(40, 400)), scale=UnitScale(wide))
    torch.testing.assert_close(found, torch.from_numpy(narrow(hu, np.dtype("int16"))), atol=1e-4, rtol=0)


def test_gamma_keeps_the_range_and_its_order():
    pixels = crop(16, 16)
    changed = apply_intensity(pixels, IntensityChange(gamma=0.7))
    torch.testing.assert_close(changed.aminmax(), pixels.aminmax(), atol=1e-5, rtol=0)
    assert torch.equal(changed.flatten().argsort(), pixels.flatten().argsort())


def test_contrast_keeps_the_mean_and_brightness_moves_it_by_deviations():
    pixels = crop(16, 16)
    changed = apply_intensity(pixels, IntensityChange(contrast=1.2, brightness=0.5))
    torch.testing.assert_close(changed.mean(), pixels.mean() + 0.5 * pixels.std(correction=0), atol=1e-5, rtol=0)
    torch.testing.assert_close(changed.std(), 1.2 * pixels.std(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("shape", "terms"), [((8, 9), 9), ((6, 7, 8), 19)])
def test_a_bias_field_is_positive_and_one_without_coefficients(shape, terms):
    assert (smooth_field(shape, (0.3,) * terms) > 0).all()
    assert torch.equal(smooth_field(shape, (0.0,) * terms), torch.ones(shape))


@pytest.mark.parametrize("shape", [(16, 16), (8, 8, 8)])
def test_smoothing_keeps_a_constant_and_lowers_the_deviation(shape):
    sigmas = (1.0,) * len(shape)
    torch.testing.assert_close(smoothed(torch.full((1, *shape), 3.0), sigmas), torch.full((1, *shape), 3.0))
    assert smoothed(crop(*shape), sigmas).std() < 0.5 * crop(*shape).std()


def test_smoothing_is_that_of_scipy():
    sigmas = (1.3, 0.4, 0.0)
    expected = gaussian_filter(crop(12, 14, 10)[0].numpy(), sigmas, mode="nearest", radius=(4, 1, 0))
    torch.testing.assert_close(smoothed(crop(12, 14, 10), sigmas)[0], torch.from_numpy(expected), atol=1e-5, rtol=0)


def test_blur_is_as_wide_in_mm_along_every_axis():
    """Of voxels of 1 x 1 x 2 mm and a sigma of 2 voxels of the finest axis, all deviations of a point are 2 mm."""
    point = torch.zeros(1, 31, 31, 31)
    point[0, 15, 15, 15] = 1.0
    spacing = (1.0, 1.0, 2.0)
    blurred = apply_intensity(point, IntensityChange(sigma=2.0), spacing=spacing)[0]
    for axis, mm in enumerate(spacing):
        line = blurred.sum(dim=[other for other in range(3) if other != axis])
        places = (torch.arange(31) - 15) * mm
        assert float((line * places**2).sum().sqrt()) == pytest.approx(2.0, rel=0.05)


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_field_is_the_exponential_of_its_polynomial(ndim):
    generator = np.random.default_rng(0)
    change = draw_intensity(Augmentation(chance=1, bias_field=0.3), generator, ndim=ndim, channels=1)
    axes = np.meshgrid(*(np.linspace(-1, 1, side) for side in (5, 6, 7)[:ndim]), indexing="ij")
    powers = [p for p in np.ndindex(*(4,) * ndim) if 0 < sum(p) <= 3]
    exponent = sum(
        c * np.prod([axis**n for axis, n in zip(axes, p, strict=True)], axis=0)
        for c, p in zip(change.field, powers, strict=True)
    )
    found = smooth_field((5, 6, 7)[:ndim], change.field)
    np.testing.assert_allclose(found.numpy(), np.exp(exponent), rtol=1e-5)


def test_noise_is_of_its_seed_and_in_deviations_of_the_crop():
    pixels = 10 * crop(64, 64)
    one, same, other = (apply_intensity(pixels, IntensityChange(noise=0.1, noise_seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    torch.testing.assert_close((one - pixels).std().item(), 1.0, atol=0.05, rtol=0)
