"""Perceptual hashes: hashes of similar images differ in few bits, for any size and intensity scale of the images.

An image is averaged onto a small grid, its clipped intensities are transformed to frequencies by the cosine transform,
and each of the `NUM_BITS` lowest frequencies gives one bit, which is set if the coefficient is positive (the pHash of
Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010, with four times as many bits, and
zero instead of the median as threshold). Volumes are hashed in the same way over their axes R, A and S.

Mirroring an image flips the sign of every other frequency, and swapping its axes swaps frequencies. The hash of a
mirrored or rotated image can therefore be computed from the hash of the original image (`_turned`).

Pairs within a Hamming distance are found by multi-index hashing (Norouzi, Punjani and Fleet, "Fast Search in Hamming
Space with Multi-Index Hashing", CVPR 2012): if two hashes differ in at most r bits, at least one of their `NUM_BANDS`
parts (bands) differs in at most r / `NUM_BANDS` bits. In each band, all patterns of so few bits are flipped, and equal
bands are found by sorting. The search is exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations, product

import numpy as np
from jaxtyping import Float, Int, Num, UInt8, UInt16, UInt64
from numpy import ndarray as Array

NUM_BITS = 256
NUM_BANDS, BAND_BITS = 16, 16
GRID = {2: 64, 3: 32}
"""Points per side of the grid an image or a volume is averaged onto."""
SAMPLED = {2: 512, 3: 128}
"""Largest number of pixels averaged along an axis; others are skipped."""
CLIPPED_PERCENTILES = (0.5, 99.5)
"""Percentiles at which intensities are clipped, so that a burned-in mark or one hot pixel does not dominate."""

MARK = "z"
"""First character of every hash. Hashes of earlier versions lack it: they used the median as threshold, differ from
present ones in 4 to 30 bits, and must be recomputed.
"""

MAX_DISTANCE = 20
"""Largest number of differing bits for near duplicates.

