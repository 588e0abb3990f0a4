"""From small crops to whole ones, with patches of noise (FastDINOv2)."""

import pytest
import torch

from medvit.transforms.curriculum import CurriculumConfig, lowered, noised
from medvit.types import Views


def crops(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("ndim", "pixels"), [(2, 64), (3, 512)])
def test_exactly_one_patch_of_each_crop_is_noise(ndim, pixels):
    torch.manual_seed(0)
    images = crops(5, 1, *(32,) * ndim)
    changed = (noised(images, 1.0, 8) != images).flatten(1).sum(1)
    assert changed.tolist() == [pixels] * 5


def test_noise_of_no_given_side_covers_at_most_the_crop():
    torch.manual_seed(0)
    shares = (noised(crops(50, 1, 16, 16), 1.0, None) != crops(50, 1, 16, 16)).flatten(1).float().mean(1)
    assert shares.min() > 0
    assert shares.min() < 0.2
    assert shares.max() > 0.7


@pytest.mark.parametrize(("ndim", "share"), [(2, 4), (3, 8)])
def test_half_the_side_has_a_quarter_of_the_tokens(ndim, share):
    images = crops(1, 1, *(32,) * ndim)
    assert lowered(images, 0.5, (8,) * ndim).numel() * share == images.numel()
    assert lowered(images, 0.4, (8,) * ndim).shape[2:] == (16,) * ndim  # whole patches


def test_lowering_keeps_a_constant():
    torch.testing.assert_close(lowered(torch.full((1, 1, 32, 32), 3.0), 0.5, (8, 8)), torch.full((1, 1, 16, 16), 3.0))


def test_crops_are_small_at_first_and_whole_later():
    config = CurriculumConfig(noise=(0, 0))
    views = Views(crops(2, 3, 1, 32, 32), crops(4, 3, 1, 16, 16))
    first, later = (config.applied(views, progress, (8, 8)) for progress in (0.7, 0.75))
    assert first.crops.shape == (2, 3, 1, 16, 16)
    assert first.local.shape == (4, 3, 1, 8, 8)
    assert torch.equal(later.crops, views.crops)
