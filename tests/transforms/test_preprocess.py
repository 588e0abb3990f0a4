"""From a stored image to the input of a model: unmeasured pixels do not count, and do not mix with measured ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medvit.errors import DataError
from medvit.geometry import Affine
from medvit.transforms.preprocess import Normalization, Preprocess, resize, resize_measured
from medvit.types import Image

BAD = (np.nan, np.inf, -np.inf)
CHAINS = {
    "zscore": Preprocess(),
    "another spacing": Preprocess(spacing_mm=(2.0, 2.0, 2.0)),
    "a finer size": Preprocess(size=(16, 20, 24)),
    "window": Preprocess(intensity=Normalization(method="window")),
    "range": Preprocess(intensity=Normalization(method="range")),
    "three channels": Preprocess(channels=3, size=(6, 6, 6)),
}


def volume(pixels: np.ndarray, **known: object) -> Image:
    return Image(pixels[None], "volume", affine=Affine.from_spacing((1.0, 1.0, 1.0)), **known)


def noise(dtype: type = np.float32) -> np.ndarray:
    return np.random.default_rng(0).normal(100, 20, (12, 12, 12)).astype(dtype)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("name", CHAINS)
def test_what_a_model_sees_is_finite_whatever_is_stored(name: str, dtype: type, bad: float) -> None:
    pixels = noise(dtype)
    pixels[:3, :3, :3] = bad
    assert torch.isfinite(CHAINS[name](volume(pixels)).pixels).all()


@pytest.mark.parametrize("bad", BAD)
def test_statistics_are_those_of_the_measured_voxels(bad: float) -> None:
    pixels = noise()
    damaged = pixels.copy()
    damaged[:3] = bad
    found = Preprocess()(volume(damaged)).pixels[:, 3:]
    assert torch.allclose(found, Preprocess()(volume(pixels[3:])).pixels, atol=1e-5)  # in standard deviations


def test_resizing_mixes_no_measured_voxel_with_a_gap() -> None:
    pixels = torch.full((1, 9, 9, 9), 40.0)
    gaps = torch.zeros(1, 9, 9, 9, dtype=torch.bool)
    gaps[:, :4] = True
    pixels[gaps] = -3000.0
    assert resize(pixels, (14, 7, 20)).unique().numel() > 2
    assert set(resize_measured(pixels, gaps, (14, 7, 20)).round().unique().tolist()) == {-3000.0, 40.0}
    flat = resize_measured(pixels[..., 0], gaps[..., 0], (14, 7), "cubic")
    assert set(flat.round().unique().tolist()) == {-3000.0, 40.0}


def test_resizing_without_gaps_is_resizing() -> None:
    pixels = torch.from_numpy(noise())[None]
    same = resize_measured(pixels, torch.zeros(pixels.shape, dtype=torch.bool), (7, 15, 12))
    assert torch.allclose(same, resize(pixels, (7, 15, 12)), atol=1e-4)  # in intensities of about 100


def test_too_many_voxels_that_are_not_finite_are_refused_unless_allowed() -> None:
    pixels = noise()
    pixels[:7] = np.nan
    with pytest.raises(DataError, match=r"the volume: 58 % of its voxels are NaN or infinite, .* allows 50 %"):
        Preprocess()(volume(pixels))
    assert torch.isfinite(Preprocess(non_finite_share=0.6)(volume(pixels)).pixels).all()


def test_a_labeled_voxel_that_is_not_finite_is_refused() -> None:
    pixels, mask = noise(), np.zeros((12, 12, 12), np.uint8)
    pixels[2, 2, 2:5], mask[2, 2, 3:9] = np.nan, 1
    with pytest.raises(DataError, match=r"2 voxels under its label map are NaN or infinite"):
        Preprocess()(volume(pixels, mask=mask))
    mask[2, 2, 3:5] = 0
    assert torch.isfinite(Preprocess()(volume(pixels, mask=mask)).pixels).all()


def test_declared_padding_counts_for_nothing() -> None:
    pixels = noise(np.int16)
    padded = pixels.copy()
    padded[:3] = -2000
    found = Preprocess()(volume(padded, padding=(-2000.0, -2000.0))).pixels
    assert torch.allclose(found[:, 3:], Preprocess()(volume(pixels[3:])).pixels, atol=1e-5)  # in standard deviations
    assert found[:, :3].unique().tolist() == [found.min()]


@pytest.mark.parametrize(
    ("chain", "image", "spacing"),
    [
        (Preprocess(), Image(noise()[None], "volume", affine=Affine.from_spacing((1.0, 2.0, 5.0))), (1.0, 2.0, 5.0)),
        (
            Preprocess(spacing_mm=(2.0, 2.0, 4.0)),
            Image(noise()[None], "volume", affine=Affine.from_spacing((1.0, 2.0, 4.0))),
            (2.0, 2.0, 4.0),
        ),
        (Preprocess(size=(6, 12, 24)), Image(noise()[None], "volume"), (2.0, 1.0, 0.5)),
        (Preprocess(kind="image", size=(24, 12)), Image(noise()[:1], "image", mpp=500.0), (0.25, 0.5)),
        (Preprocess(kind="image", size=(24, 12)), Image(noise()[:1], "image", plane_mm=(4.0, 1.0)), (2.0, 1.0)),
        (Preprocess(kind="image"), Image(noise()[:1], "image"), (1.0, 1.0)),
    ],
)
def test_the_size_of_a_pixel_is_known_after_resizing(
    chain: Preprocess, image: Image, spacing: tuple[float, ...]
) -> None:
    assert chain(image).spacing == pytest.approx(spacing)