Measured on 413 brain MR slices, 340 breast ultrasound images, 120 of nuclei, 1600 small and 30 large fundus pictures,
200 MR and 1584 binary volumes. After JPEG compression (down to quality 20), resizing, conversion to gray, noise or
gamma, 99 % of the copies differ from their originals in at most 18 bits. Copies shifted or cropped by 1 % differ in 12
to 38 bits, so only some of them are found. Different images differ in at least 22 bits, except smooth ones: one pair of
the small pictures and 2272 pairs of the binary volumes (of 1.25 million) differ in fewer, and `MIN_CORRELATION`
excludes these pairs. Rotated copies have up to 4 bits more. On 413 brain slices, 340 ultrasound images, 120 of nuclei
and 30 fundus pictures, no pair was a false match only after rotation.
"""
MIN_CORRELATION = 0.94
"""Minimum correlation of near duplicates with similar hashes, on the grid. Correct pairs had 0.94 to 1, false pairs
0.93 at most.
"""
MAX_PAIRS_AT_ONCE = 2**22
FEW = 512
"""Maximum number of hashes of which all pairs are compared; for so few, the search by bands takes longer."""

COARSE_BITS = 64
"""Number of bits of the lowest frequencies, which a crop hardly changes."""
COARSE_DISTANCE = 16
"""Maximum number of the `COARSE_BITS` bits in which an image and a crop of it may differ. In ultrasound images, brain
slices and nuclei, the median difference is 6 to 10 bits for crops by 5 %, and 15 to 18 bits for crops by 10 %; the 90th
percentile for crops by 5 % is 12 to 18 bits. Of the pairs of different images, one in a thousand differs in so few
bits; of the pairs of fundus photographs with the same frame, most do.
"""
COARSE_COUNT = 2
"""Number of nearest neighbors examined per image. The limit keeps the time linear in the number of images."""


@dataclass(frozen=True)
class Pairs:
    """Pairs of indices (N,) into a list of hashes, and the number of bits in which the hashes of each pair differ."""

    first: Int[Array, "n"]
    second: Int[Array, "n"]
    distances: Int[Array, "n"]

    def __len__(self) -> int:
        return len(self.first)


def hash_image(pixels: Num[Array, "c *s"]) -> str:
    """Return the hash of an image (C, H, W) or volume (C, I, J, K): `MARK` and 64 hex digits.

    Channels are averaged.

    The hash is empty if the image has no distinguishing content: no finite pixel, or all pixels equal after clipping.
    """
    averaged = _on_grid(pixels)
    low, high = np.percentile(averaged, CLIPPED_PERCENTILES)
    if not high > low:
        return ""
    frequencies = _low_frequencies((np.clip(averaged, low, high) - low) / (high - low))
    return MARK + np.packbits(frequencies > 0.0).tobytes().hex()


@dataclass(frozen=True)
class Turn:
    """Rotation or mirroring of an image: its axes are put in `order`, then those in `flipped` are reversed."""

    order: tuple[int, ...]
    flipped: tuple[bool, ...]

    def apply(self, grid: Num[Array, "*s"]) -> Num[Array, "*t"]:
        """Return pixels (without a channel axis), rotated or mirrored."""
        steps = tuple(slice(None, None, -1 if is_flipped else 1) for is_flipped in self.flipped)
        return grid.transpose(self.order)[steps]


TURNS: Mapping[int, tuple[Turn, ...]] = {
    2: tuple(Turn(order, flips) for order in ((0, 1), (1, 0)) for flips in product((False, True), repeat=2))[1:],
    3: tuple(Turn((0, 1, 2), flips) for flips in product((False, True), repeat=3))[1:],
}
"""Rotations and reflections to search for, keyed by the number of dimensions: all seven of an image, but only
reflections of a volume, because the axes of a volume are known.
"""


def near_pairs(hashes: Sequence[str], max_distance: int = MAX_DISTANCE, turn: Turn | None = None) -> Pairs:
    """Return all pairs of hashes that differ in at most `max_distance` bits, in order; empty hashes have no pairs.

    With `turn`, the first image of each pair is rotated or mirrored before the comparison; all images must have as many
    axes as the turn. If the turn swaps axes, up to 4 bits of the rotated hash are unknown and may count as differences.
    """
    there = np.array([index for index, text in enumerate(hashes) if text], dtype=np.int64)
    if len(there) < 2:
        return Pairs(*np.zeros((3, 0), dtype=np.int64))
    texts = [bytes.fromhex(hashes[index].removeprefix(MARK)) for index in there]
    words = np.array([np.frombuffer(text, dtype=np.uint8) for text in texts])
    found = _search(words if turn is None else _turned(words, turn), words, max_distance)
    return Pairs(there[found[0]], there[found[1]], found[2])


def coarse_pairs(hashes: Sequence[str], max_distance: int = COARSE_DISTANCE, count: int = COARSE_COUNT) -> Pairs:
    """Return pairs of each hash and the up to `count` hashes nearest to it by the `COARSE_BITS` lowest frequencies.

    In these frequencies, the hashes of a pair differ in at most `max_distance` bits. The returned distance counts the
    differing bits of all frequencies. Empty hashes have no pairs. All hashes are compared with all others, which takes
    about a second for 10,000 hashes.
    """
    there = np.array([index for index, text in enumerate(hashes) if text], dtype=np.int64)
    if len(there) < 2:
        return Pairs(*np.zeros((3, 0), dtype=np.int64))
    words = np.array([np.frombuffer(bytes.fromhex(hashes[n].removeprefix(MARK)), dtype=np.uint64) for n in there])
    coarse, rows = words[:, 0], max(1, MAX_PAIRS_AT_ONCE // len(words))
    found = [_nearest(coarse, slice(n, n + rows), max_distance, count) for n in range(0, len(words), rows)]
    ordered = np.unique(np.sort(np.concatenate(found), axis=1), axis=0)
    first, second = ordered[:, 0], ordered[:, 1]
    distances = np.bitwise_count(words[first] ^ words[second]).sum(axis=1, dtype=np.int64)
    return Pairs(there[first], there[second], distances)


def _nearest(coarse: UInt64[Array, "n"], some: slice, max_distance: int, count: int) -> Int[Array, "m 2"]:
    """Return pairs of each hash in the slice `some` and the at most `count` hashes nearest to it.

    The hashes of a pair differ in at most `max_distance` bits.
    """
    distances = np.bitwise_count(coarse[some, None] ^ coarse)
    own = np.arange(len(distances))
    distances[own, own + some.start] = COARSE_BITS + 1
    kept = min(count, len(coarse) - 1)
    nearest = np.argpartition(distances, kept - 1, axis=1)[:, :kept]
    row, place = np.nonzero(np.take_along_axis(distances, nearest, axis=1) <= max_distance)
    return np.stack([row + some.start, nearest[row, place]], axis=1)


def _turned(words: UInt8[Array, "n b"], turn: Turn) -> UInt8[Array, "n b"]:
    places = _lowest(len(turn.order))
    number = {tuple(place): bit for bit, place in enumerate(places.T.tolist())}
    # Axis n after the rotation was axis order[n]; where the swapped frequency is not among the lowest, the bit is kept.
    inverse = np.argsort(turn.order)
    sources = [number.get(tuple(place[inverse].tolist()), bit) for bit, place in enumerate(places.T)]
    is_odd = places[np.array(turn.flipped)].sum(axis=0) % 2
    bits = np.unpackbits(words, axis=1)[:, sources] ^ is_odd.astype(np.uint8)
    return np.ascontiguousarray(np.packbits(bits, axis=1))


def correlation(one: Num[Array, "c *s"], other: Num[Array, "c *t"], turn: Turn | None = None) -> float:
    """Return Pearson's correlation of two images, averaged onto the same grid; 0 if one is constant.

    The first image is rotated or mirrored by `turn`.
    """
    first = _on_grid(one) if turn is None else turn.apply(_on_grid(one))
    first, second = first.ravel() - first.mean(), _on_grid(other).ravel()
    second = second - second.mean()
    norm = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / norm if norm > 0 else 0.0


def _on_grid(pixels: Num[Array, "c *s"]) -> Float[Array, "*g"]:
    return averaged_on(pixels, GRID[pixels.ndim - 1])


def averaged_on(pixels: Num[Array, "c *s"], points: int) -> Float[Array, "*g"]:
    """Return the mean over channels, averaged onto a grid with `points` points per side."""
    ndim = pixels.ndim - 1
    steps = tuple(slice(None, None, max(1, size // SAMPLED[ndim])) for size in pixels.shape[1:])
    sampled = _finite(pixels[(slice(None), *steps)]).astype(np.float32)
    averaged = sampled[0] if len(sampled) == 1 else sampled.mean(axis=0)
    for axis in reversed(range(ndim)):
        averaged = _averaged(averaged, _averaging(averaged.shape[axis], points), axis)
    return averaged.astype(np.float64)


def _averaged(pixels: Float[Array, "*s"], shares: Float[Array, "p n"], axis: int) -> Float[Array, "*t"]:
    """Average an array along one axis; row p of `shares` has the weight of each element in average p.

    The array is not copied. `tensordot` would copy it and take twice as long.
    """
    before, after = pixels.shape[:axis], pixels.shape[axis + 1 :]
    if not after:
        averaged = pixels.reshape(-1, pixels.shape[axis]) @ shares.T
    else:
        averaged = shares @ pixels.reshape(*before, pixels.shape[axis], -1)
    return averaged.reshape(*before, len(shares), *after)


def _finite(pixels: Num[Array, "c *s"]) -> Num[Array, "c *s"]:
    """Replace non-finite pixels by the lowest finite value, or by zero if no pixel is finite."""
    if not np.issubdtype(pixels.dtype, np.floating):
        return pixels
    is_finite = np.isfinite(pixels)
    return np.where(is_finite, pixels, pixels.min(initial=np.inf, where=is_finite) if is_finite.any() else 0.0)


@cache
def _averaging(size: int, points: int) -> Float[Array, "p n"]:
    """Return weights (points, pixels) that average an axis of `size` pixels to `points` values.

    Each value is the mean over one of `points` equal sections of the axis.
    """
    edges = np.linspace(0, size, points + 1)
    starts, ends = edges[:-1, None], edges[1:, None]
    pixels = np.arange(size)[None]
    overlap = np.clip(np.minimum(ends, pixels + 1) - np.maximum(starts, pixels), 0, None)
    return (overlap / overlap.sum(axis=1, keepdims=True)).astype(np.float32)


def _low_frequencies(grid: Float[Array, "*g"]) -> Float[Array, "b"]:
    """Return the coefficients of the orthonormal cosine transform (DCT-II) selected by `_lowest`."""
    points, kept = len(grid), int(_lowest(grid.ndim).max()) + 1
    angles = np.pi / points * (np.arange(points)[None] + 0.5) * np.arange(kept)[:, None]
    waves = np.cos(angles) * np.where(np.arange(kept) == 0, 1.0, np.sqrt(2.0))[:, None] / np.sqrt(points)
    frequencies = grid
    for _ in range(grid.ndim):
        frequencies = np.tensordot(waves, frequencies, (1, grid.ndim - 1))
    return frequencies[tuple(_lowest(grid.ndim))]


@cache
def _lowest(ndim: int) -> Int[Array, "d b"]:
    """Return the indices of the `NUM_BITS` lowest frequencies, without the mean, which only reflects brightness."""
    places = np.indices((GRID[ndim],) * ndim).reshape(ndim, -1)
    return places[:, np.argsort((places**2).sum(axis=0), kind="stable")[1 : NUM_BITS + 1]]


def _search(queries: UInt8[Array, "n b"], words: UInt8[Array, "n b"], max_distance: int) -> Int[Array, "3 m"]:
    wanted, full = queries.view(np.uint64), words.view(np.uint64)
    keys, distances = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    bands = queries.view(np.uint16), words.view(np.uint16)
    for first, second in _candidates(*bands, max_distance // NUM_BANDS, len(words)):
        differing = np.bitwise_count(wanted[first] ^ full[second]).sum(axis=1, dtype=np.int64)
        near = differing <= max_distance
        keys.append(first[near] * len(words) + second[near])
        distances.append(differing[near])
    found, places = np.unique(np.concatenate(keys), return_index=True)
    return np.stack([found // len(words), found % len(words), np.concatenate(distances)[places]])


def _candidates(
    queries: UInt16[Array, "n b"], bands: UInt16[Array, "n b"], radius: int, size: int
) -> Iterator[tuple[Int[Array, "m"], Int[Array, "m"]]]:
    """Yield pairs of indices, lower index first, that are candidates for similar hashes.

    They include all pairs with a band that differs in at most `radius` bits.
    """
    if size <= FEW:
        yield from _all_pairs(size)
        return
    masks = _masks(radius)
    orders = [np.argsort(bands[:, band], kind="stable") for band in range(NUM_BANDS)]
    bounds = [_bounds(bands[:, band][order], queries[:, band], masks) for band, order in enumerate(orders)]
    if sum(int((high - low).sum()) for low, high in bounds) > size * (size - 1) // 2:
        yield from _all_pairs(size)  # hashes are so similar that comparing all is faster
        return
    for order, (lows, highs) in zip(orders, bounds, strict=True):
        for low, high in zip(lows, highs, strict=True):
            yield from _expanded(order, low, high)


def _masks(radius: int) -> UInt16[Array, "m"]:
    """Return every pattern of `BAND_BITS` bits with at most `radius` bits set."""
    patterns = (combinations(range(BAND_BITS), count) for count in range(radius + 1))
    return np.array([sum(1 << bit for bit in bits) for some in patterns for bits in some], dtype=np.uint16)


def _bounds(
    ordered: UInt16[Array, "n"], keys: UInt16[Array, "n"], masks: UInt16[Array, "m"]
) -> tuple[Int[Array, "m n"], Int[Array, "m n"]]:
    """Return, for each mask and key, the start and end of the matching range in `ordered`.

    The range contains the values that equal the key after the bits of the mask are flipped in the key.
    """
    starts = np.searchsorted(ordered, np.arange(2**BAND_BITS + 1)).astype(np.int32)
    turned = (keys[None] ^ masks[:, None]).astype(np.int64)
    return starts[turned], starts[turned + 1]


def _expanded(
    order: Int[Array, "n"], low: Int[Array, "n"], high: Int[Array, "n"]
) -> Iterator[tuple[Int[Array, "m"], Int[Array, "m"]]]:
    counts = high - low
    ends = np.cumsum(counts)
    start = 0
    while start < len(counts):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + MAX_PAIRS_AT_ONCE, side="right")))
        part = counts[start:stop]
        first = np.repeat(np.arange(start, stop), part)
        offsets = np.arange(len(first)) - np.repeat(np.cumsum(part) - part, part)
        second = order[low[first] + offsets]
        is_ordered = first < second
        yield first[is_ordered], second[is_ordered]
        start = stop


def _all_pairs(size: int) -> Iterator[tuple[Int[Array, "m"], Int[Array, "m"]]]:
    rows = max(1, MAX_PAIRS_AT_ONCE // size)
    for start in range(0, size, rows):
        first, second = np.divmod(np.arange(start * size, min(start + rows, size) * size, dtype=np.int64), size)
        yield first[first < second], second[first < second]
