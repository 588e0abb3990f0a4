"""Each corruption, compared with its definition or a reference."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy import ndarray as Array
from PIL import Image as Picture

from medvit.geometry import Affine
from medvit.transforms.corruptions import Corruption
from medvit.transforms.corruptions.bias_field import CORRUPTION as BIAS_FIELD
from medvit.transforms.corruptions.blur import CORRUPTION as BLUR
from medvit.transforms.corruptions.brightness import CORRUPTION as BRIGHTNESS
from medvit.transforms.corruptions.bubbles import CORRUPTION as BUBBLES
from medvit.transforms.corruptions.contrast import CORRUPTION as CONTRAST
from medvit.transforms.corruptions.gamma import CORRUPTION as GAMMA
from medvit.transforms.corruptions.ghosting import CORRUPTION as GHOSTING
from medvit.transforms.corruptions.jpeg import CORRUPTION as JPEG
from medvit.transforms.corruptions.missing_slices import CORRUPTION as MISSING_SLICES
from medvit.transforms.corruptions.motion_blur import line_kernel
from medvit.transforms.corruptions.mr_motion import CORRUPTION as MR_MOTION
from medvit.transforms.corruptions.mr_motion import in_k_space
from medvit.transforms.corruptions.noise import CORRUPTION as NOISE
from medvit.transforms.corruptions.pen import CORRUPTION as PEN
from medvit.transforms.corruptions.resolution import CORRUPTION as RESOLUTION
from medvit.transforms.corruptions.scaled_image import scaled
from medvit.transforms.corruptions.shot_noise import CORRUPTION as SHOT_NOISE
from medvit.transforms.corruptions.speckle import CORRUPTION as SPECKLE
from medvit.transforms.corruptions.stain import CORRUPTION as STAIN
from medvit.transforms.corruptions.thick_slices import CORRUPTION as THICK_SLICES
from medvit.transforms.corruptions.vignette import CORRUPTION as VIGNETTE
from medvit.types import Image


def flat(value: float, modality: str, *, channels: int = 1, side: int = 200) -> Image:
    return Image(np.full((channels, side, side), value, np.float32), "image", modality)


def ramp(modality: str = "", *, channels: int = 1) -> Image:
    pixels = np.tile(np.arange(256, dtype=np.uint8), (channels, 256, 1))
    return Image(pixels, "image", modality)


def volume(pixels: Array) -> Image:
    return Image(pixels.astype(np.float32)[None], "volume", "MR", Affine.from_spacing((1.0, 1.0, 4.0)))


def test_noise_of_a_ct_has_the_stated_deviation_in_hu() -> None:
    """Level 0.12 is 48 HU; the tolerance is five standard errors."""
    image = Image(np.full((1, 32, 32, 20), 50, np.int16), "volume", "CT", Affine.from_spacing((1, 1, 1)), unit="HU")
    image.pixels[0, 0] = -1000  # a background, so that the tissue is not taken for one
    tissue = NOISE(image, 3).intensities()[:, 1:]
    assert tissue.std() == pytest.approx(48.0, abs=5 * 48 / np.sqrt(2 * tissue.size))
    assert tissue.mean() == pytest.approx(50.0, abs=5 * 48 / np.sqrt(tissue.size))


def test_noise_of_an_mr_without_signal_is_rayleigh_distributed() -> None:
    """The mean magnitude of complex noise is sqrt(pi / 2) of its deviation; tolerance 3 %."""
    pixels = np.zeros((1, 128, 128), np.float32)
    pixels[:, :20], pixels[:, 100:], pixels[:, :, :20], pixels[:, :, 100:] = 100.0, 100.0, 100.0, 100.0
    image = Image(pixels, "image", "MR")
    quiet = NOISE(image, 4).pixels[0, 20:100, 20:100]
    assert quiet.min() >= 0.0
    assert quiet.mean() == pytest.approx(np.sqrt(np.pi / 2) * 0.18 * 100.0, rel=0.03)


def test_the_variance_of_shot_noise_grows_with_the_value() -> None:
    image = Image(np.repeat(np.array([40, 160], np.uint8), 128 * 64).reshape(1, 128, 128), "image", "CR")
    image.pixels[0, 0, 0] = 0
    noisy = SHOT_NOISE(image, 1).pixels.astype(float)
    assert noisy[0, 64:].var() / noisy[0, 1:64].var() == pytest.approx(4.0, rel=0.15)


def test_speckle_leaves_black_black_and_scales_with_the_value() -> None:
    image = Image(np.repeat(np.array([0, 50, 100], np.uint8), 64 * 192).reshape(1, 192, 192), "image", "US")
    noisy = SPECKLE(image, 1).pixels.astype(float)
    assert (noisy[0, :64] == 0).all()
    assert noisy[0, 128:].std() / noisy[0, 64:128].std() == pytest.approx(2.0, rel=0.1)
    assert noisy[0, 128:].std() == pytest.approx(10.0, rel=0.1)


def test_jpeg_of_8_bits_is_that_of_pillow() -> None:
    image = ramp("XC", channels=3)
    file = io.BytesIO()
    Picture.fromarray(np.moveaxis(image.pixels, 0, -1)).save(file, "JPEG", quality=15)
    expected = np.moveaxis(np.asarray(Picture.open(file)), -1, 0)
    np.testing.assert_array_equal(JPEG(image, 3).pixels[:, :, 1:], expected[:, :, 1:])  # the first column is background


def test_gamma_is_a_power_of_the_range_for_half_of_the_images_and_its_inverse_for_the_others() -> None:
    image = ramp()
    found = {GAMMA(image, 3, seed=seed).pixels.tobytes() for seed in range(12)}
    share = np.arange(256) / 255.0
    expected = {
        np.tile(np.rint(255 * share**power).astype(np.uint8), (1, 256, 1)).tobytes() for power in (1.6, 1 / 1.6)
    }
    assert found == expected


def test_contrast_and_brightness_shrink_the_values() -> None:
    image = ramp()
    mean = image.pixels[:, :, 1:].mean()  # the first column is background
    lower = CONTRAST(image, 3).pixels[:, :, 1:].astype(float)
    assert lower.mean() == pytest.approx(mean, abs=0.6)
    assert np.ptp(lower) == pytest.approx(127.0, abs=1.0)
    np.testing.assert_allclose(BRIGHTNESS(image, 4).pixels, image.pixels / 2.0, atol=0.51)


def test_a_value_beyond_the_range_of_ct_shifts_as_the_end_of_the_range() -> None:
    pixels = np.full((1, 20, 20, 8), 40, np.int16)
    pixels[0, :10], pixels[0, 0, 0, 0], pixels[0, 0, 0, 1] = 240, 1500, -1000
    image = Image(pixels, "volume", "CT", Affine.from_spacing((1.0, 1.0, 1.0)), unit="HU")
    changed = CONTRAST(image, 3).pixels[0].astype(int)
    assert changed[0, 0, 0] - 1500 == changed[5, 5, 5] - 240


def test_motion_without_displaced_lines_and_k_space_without_factors_change_nothing() -> None:
    image = Image(np.random.default_rng(0).random((2, 20, 24), np.float32), "image", "MR")
    before = scaled(image)
    after = in_k_space(before, lambda lines: np.ones(len(lines), np.complex64))
    np.testing.assert_allclose(after, before.pixels, atol=1e-5)


def test_motion_of_an_mr_displaces_a_part_of_k_space_along_one_axis() -> None:
    """A change of the lines of one axis leaves the mean along this axis as it is, because it is the central line."""
    image = volume(1.0 + np.random.default_rng(0).random((16, 20, 4)))
    changed = MR_MOTION(image, 5).pixels
    assert np.abs(changed - image.pixels).max() > 0.05
    uniform = volume(np.tile(1.0 + np.random.default_rng(0).random((1, 20, 4)), (16, 1, 1)))
    np.testing.assert_allclose(MR_MOTION(uniform, 5).pixels, uniform.pixels, atol=1e-4)


def test_ghosts_of_a_line_are_copies_at_equal_distances() -> None:
    pixels = np.random.default_rng(0).random((1, 60, 60), np.float32) / 50.0
    pixels[0, 30] = 1.0
    ghosts = GHOSTING(Image(pixels, "image", "MR"), 3).pixels[0, :, 10]
    peaks = np.flatnonzero(ghosts > 0.2)
    assert 30 in peaks
    assert len(peaks) >= 2
    assert {int(peak) % 60 for peak in 60 - peaks} == {int(peak) for peak in peaks}  # symmetric about the line


def test_a_bias_field_is_smooth_and_its_largest_factor_is_stated() -> None:
    image = flat(100.0, "MR", side=64)
    image.pixels[0, 0, 0] = 1.0
    factor = np.log(BIAS_FIELD(image, 3).pixels[0] / image.pixels[0])
    assert np.abs(factor).max() == pytest.approx(0.6, abs=1e-3)
    assert np.abs(np.diff(factor, axis=0)).max() < 0.15


def test_a_line_kernel_is_a_mean_over_a_path_of_the_stated_length() -> None:
    kernel = line_kernel(0.0, 9.0)
    assert kernel.sum() == pytest.approx(1.0, abs=1e-6)
    places = np.arange(kernel.shape[1]) - kernel.shape[1] // 2
    assert kernel.sum(axis=0) @ places == pytest.approx(0.0, abs=1e-5)
    # A uniform path of length n has the variance n^2 / 12; linear interpolation adds at most 1/4.
    assert kernel.sum(axis=0) @ places**2 == pytest.approx(81 / 12 + 0.17, abs=0.2)


@pytest.mark.parametrize("corruption", [BLUR, RESOLUTION])
def test_filters_act_within_the_slices_of_a_volume(corruption: Corruption) -> None:
    pixels = np.ones((40, 40, 6))
    pixels[:, :, 3] = 5.0
    np.testing.assert_allclose(corruption(volume(pixels), 5).pixels[0], pixels, atol=1e-4)


def test_thick_slices_average_along_the_thick_axis_alone() -> None:
    pixels = np.ones((12, 12, 12))
    pixels[4] = 3.0
    np.testing.assert_allclose(THICK_SLICES(volume(pixels), 4).pixels[0], pixels, atol=1e-5)
    across = np.ones((12, 12, 12))
    across[:, :, 5] = 3.0
    made = THICK_SLICES(volume(across), 3).pixels[0]
    assert made.max() < 2.5
    assert np.ptp(made[:, :, 5]) < 1e-5


def test_missing_slices_are_interpolated_and_the_others_unchanged() -> None:
    noise = np.random.default_rng(0).random((6, 6, 22))
    changed = MISSING_SLICES(volume(noise), 3).pixels[0]
    differs = [number for number in range(22) if np.abs(changed[..., number] - noise[..., number]).max() > 1e-6]
    assert len(differs) == round(0.35 * 22)
    assert not {0, 21} & set(differs)
    linear = np.tile(np.arange(22.0), (6, 6, 1))
    np.testing.assert_allclose(MISSING_SLICES(volume(linear), 5).pixels[0], linear, atol=1e-4)


def test_restaining_leaves_glass_and_changes_tissue_toward_one_stain() -> None:
    pixels = np.full((3, 64, 64), 240, np.uint8)
    pixels[:, 10:50, 10:50] = np.array([150, 90, 170], np.uint8)[:, None, None]
    image = Image(pixels, "image", "SM")
    changed = [STAIN(image, 4, seed=seed).pixels for seed in range(8)]
    assert all(np.abs(one[:, :8].astype(int) - 240).max() <= 1 for one in changed)
    assert len({one[:, 20, 20].tobytes() for one in changed}) == 2


def test_pen_marks_and_bubbles_of_a_lower_severity_are_among_those_of_a_higher_one() -> None:
    image = Image(np.random.default_rng(0).integers(90, 240, (3, 120, 120), np.uint8), "image", "SM")
    for corruption in (PEN, BUBBLES):
        marked = [(corruption(image, severity, seed=4).pixels != image.pixels).any(axis=0) for severity in (2, 4)]
        assert 0.02 < marked[0].mean() < 0.6
        assert not (marked[0] & ~marked[1]).any()


def test_a_vignette_is_darkest_far_from_the_center() -> None:
    made = VIGNETTE(Image(np.full((3, 101, 101), 200, np.uint8), "image", "OP"), 2).pixels[0].astype(float)
    assert made[30:71, 30:71].mean() > 1.3 * made[[0, 0, -1, -1], [0, -1, 0, -1]].mean()


class TestMedMnistC:
    """Reference implementation of MedMNIST-C (Di Salvo et al., 2024); its package is not a dependency of medvit."""

    @pytest.fixture(scope="class")
    def texture(self) -> Array:
        rows, columns = np.mgrid[:224, :224] / 224.0
        return (110 + 60 * np.sin(9 * rows) * np.cos(7 * columns)).astype(np.uint8)

    def test_noise_has_their_strength(self, texture: Array) -> None:
        reference = pytest.importorskip("medmnistc.corruptions.noise", reason="medmnistc is not installed")
        for theirs, ours, modality in (
            (reference.GaussianNoise([0.04]), NOISE, ""),
            (reference.SpeckleNoise([0.1]), SPECKLE, "US"),
        ):
            one = theirs.apply(Picture.fromarray(texture), severity=0).astype(float) - texture
            two = ours(Image(texture[None], "image", modality), 1).pixels[0].astype(float) - texture
            assert two.std() == pytest.approx(one.std(), rel=0.03)

    def test_jpeg_and_gamma_are_theirs(self, texture: Array) -> None:
        pytest.importorskip("medmnistc.corruptions.noise", reason="medmnistc is not installed")
        compression = pytest.importorskip("medmnistc.corruptions.compression", reason="needs packages of medmnistc")
        theirs = np.asarray(compression.JPEGCompression([30]).apply(Picture.fromarray(texture), severity=0))
        np.testing.assert_array_equal(JPEG(Image(texture[None], "image", ""), 2).pixels[0], theirs)
