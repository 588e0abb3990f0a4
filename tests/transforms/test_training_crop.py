"""Training crops of fine-tuning: by the seed alone, mask and pixels together, about the foreground half of the time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from medvit.errors import ConfigError
from medvit.records import IGNORED, Row
from medvit.transforms.augmentation.options import FinetuningAugmentation
from medvit.transforms.augmentation.spatial import CropBox
from medvit.transforms.augmentation.training_crop import TrainingCrop
from medvit.transforms.preprocess import Normalization
from medvit.types import Sample

STILL = {"rotation_degrees": 0, "scale": 0, "translation": 0, "chance": 0}
"""Changes nothing."""


def sample(*size: int, mask: torch.Tensor | None = None, spacing: tuple[float, ...] | None = None) -> Sample:
    kind = "image" if len(size) == 2 else "volume"
    row = Row("i-0", "p-0", "s-0", "e-0", "OP", kind, "test", "train", (3, *size), "uint8", "0" * 64)
    pixels = torch.randn(3, *size, generator=torch.Generator().manual_seed(0)) + 5.0
    return Sample(pixels, row, torch.tensor(1) if mask is None else mask, spacing=spacing)


def cropper(size: tuple[int, ...], *, masks: bool = False, **options: object) -> TrainingCrop:
    return TrainingCrop(FinetuningAugmentation.parse(options), size, Normalization(), masks=masks)


@pytest.mark.parametrize("size", [(32, 32), (16, 16, 16)])
def test_the_seed_alone_decides_what_changes(size):
    crop, image = cropper(size, erasing=0.5, flipped_axes=[0]), sample(*(side + 8 for side in size))
    first = [crop(image, seed).pixels for seed in range(8)]
    again = [crop(image, seed).pixels for seed in reversed(range(8))]
    assert all(torch.equal(*pair) for pair in zip(first, reversed(again), strict=True))
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize("size", [(20, 24), (10, 12, 14)])
def test_with_all_amounts_at_zero_a_crop_is_a_part_of_the_image(size):
    image = sample(*(side + 6 for side in size))
    for seed in range(5):
        pixels = cropper(size, **STILL)(image, seed).pixels
        parts = image.pixels
        for axis, side in enumerate(size, start=1):
            parts = parts.unfold(axis, side, 1)
        assert pixels.shape == (3, *size)
        assert (parts.movedim(0, len(size)) == pixels).flatten(-len(size) - 1).all(dim=-1).any()


def test_a_crop_of_the_size_of_the_image_is_the_image_at_zero_amounts():
    image = sample(16, 16, mask=torch.randint(0, 3, (16, 16)))
    crop = cropper((16, 16), masks=True, **STILL)(image, 0)
    assert torch.equal(crop.pixels, image.pixels)
    assert torch.equal(crop.target, image.target)


@pytest.mark.parametrize("shape", [(40, 44), (24, 28, 20)])
def test_mask_and_pixels_move_together(shape):
    """Of an image that is its own label map, only the voxels on its border differ after thresholding."""
    axes = torch.meshgrid(*(torch.linspace(-1, 1, side) for side in shape), indexing="ij")
    mask = (sum(axis**2 for axis in axes) < 0.4).long()
    image = sample(*shape, mask=mask, spacing=(1.0, 1.0, 3.0)[-len(shape) :])
    image = Sample(mask[None].float(), image.row, mask, spacing=image.spacing)
    size = tuple(side - 4 for side in shape)
    for seed in range(10):
        moved = cropper(size, masks=True, chance=0, rotation_degrees=40, flipped_axes=[0, 1])(image, seed)
        thresholded = (moved.pixels[0] > 0.5).long()
        assert moved.target.dtype == torch.int64
        assert (thresholded != moved.target).float().mean() < 0.02
        assert 0.05 < moved.target.float().mean() < 0.9


def test_half_of_the_crops_are_about_the_foreground_of_which_ignored_voxels_are_not_part():
    mask = torch.zeros(100, 100, dtype=torch.long)
    mask[70, 20] = 1
    mask[5:15, 80:90] = IGNORED
    image = sample(100, 100, mask=mask)
    crops = [cropper((16, 16), masks=True, **STILL)(image, seed).target for seed in range(300)]
    about = [bool((crop == 1).any()) for crop in crops]
    ignored = [bool((crop == IGNORED).any()) for crop in crops]
    assert np.mean(about) == pytest.approx(0.5, abs=0.08)
    assert np.mean(ignored) < 0.1


def test_every_voxel_of_the_foreground_may_be_the_center():
    mask = torch.zeros(60, 60, dtype=torch.long)
    places = [(10, 40), (30, 12), (30, 13), (45, 45)]
    for number, place in enumerate(places, start=1):
        mask[place] = number
    crops = [cropper((5, 5), masks=True, **STILL)(sample(60, 60, mask=mask), seed).target for seed in range(200)]
    centers = [int(crop[2, 2]) for crop in crops]
    assert {1, 2, 3, 4} <= set(centers)


def test_ignored_voxels_remain_ignored_and_no_new_value_appears():
    mask = torch.zeros(40, 40, dtype=torch.long)
    mask[10:20, 10:30], mask[20:30, 10:30] = 2, IGNORED
    moved = cropper((32, 32), masks=True, rotation_degrees=45, scale=0.2)(sample(40, 40, mask=mask), 3).target
    assert set(moved.unique().tolist()) == {0, 2, IGNORED}
    assert (moved == IGNORED).float().mean() == pytest.approx(200 / 1600, abs=0.08)


def test_what_a_small_image_lacks_is_its_lowest_value_and_background():
    image = sample(10, 10, mask=torch.ones(10, 10, dtype=torch.long))
    crop = cropper((20, 20), masks=True, **STILL)(image, 0)
    assert torch.equal(crop.target[5:15, 5:15], image.target)
    assert crop.target.sum() == 100
    outside = crop.pixels[:, crop.target == 0]
    assert (outside == image.pixels.min()).all()
    turned = cropper((20, 20), masks=True, **STILL | {"rotation_degrees": 180})(image, 1)
    assert (turned.target[0] == 0).all()


def test_a_rotation_brings_in_what_the_image_has_beside_the_crop():
    """Corners of a rotated crop are those of the image: of a ramp they remain a ramp, without a repeated border."""
    ramp = torch.arange(100.0)[None, :, None].expand(1, 100, 100).contiguous()
    image = Sample(ramp, sample(100, 100).row, torch.tensor(1))
    crop = cropper((32, 32), **STILL | {"rotation_degrees": 45})
    for seed in range(5):
        drawn = replace(crop.draw(image, np.random.default_rng(seed)), box=CropBox((34, 34), (32, 32)))
        steps = crop.apply(image, drawn).pixels[0].diff(dim=0)
        assert 0.7 < steps[0, 0] < 1.0
        torch.testing.assert_close(steps, steps[:1, :1].expand_as(steps), atol=2e-3, rtol=0)


def test_window_and_stain_need_pixels_whose_unit_is_known():
    for option in ({"windows": [[40, 400]]}, {"stain": 0.1}):
        with pytest.raises(ConfigError, match=r"augment\.(windows|stain) requires pixels with a known"):
            cropper((8, 8), **option)


def test_another_window_reaches_fine_tuning():
    hu = np.linspace(-1000, 1000, 256, dtype=np.float32).reshape(1, 16, 16)
    wide, narrow = (Normalization(method="window", window_center=c, window_width=w) for c, w in ((0, 2000), (40, 400)))
    options = FinetuningAugmentation.parse(
        STILL | {"chance": 1, "windows": [[40, 400]], "gamma": 0, "contrast": 0, "brightness": 0, "noise": 0, "blur": 0}
    )
    image = Sample(torch.from_numpy(wide(hu, np.dtype("int16"))), sample(16, 16).row, torch.tensor(0))
    found = TrainingCrop(options, (16, 16), wide, masks=False)(image, 0).pixels
    torch.testing.assert_close(found, torch.from_numpy(narrow(hu, np.dtype("int16"))), atol=1e-4, rtol=0)


def test_crops_by_class_are_about_all_classes_equally_often():
    """A class of one voxel in 1025 has half of the crops; 400 draws, six standard deviations."""
    mask = torch.zeros(64, 64, dtype=torch.long)
    mask[:16, :], mask[60, 60], mask[40, 40] = 1, 2, IGNORED
    crop = TrainingCrop(
        FinetuningAugmentation.parse(STILL), (4, 4), Normalization(), masks=True, foreground=1.0, by_class=True
    )
    found = [crop(sample(64, 64, mask=mask), seed).target for seed in range(400)]
    shares = [sum(bool((target == label).any()) for target in found) / 400 for label in (1, 2)]
    assert sum(shares) == 1.0
    assert shares[0] == pytest.approx(0.5, abs=0.15)


def test_the_fraction_of_crops_about_the_foreground_is_that_asked_for():
    mask = torch.zeros(64, 64, dtype=torch.long)
    mask[60, 60] = 1
    for foreground in (0.0, 1.0):
        crop = TrainingCrop(
            FinetuningAugmentation.parse(STILL), (2, 2), Normalization(), masks=True, foreground=foreground
        )
        share = sum(bool((crop(sample(64, 64, mask=mask), seed).target == 1).any()) for seed in range(50)) / 50
        assert share == pytest.approx(foreground, abs=0.1)
