"""Random erasing fills one box with noise like the crop's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medvit.transforms.augmentation.erasing import ErasingAugmentation, apply_erasure, draw_erasure


@pytest.mark.parametrize("size", [(64, 64), (64, 32), (32, 32, 32)])
def test_erasing_fills_one_box_of_a_crop_with_noise_of_its_mean_and_deviation(size):
    pixels = 20.0 + 3.0 * torch.randn(2, *size, generator=torch.Generator().manual_seed(0))
    for seed in range(20):
        erasure = draw_erasure(ErasingAugmentation(erasing=1.0), np.random.default_rng(seed), ndim=len(size))
        erased = apply_erasure(pixels, erasure)
        changed = (erased != pixels).any(dim=0)
        assert 0.01 < changed.float().mean() < 0.36
        inside = torch.nonzero(changed)
        assert (inside.amax(dim=0) - inside.amin(dim=0) + 1).prod() == changed.sum()
        assert erased[:, changed].mean() == pytest.approx(20.0, abs=0.8)
        assert erased[:, changed].std() == pytest.approx(3.0, rel=0.25)
        assert torch.equal(apply_erasure(pixels, erasure), erased)


def test_erasing_meets_the_share_of_crops_that_is_asked_for():
    config = ErasingAugmentation(erasing=0.25)
    met = [draw_erasure(config, np.random.default_rng(seed), ndim=2) is not None for seed in range(400)]
    assert sum(met) / 400 == pytest.approx(0.25, abs=0.07)
    assert draw_erasure(ErasingAugmentation(), np.random.default_rng(0), ndim=2) is None


def test_a_box_keeps_its_place_when_the_crop_has_more_pixels():
    erasure = draw_erasure(ErasingAugmentation(erasing=1.0), np.random.default_rng(1), ndim=2)
    centers = []
    for side in (64, 256):
        pixels = torch.randn(1, side, side, generator=torch.Generator().manual_seed(0))
        centers.append((torch.nonzero((apply_erasure(pixels, erasure) != pixels)[0]).float().mean(dim=0) + 0.5) / side)
    torch.testing.assert_close(*centers, atol=0.02, rtol=0)  # shares of the crop
