"""Random changes of training images: by the seed alone, and erasing as random erasing has it."""

from __future__ import annotations

import pytest
import torch

from medvit.records import Row
from medvit.transforms.augment import Augment, AugmentConfig
from medvit.types import Sample

STILL = {"rotation_degrees": 0, "scale": 0, "translation": 0, "probability": 0}
"""Changes nothing."""


def sample(*size: int) -> Sample:
    row = Row("i-0", "p-0", "s-0", "e-0", "OP", "image", "test", "train", (3, *size), "uint8", "0" * 64)
    return Sample(torch.full((3, *size), 5.0), row, torch.tensor(1))


def changed(size: tuple[int, ...], seed: int, **options: object) -> torch.Tensor:
    augment = Augment(AugmentConfig.parse({**STILL, **options}), size, masks=False)
    return augment(sample(*size), seed).pixels


def test_the_seed_alone_decides_what_changes() -> None:
    augment = Augment(AugmentConfig(erasing=0.5), (32, 32), masks=False)
    first = [augment(sample(32, 32), seed).pixels for seed in range(8)]
    again = [augment(sample(32, 32), seed).pixels for seed in reversed(range(8))]
    assert all(torch.equal(*pair) for pair in zip(first, reversed(again), strict=True))


@pytest.mark.parametrize("size", [(64, 64), (64, 32), (32, 32, 32)])
def test_erasing_fills_one_box_of_an_image_with_noise(size: tuple[int, ...]) -> None:
    for seed in range(20):
        pixels = changed(size, seed, erasing=1.0)
        erased = (pixels != 5.0).any(dim=0)
        assert 0.01 < erased.float().mean() < 0.36
        inside = torch.nonzero(erased)
        box = inside.amax(dim=0) - inside.amin(dim=0) + 1
        assert box.prod() == erased.sum()
        assert pixels[:, erased].std() == pytest.approx(1.0, abs=0.25)


def test_erasing_meets_the_share_of_images_that_is_asked_for() -> None:
    met = [bool((changed((32, 32), seed, erasing=0.25) != 5.0).any()) for seed in range(200)]
    assert sum(met) / 200 == pytest.approx(0.25, abs=0.1)
    assert not (changed((32, 32), 0) != 5.0).any()
