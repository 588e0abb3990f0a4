"""Hashes of similar images are near, those of others are far, and the search is complete."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from scipy.fft import dctn

from medvit.leakage.perceptual_hash import (
    GRID,
    MARK,
    MAX_DISTANCE,
    MIN_CORRELATION,
    NUM_BITS,
    TURNS,
    Turn,
    _averaging,
    _low_frequencies,
    _lowest,
    _on_grid,
    coarse_pairs,
    correlation,
    hash_image,
    near_pairs,
)

SIDE = 160


def picture(number: int, side: int = SIDE) -> np.ndarray:
    """Blobs at random places, (1, H, W) of 8 bits."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[:side, :side] / side
    blobs = sum(
        rng.uniform(0.3, 1) * np.exp(-((y - rng.random()) ** 2 + (x - rng.random()) ** 2) / rng.uniform(2e-3, 2e-2))
        for _ in range(12)
    )
    return (blobs / blobs.max() * 255).astype(np.uint8)[None]


def volume(number: int) -> np.ndarray:
    return np.stack([picture(100 * number + n // 4, 40)[0] for n in range(24)], axis=-1)[None].astype(np.int16)


def distance(one: np.ndarray, other: np.ndarray) -> int:
    hashes = [hash_image(pixels).removeprefix(MARK) for pixels in (one, other)]
    return (int(hashes[0], 16) ^ int(hashes[1], 16)).bit_count()


def as_jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(pixels[0]).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))[None]


def resized(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels[0]).resize((width, height), Image.Resampling.BILINEAR))[None]


