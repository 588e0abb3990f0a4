"""Spatial augmentation: lengths in mm are preserved, flips are exact, and results on cubic voxels equal MONAI's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.transforms import Affine as MonaiAffine

from medvit.transforms.augmentation.spatial import (
    CropBox,
    CropSampler,
    SpatialAugmentation,
    SpatialChange,
    draw_spatial,
)
from medvit.transforms.preprocess import resize


def still(ndim: int, **options: object) -> SpatialChange:
    return SpatialChange((0.0,) * (3 if ndim == 3 else 1), (1.0,) * ndim, (0.0,) * ndim, **options)


def whole(shape: tuple[int, ...], change: SpatialChange, spacing: tuple[float, ...] | None = None) -> CropSampler:
    return CropSampler(shape, CropBox((0,) * len(shape), shape), shape, change, spacing)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shape", [(12, 10), (6, 8, 7)])
def test_the_change_of_a_config_of_zeros_is_the_identity(shape):
    change = draw_spatial(SpatialAugmentation(), np.random.default_rng(0), ndim=len(shape))
    assert change == still(len(shape))
    mask = torch.randint(0, 5, shape)
    assert torch.equal(whole(shape, change).pixels(noise(*shape)), noise(*shape))
    assert torch.equal(whole(shape, change).labels(mask), mask)


@pytest.mark.parametrize("shape", [(12, 10), (6, 8, 7)])
def test_interpolation_by_next_to_nothing_is_next_to_the_identity(shape):
    """The path of grids agrees with that of slices: 1e-6 rad moves no voxel by over 1e-5."""
    change = SpatialChange((1e-6,) * (3 if len(shape) == 3 else 1), (1.0,) * len(shape), (0.0,) * len(shape))
    torch.testing.assert_close(whole(shape, change).pixels(noise(*shape)), noise(*shape), atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [(40, 30), (20, 24, 16)])
def test_on_cubic_voxels_a_change_is_that_of_monai(shape):
    ndim = len(shape)
    angles, scales, shifts = (0.3, -0.2, 0.1)[: 3 if ndim == 3 else 1], (1.1, 0.9, 1.05)[:ndim], (2.0, -1.0, 0.5)[:ndim]
    monai = MonaiAffine(
        rotate_params=angles, scale_params=scales, translate_params=shifts, padding_mode="border", image_only=True
    )
    change = SpatialChange(angles, scales, tuple(mm / side for mm, side in zip(shifts, shape, strict=True)))
    expected = monai(noise(*shape)).as_tensor()
    torch.testing.assert_close(whole(shape, change).pixels(noise(*shape)), expected, atol=1e-4, rtol=0)


def bar(axis: int, spacing: tuple[float, ...], shape: tuple[int, ...], length_mm: float) -> torch.Tensor:
    """A bar of a length along an axis, 12 mm across, in the middle of a volume; voxels it fills in part have a part."""
    filled = []
    for one, (count, mm) in enumerate(zip(shape, spacing, strict=True)):
        half = length_mm / 2 if one == axis else 6.0
        places = (np.arange(count) - (count - 1) / 2) * mm
        filled.append(np.clip((half - np.abs(places)) / mm + 0.5, 0.0, 1.0))
    return torch.from_numpy(np.einsum("i,j,k->ijk", *filled).astype(np.float32))[None]


def length_mm(volume: torch.Tensor, spacing: tuple[float, ...]) -> float:
    """Length of a bar, in mm: of a uniform one, sqrt(12) times the deviation along its main axis."""
    weights = volume[0].numpy()
    places = np.argwhere(weights > 0.01) * np.array(spacing)
    covariance = np.cov(places.T, aweights=weights[weights > 0.01])
    return float(np.sqrt(12 * np.linalg.eigvalsh(covariance)[-1]))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_rotation_keeps_lengths_in_mm_though_voxels_are_five_times_as_long_as_wide(axis):
    spacing, shape = (1.0, 1.0, 5.0), (81, 81, 17)
    volume = bar(axis, spacing, shape, length_mm=40.0)
    before = length_mm(volume, spacing)
    assert before == pytest.approx(40.0, abs=2.5)  # half a slice, in mm
    for angles in ((0.5, 0.0, 0.0), (0.0, 0.5, 0.0), (0.0, 0.0, 0.5), (0.4, -0.3, 0.6)):
        change = SpatialChange(angles, (1.0,) * 3, (0.0,) * 3)
        assert length_mm(whole(shape, change, spacing).pixels(volume), spacing) == pytest.approx(before, abs=2.5)


def test_in_voxel_indices_the_same_rotation_would_change_the_length():
    """The law above has teeth: without the spacing, a bar of 40 mm becomes one of over 80."""
    spacing, shape = (1.0, 1.0, 5.0), (81, 81, 17)
    change = SpatialChange((0.0, 0.5, 0.0), (1.0,) * 3, (0.0,) * 3)
    volume = bar(0, spacing, shape, length_mm=40.0)
    assert length_mm(whole(shape, change).pixels(volume), spacing) > 60.0


def test_a_rotation_turns_by_its_angle_in_mm():
    spacing, shape = (1.0, 2.0), (121, 61)
    places = np.meshgrid(
        *((np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape, spacing, strict=True)), indexing="ij"
    )
    line = torch.from_numpy(np.exp(-((places[1] / 3.0) ** 2) - (places[0] / 25.0) ** 2).astype(np.float32))[None]
    change = SpatialChange((math.radians(30.0),), (1.0, 1.0), (0.0, 0.0))
    weights = whole(shape, change, spacing).pixels(line)[0].numpy()
    covariance = np.cov(np.stack([place.ravel() for place in places]), aweights=weights.ravel())
    rows, columns = np.linalg.eigh(covariance)[1][:, -1]
    assert abs(math.degrees(math.atan(columns / rows))) == pytest.approx(30.0, abs=0.5)


def test_a_crop_in_another_place_and_size_is_cut_in_one_step_with_its_rotation():
    """On a plane of constant slope, interpolation is exact: values identify the position of every pixel."""
    rows, columns = torch.meshgrid(torch.arange(60.0), torch.arange(50.0), indexing="ij")
    image = torch.stack([rows, columns])
    change = SpatialChange((0.4,), (1.0, 1.0), (0.1, 0.0))
    sampler = CropSampler((60, 50), CropBox((20, 10), (20, 24)), (40, 24), change)
    found = sampler.pixels(image)
    offsets = torch.stack(torch.meshgrid((torch.arange(40) - 19.5) / 2, torch.arange(24) - 11.5, indexing="ij"))
    turn = torch.tensor([[math.cos(0.4), -math.sin(0.4)], [math.sin(0.4), math.cos(0.4)]])
    moved = torch.einsum("ab,bhw->ahw", turn, offsets + torch.tensor([2.0, 0.0])[:, None, None])
    expected = moved + torch.tensor([29.5, 21.5])[:, None, None]
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    assert sampler.crop_spacing == (0.5, 1.0)


def test_a_crop_that_shrinks_is_low_passed_before_it_is_turned():
    stripes = (torch.arange(128) % 2).float()[None, :, None].expand(1, 128, 128).contiguous()
    box = CropBox((0, 0), (128, 128))
    change = SpatialChange((1e-3,), (1.0, 1.0), (0.0, 0.0))
    turned = CropSampler((128, 128), box, (32, 32), change).pixels(stripes)
    assert turned.std() < 0.1 * stripes.std()
    assert CropSampler((128, 128), box, (32, 32), still(2)).pixels(stripes).equal(resize(stripes, (32, 32)))


@pytest.mark.parametrize("shape", [(8, 6), (4, 6, 8)])
def test_flips_drop_nothing_and_undo_themselves(shape):
    config = SpatialAugmentation(flipped_axes=tuple(range(len(shape))))
    drawn = [draw_spatial(config, np.random.default_rng(seed), ndim=len(shape)) for seed in range(40)]
    assert {axis for change in drawn for axis in change.flipped_axes} == set(range(len(shape)))
    for change in drawn:
        sampler = whole(shape, change)
        flipped = sampler.pixels(noise(*shape))
        assert torch.equal(flipped.flatten().sort().values, noise(*shape).flatten().sort().values)
        assert torch.equal(sampler.pixels(flipped), noise(*shape))
        mask = (noise(*shape)[0] * 5).long()
        assert torch.equal(sampler.labels(mask), (flipped[0] * 5).long())


def test_a_flip_comes_after_a_rotation():
    change = SpatialChange((0.3,), (1.1, 0.9), (0.0, 0.1))
    flipped = SpatialChange((0.3,), (1.1, 0.9), (0.0, 0.1), (1,))
    one, other = (whole((20, 16), each).pixels(noise(20, 16)) for each in (change, flipped))
    assert torch.equal(one.flip(2), other)


def test_amounts_stay_within_their_bounds_and_reach_them():
    config = SpatialAugmentation(rotation_degrees=20, scale=0.2, translation=0.1)
    drawn = [draw_spatial(config, np.random.default_rng(seed), ndim=3) for seed in range(300)]
    for values, bound in (
        ([angle for change in drawn for angle in change.angles], math.radians(20)),
        ([scale - 1.0 for change in drawn for scale in change.scales], 0.2),
        ([shift for change in drawn for shift in change.shifts], 0.1),
    ):
        assert 0.95 * bound < max(values) <= bound
        assert -bound <= min(values) < -0.95 * bound
