"""Shifted or cropped copies are found by their fine structure; a common coarse structure is not enough."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from medvit.leakage.perceptual_hash import correlation
from medvit.leakage.second_look import prepared, shows_the_same


def texture(number: int, side: int = 320) -> np.ndarray:
    """Speckle in a round frame that all images share, (1, H, W) of 8 bits."""
    noise = gaussian_filter(np.random.default_rng(number).normal(size=(side, side)), 3.0)
    y, x = np.mgrid[:side, :side] / side - 0.5
    frame = 120.0 * (y**2 + x**2 < 0.2) * (1.2 - 2.0 * (y**2 + x**2))
    return np.clip(frame * (1.0 + 0.12 * noise / noise.std()) + 5.0, 0, 255).astype(np.uint8)[None]


@pytest.mark.parametrize(("down", "right"), [(0, 0), (3, 0), (0, 6), (5, 4)])
def test_a_copy_shifted_by_a_few_pixels_shows_the_same(down: int, right: int) -> None:
    whole = texture(1, 340)
    one, other = whole[:, :320, :320], whole[:, down : 320 + down, right : 320 + right]
    assert shows_the_same(prepared(one), prepared(other))


@pytest.mark.parametrize("cut", [(16, 0, 0, 0), (0, 25, 8, 0), (10, 10, 16, 16)], ids=str)
def test_a_copy_without_some_of_its_borders_shows_the_same(cut: tuple[int, int, int, int]) -> None:
    """Up to a tenth of each side is gone, and the rest is as large as the whole on the grid."""
    top, bottom, left, right = cut
    whole = texture(1)
    part = whole[:, top : 320 - bottom, left : 320 - right]
    assert shows_the_same(prepared(whole), prepared(part))
    assert shows_the_same(prepared(part), prepared(whole))
    assert not shows_the_same(prepared(part), prepared(texture(2)))


def test_two_images_within_one_frame_are_not_one() -> None:
    one, other = texture(1), texture(2)
    assert correlation(one, other) > 0.94
    assert not shows_the_same(prepared(one), prepared(other))


def test_an_image_without_fine_structure_is_smooth() -> None:
    y, x = np.mgrid[:200, :200] / 200.0
    assert prepared((255 * y * x).astype(np.float32)[None]).is_smooth
    assert not prepared(texture(1)).is_smooth
