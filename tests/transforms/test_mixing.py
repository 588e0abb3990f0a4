"""Mixup averages two images, CutMix replaces a box, and the share of the targets is that of the pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medvit.errors import ConfigError
from medvit.transforms.augmentation.mixing import MixingConfig, apply_mixture, draw_mixture


@pytest.mark.parametrize("size", [(12, 20), (6, 8, 10)])
@pytest.mark.parametrize("method", ["mixup", "cutmix"])
def test_the_share_of_the_other_target_is_that_of_the_other_pixels(size, method) -> None:
    zero_and_one = torch.stack([torch.zeros(1, *size), torch.ones(1, *size)])
    shares = []
    for seed in range(40):
        mixture = draw_mixture(MixingConfig(**{method: 1.0}), size, np.random.default_rng(seed))
        assert mixture is not None
        mixed = apply_mixture(zero_and_one, mixture)
        assert mixed[0].mean().item() == pytest.approx(1.0 - mixture.share, abs=1e-6)
        assert mixed[1].mean().item() == pytest.approx(mixture.share, abs=1e-6)
        assert (mixture.box is None) == (method == "mixup")
        assert method == "mixup" or set(mixed.unique().tolist()) <= {0.0, 1.0}
        shares.append(mixture.share)
    assert max(shares) - min(shares) > 0.4


def test_the_box_of_cutmix_has_the_drawn_volume_unless_a_face_of_the_crop_clips_it() -> None:
    size, config = (1000, 1000), MixingConfig(cutmix=1.0)
    num_whole = 0
    for seed in range(120):
        mixture = draw_mixture(config, size, np.random.default_rng(seed))
        assert mixture is not None
        assert mixture.box is not None
        generator = np.random.default_rng(seed)
        generator.integers(1)
        drawn = generator.beta(1.0, 1.0)
        is_whole = all(part.start > 0 and part.stop < 1000 for part in mixture.box)
        num_whole += is_whole
        if is_whole:
            assert mixture.share == pytest.approx(drawn, abs=5e-3)  # sides are rounded to pixels
        else:
            assert mixture.share > drawn - 5e-3
    assert num_whole > 10


def test_with_both_methods_each_is_drawn_for_half_of_the_batches() -> None:
    generator = np.random.default_rng(0)
    drawn = [draw_mixture(MixingConfig(mixup=0.4, cutmix=1.0), (8, 8), generator) for _ in range(400)]
    share = np.mean([one is not None and one.box is None for one in drawn])
    assert abs(share - 0.5) < 3.5 * np.sqrt(0.25 / 400)  # standard errors


def test_without_a_method_nothing_is_mixed_and_a_single_image_cannot_be() -> None:
    assert draw_mixture(MixingConfig(), (4, 4), np.random.default_rng(0)) is None
    MixingConfig(cutmix=1.0).require_pairs(2)
    with pytest.raises(ConfigError, match=r"loader\.batch_size=1; expected at least 2"):
        MixingConfig(cutmix=1.0).require_pairs(1)