ALTERED = {
    "jpeg": lambda pixels: as_jpeg(pixels, 30),
    "half the size": lambda pixels: resized(pixels, SIDE // 2, SIDE // 2),
    "another shape": lambda pixels: resized(pixels, 224, 150),
    "16 bits": lambda pixels: pixels.astype(np.uint16) * 16 + 1000,
    "float": lambda pixels: pixels.astype(np.float32) / 255,
    "color": lambda pixels: np.repeat(pixels, 3, axis=0),
    "noise": lambda p: np.clip(p + np.random.default_rng(0).normal(0, 6, p.shape), 0, 255).astype(np.uint8),
    "gamma": lambda pixels: (255 * (pixels / 255) ** 0.85).astype(np.uint8),
}


@pytest.mark.parametrize("name", ALTERED)
def test_a_copy_that_was_altered_looks_alike(name: str) -> None:
    for number in range(8):
        altered = ALTERED[name](picture(number))
        assert distance(picture(number), altered) <= MAX_DISTANCE
        assert correlation(picture(number), altered) >= MIN_CORRELATION


def turned(pixels: np.ndarray, turn: Turn) -> np.ndarray:
    return np.stack([turn.apply(channel) for channel in pixels])


@pytest.mark.parametrize("turn", TURNS[2])
def test_the_hash_of_a_turned_image_follows_from_that_of_the_image(turn: Turn) -> None:
    for number in range(8):
        one = picture(number)[:, :, : SIDE - 10 * number]
        other = turned(one, turn)
        assert near_pairs([hash_image(one), hash_image(other)], 4, turn).first.tolist() == [0]
        assert len(near_pairs([hash_image(one), hash_image(other)])) == 0
        assert correlation(one, other, turn) > 0.999


@pytest.mark.parametrize("turn", TURNS[3])
def test_the_hash_of_a_mirrored_volume_follows_from_that_of_the_volume(turn: Turn) -> None:
    hashes = [hash_image(volume(1)), hash_image(turned(volume(1), turn))]
    assert len(near_pairs(hashes, 0, turn)) == 1


def test_turned_images_that_were_altered_look_alike_and_others_do_not() -> None:
    pictures = [picture(number) for number in range(30)]
    for number, turn in enumerate(TURNS[2]):
        hashes = [*map(hash_image, pictures), hash_image(as_jpeg(turned(pictures[number], turn), 50))]
        found = near_pairs(hashes, turn=turn)
        assert list(zip(found.first, found.second, strict=True)) == [(number, len(pictures))]


def test_other_images_do_not_look_alike() -> None:
    hashes = [hash_image(picture(number)) for number in range(60)]
    assert len(near_pairs(hashes, 2 * MAX_DISTANCE)) == 0


def test_volumes_look_alike_whatever_their_scale_and_grid() -> None:
    one = volume(1)
    assert distance(one, one * 3 + 7) == 0
    assert distance(one, np.repeat(one, 2, axis=1)) <= MAX_DISTANCE
    assert distance(one, volume(2)) > 2 * MAX_DISTANCE


@pytest.mark.parametrize("pixels", [np.zeros((1, 9, 9), np.uint8), np.full((1, 8, 8, 8), np.nan, np.float32)])
def test_what_has_no_structure_has_no_hash_and_looks_like_nothing(pixels: np.ndarray) -> None:
    assert hash_image(pixels) == ""
    assert len(near_pairs(["", "", hash_image(picture(1))])) == 0
    assert correlation(np.nan_to_num(pixels), np.nan_to_num(pixels)) == 0.0


def test_a_voxel_that_is_not_finite_changes_nothing_much() -> None:
    damaged = picture(3).astype(np.float32)
    damaged[0, 5, 5] = np.inf
    assert hash_image(damaged)
    assert correlation(picture(3), damaged) > 0.5


@pytest.mark.parametrize("shape", [(1, 97, 61), (3, 40, 200), (1, 33, 9, 45), (2, 90, 31, 120)])
def test_points_of_the_grid_are_averages_over_their_stretches_of_every_axis(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(-1000, 3000, shape).astype(np.int16)
    expected = pixels.mean(axis=0)
    for _ in shape[1:]:  # each turn takes the last axis and puts its average first
        shares = _averaging(expected.shape[-1], GRID[len(shape) - 1])
        expected = np.tensordot(shares.astype(np.float64), expected, (1, expected.ndim - 1))
    np.testing.assert_allclose(_on_grid(pixels), expected, atol=0.01)  # of values in the thousands


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_frequencies_are_those_of_the_cosine_transform(ndim: int) -> None:
    grid = np.random.default_rng(0).random((GRID[ndim],) * ndim)
    expected = dctn(grid, norm="ortho")[tuple(_lowest(ndim))]
    np.testing.assert_allclose(_low_frequencies(grid), expected, atol=1e-10)


def hashes_with_neighbors(count: int, *, alike: bool) -> list[str]:
    """Random bits; if alike, all drawn near one pattern, so that bands are crowded."""
    rng = np.random.default_rng(count)
    bits = rng.integers(0, 2, (count, NUM_BITS), dtype=np.uint8)
    if alike:
        bits = bits[:1] ^ (rng.random((count, NUM_BITS)) < 0.05).astype(np.uint8)
    for number in range(count // 4):
        turned = rng.choice(NUM_BITS, rng.integers(0, 30), replace=False)
        bits[count - 1 - number] = bits[number]
        bits[count - 1 - number, turned] ^= 1
    return [np.packbits(line).tobytes().hex() for line in bits]


@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("max_distance", [0, 8, 15, 16, 20, 33])
def test_the_search_finds_what_comparing_all_pairs_finds(alike: bool, max_distance: int) -> None:
    hashes = hashes_with_neighbors(300, alike=alike)
    hashes[7] = ""
    words = np.array([np.frombuffer(bytes.fromhex(text or "00" * 32), np.uint8) for text in hashes])
    distances = np.bitwise_count(words[:, None] ^ words[None]).sum(axis=-1)
    expected = [
        (i, j, int(distances[i, j]))
        for i in range(300)
        for j in range(i + 1, 300)
        if distances[i, j] <= max_distance and 7 not in (i, j)
    ]
    found = near_pairs(hashes, max_distance)
    assert list(zip(found.first.tolist(), found.second.tolist(), found.distances.tolist(), strict=True)) == expected


def test_the_search_works_in_parts_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = hashes_with_neighbors(200, alike=True)
    whole = near_pairs(hashes)
    monkeypatch.setattr("medvit.leakage.perceptual_hash.MAX_PAIRS_AT_ONCE", 64)
    parts = near_pairs(hashes)
    np.testing.assert_array_equal([whole.first, whole.second], [parts.first, parts.second])


def test_coarse_pairs_are_those_of_a_plain_search_for_the_nearest() -> None:
    words = np.random.default_rng(0).integers(0, 256, (40, 32), dtype=np.uint8)
    words[20:, :7] = words[:20, :7]  # the lowest frequencies but for some
    hashes = [MARK + word.tobytes().hex() for word in words]
    bits = np.unpackbits(words, axis=1).astype(int)
    apart = np.abs(bits[:, None] - bits).sum(axis=-1)
    pairs = coarse_pairs([*hashes, ""], 18, 1)
    assert set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == {(n, n + 20) for n in range(20)}
    assert pairs.distances.tolist() == [apart[n, n + 20] for n in range(20)]
