"""Second comparison of possible near duplicates by their pixels; one image may be shifted or cropped.

Two images can have the same coarse structure, as two fundus photographs within the same round frame have, and still
show different eyes. Therefore fine structure is compared after local contrast normalization, block by block, so that an
edge of the frame counts no more than a vessel. In a copy, three quarters of the blocks agree; in images of different
eyes, only the blocks on the edge agree.

A cropped copy is shifted and stretched. Windows of one image are located in the other by cross-correlation, and the
windows with consistent displacements determine one shift, and one stretch factor along each axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import scipy.fft
from jaxtyping import Bool, Complex, Float, Int, Num
from numpy import ndarray as Array
from scipy.ndimage import gaussian_filter

from medvit.leakage.perceptual_hash import Turn, averaged_on

SIDE = 256
"""Points per side of the grid on which images are compared."""
ROUGH = SIDE // 2
"""Points per side of the rough grid on which windows are located."""
WINDOW = ROUGH // 2
"""Points per side of a window. Nine windows cover the rough grid; neighboring windows overlap by half."""
MAX_SHIFT = ROUGH // 8
"""Maximum displacement of a window along an axis, in points of the rough grid."""
MAX_STRETCH = 1.15
"""Maximum factor by which one image is stretched along an axis to match the other: a crop by 10 % is stretched by
1.11.
"""
TOLERANCE = 2.0
"""Tolerance of windows that agree on shift and stretch, in points of the rough grid."""
MIN_WINDOWS = 4
"""Minimum number of windows that must agree on shift and stretch; with fewer, images are aligned by a shift alone."""
BLOCK = 32
"""Points per side of the blocks whose fine structure is compared, each where both images cover it."""
MIN_BLOCKS = 4
MIN_VARIANCE = 0.15
"""Minimum variance of the fine structure of a block, after local contrast normalization, for the block to count. It is
about 1 in a block with much structure.
"""
FINE, COARSE, LOCAL = 1.0, 6.0, 8.0
"""Standard deviations of blurs, in points: two that bound fine structure, and one that defines local contrast."""
TRUNCATED = 2.5
"""Number of standard deviations at which the wide blurs are truncated."""
MIN_FINE = 0.12
"""Minimum fine structure, as a share of the standard deviation of the image; below it, an image is too smooth to
compare: smooth phantoms have 0.11 at most, ultrasound, brain slices and fundus photographs 0.17 at least.
"""
QUARTILE = 25
MIN_DETAIL = 0.3
MIN_DETAIL_SMALL = 0.7
"""Minimum agreement (`agreement`) of copies, in general and for small images.

Chosen on half of the images of six data sets (`benchmarks/duplicates.py`); docs/results.md has the results for the
other half. In ultrasound, nuclei and DRIVE, the agreement was at most 0.16 for different images, at least 0.8 for
copies cropped by up to 5 %, and at least 0.37 for copies cropped by up to 10 %. Among images of 28 pixels, it was at
most 0.65 for different images, and at least 0.8 for copies cropped by up to 10 %.
"""
SMALL = 64
"""Images with fewer pixels along an axis have so little detail that `MIN_DETAIL_SMALL` applies."""


@dataclass(frozen=True)
class Look:
    """Image prepared for a comparison with other images.

    Values that are required only for likely copies are computed on demand.
    """

    grid: Float[Array, "h w"]
    rough: Float[Array, "r r"]
    """Fine structure of the image on the rough grid."""
    is_small: bool

    @cached_property
    def detail(self) -> Float[Array, "h w"]:
        """Fine structure after local contrast normalization."""
        return self._detail[0]

    @cached_property
    def is_smooth(self) -> bool:
        """Whether the image has too little fine structure for a comparison."""
        spread = self._detail[1]
        return spread < MIN_FINE * float(self.grid.std()) or spread == 0.0

    @cached_property
    def spectrum(self) -> Complex[Array, "r f"]:
        """Fourier transform of `rough`."""
        return np.asarray(scipy.fft.rfft2(self.rough))

    @cached_property
    def window_spectra(self) -> Complex[Array, "9 r f"]:
        """Fourier transforms of the nine windows of `rough`."""
        return np.asarray(scipy.fft.rfft2(_windowed(self.rough)))

    @cached_property
    def _detail(self) -> tuple[Float[Array, "h w"], float]:
        return _detail(self.grid)


@dataclass(frozen=True)
class Placement:
    """Position of one image on another.

    A point p of the one image is at `stretch` * p + `shift` in the other, along (H, W).
    """

    stretch: Float[Array, "2"]
    shift: Float[Array, "2"]


def prepared(pixels: Num[Array, "c h w"], turn: Turn | None = None) -> Look:
    """Return an image for comparison: averaged onto a grid of fixed size, and optionally rotated or mirrored."""
    grid = averaged_on(pixels, SIDE).astype(np.float32)
    grid = grid if turn is None else np.ascontiguousarray(turn.apply(grid))
    rough, _ = _detail(grid.reshape(ROUGH, 2, ROUGH, 2).mean(axis=(1, 3)))
    return Look(grid, rough, min(pixels.shape[1:]) < SMALL)


def shows_the_same(one: Look, other: Look) -> bool:
    """Return whether two images have the same content: unchanged, shifted, or with borders of one image cropped."""
    least = MIN_DETAIL_SMALL if one.is_small or other.is_small else MIN_DETAIL
    return agreement(one, other) >= least


def agreement(one: Look, other: Look) -> float:
    """Return the lower quartile, over blocks, of the correlation of fine structure between the aligned images.

    The result is 0 if too few blocks have fine structure.
    """
    placement = _placed(one, other)
    laid, covered = _laid(other.detail, placement)
    found = _correlations(one.detail, laid, covered)
    return float(np.percentile(found, QUARTILE)) if len(found) >= MIN_BLOCKS else 0.0


def _detail(grid: Float[Array, "h w"]) -> tuple[Float[Array, "h w"], float]:
    """Return the normalized fine structure, and its standard deviation before normalization."""
    fine = gaussian_filter(grid, FINE) - gaussian_filter(grid, COARSE, truncate=TRUNCATED)
    spread = float(fine.std())
    contrast = np.sqrt(gaussian_filter(fine**2, LOCAL, truncate=TRUNCATED))
    return fine / (contrast + 0.1 * spread + 1e-12), spread


@cache
def _centers() -> Float[Array, "9 2"]:
    places = np.arange(1, 4) * ROUGH / 4
    return np.stack(np.meshgrid(places, places, indexing="ij"), axis=-1).reshape(-1, 2)


@cache
def _taper() -> Float[Array, "w w"]:
    edge = np.hanning(WINDOW + 2)[1:-1].astype(np.float32)
    return np.outer(edge, edge)


def _windowed(rough: Float[Array, "r r"]) -> Float[Array, "9 r r"]:
    parts = np.zeros((9, ROUGH, ROUGH), np.float32)
    for part, (row, column) in zip(parts, _centers().astype(int), strict=True):
        place = slice(row - WINDOW // 2, row + WINDOW // 2), slice(column - WINDOW // 2, column + WINDOW // 2)
        weighted = rough[place] * _taper()
        part[place] = weighted - _taper() * (weighted.sum() / _taper().sum())
    return parts


def _placed(one: Look, other: Look) -> Placement:
    """Return the placement of one image on the other with which most windows agree.

    If too few windows agree, the placement is only a shift, without stretching.
    """
    centers = _centers()
    whole, windows = one.spectrum, other.window_spectra
    there = centers + _displacements(whole, windows)
    first, second = _slanted()
    stretch = (there[first] - there[second]) / (centers[first] - centers[second])
    shift = there[first] - stretch * centers[first]
    errors = np.abs(stretch[:, None] * centers + shift[:, None] - there).max(axis=-1)
    is_possible = ((stretch < MAX_STRETCH) & (stretch > 1.0 / MAX_STRETCH)).all(axis=1)
    agreeing = (errors <= TOLERANCE) & is_possible[:, None]
    best = agreeing[agreeing.sum(axis=1).argmax()]
    if best.sum() < MIN_WINDOWS:
        return _on_grid(np.ones(2), _displacements(whole, windows.sum(axis=0, keepdims=True))[0])
    return _fitted(centers[best], there[best])


@cache
def _slanted() -> tuple[Int[Array, "p"], Int[Array, "p"]]:
    """Return all pairs of windows that differ in both row and column.

    Each pair determines a shift and a stretch factor along each axis.
    """
    first, second = np.triu_indices(9, 1)
    is_slanted = (_centers()[first] != _centers()[second]).all(axis=1)
    return first[is_slanted], second[is_slanted]


def _displacements(whole: Complex[Array, "r f"], windows: Complex[Array, "n r f"]) -> Float[Array, "n 2"]:
    """Return the displacement (down, right) at which each window matches the whole image, with subpixel precision."""
    peaks = scipy.fft.irfft2(whole * windows.conj(), s=(ROUGH, ROUGH))
    near = np.arange(-MAX_SHIFT - 1, MAX_SHIFT + 2)
    peaks = peaks[:, near[:, None], near]
    inner = peaks[:, 1:-1, 1:-1].reshape(len(windows), -1)
    row, column = np.divmod(inner.argmax(axis=1), 2 * MAX_SHIFT + 1)
    number = np.arange(len(windows))
    top = peaks[number, row + 1, column + 1]
    down = _vertex(peaks[number, row, column + 1], top, peaks[number, row + 2, column + 1])
    right = _vertex(peaks[number, row + 1, column], top, peaks[number, row + 1, column + 2])
    return np.stack([row - MAX_SHIFT + down, column - MAX_SHIFT + right], axis=1)


def _vertex(before: Float[Array, "n"], top: Float[Array, "n"], after: Float[Array, "n"]) -> Float[Array, "n"]:
    """Return the position of the peak of a parabola through three neighboring values.

    The position is relative to the middle value, and at most half a point away from it.
    """
    curvature = np.minimum(before - 2.0 * top + after, -1e-12)
    return np.clip(0.5 * (before - after) / curvature, -0.5, 0.5)


def _fitted(here: Float[Array, "n 2"], there: Float[Array, "n 2"]) -> Placement:
    """Return the shift and stretch that map positions `here` to positions `there`, by least squares.

    Along an axis on which all windows have the same position, the stretch is 1.
    """
    centered = here - here.mean(axis=0)
    extent = (centered**2).sum(axis=0)
    stretch = np.where(extent > 0, (centered * there).sum(axis=0) / np.maximum(extent, 1.0), 1.0)
    return _on_grid(stretch, there.mean(axis=0) - stretch * here.mean(axis=0))


def _on_grid(stretch: Float[Array, "2"], shift: Float[Array, "2"]) -> Placement:
    """Convert a placement from the rough grid to the fine grid, which has two points per rough point along an axis."""
    return Placement(stretch, 2.0 * shift + 0.5 * (1.0 - stretch))


def _laid(detail: Float[Array, "h w"], placement: Placement) -> tuple[Float[Array, "h w"], Bool[Array, "h w"]]:
    """Return the fine structure of an image, resampled onto another image by a placement.

    The second result is a mask of the points that the resampled image covers.
    """
    laid, covered = detail, []
    for axis in (0, 1):
        place = (np.arange(SIDE) - placement.shift[axis]) / placement.stretch[axis]
        covered.append((place >= 0) & (place <= SIDE - 1))
        below = np.clip(np.floor(place).astype(int), 0, SIDE - 2)
        share = np.clip(place - below, 0, 1).astype(np.float32)
        share = share[:, None] if axis == 0 else share[None]
        laid = np.take(laid, below, axis) * (1 - share) + np.take(laid, below + 1, axis) * share
    return laid, np.outer(*covered)


def _correlations(
    one: Float[Array, "h w"], other: Float[Array, "h w"], covered: Bool[Array, "h w"]
) -> Float[Array, "b"]:
    """Return the correlation of two images in each block of their common grid.

    Only blocks count that are at least half covered and have fine structure in at least one of the images.
    """
    inside = _blocks(covered.astype(np.float32))
    number = np.maximum(inside.sum(axis=1), 1.0)
    parts = [_blocks(part) * inside for part in (one, other)]
    first, second = ((part - (part.sum(axis=1) / number)[:, None]) * inside for part in parts)
    variances = [(part**2).sum(axis=1) / number for part in (first, second)]
    correlations = (first * second).sum(axis=1) / number / np.sqrt(variances[0] * variances[1] + 1e-12)
    is_reliable = (inside.mean(axis=1) >= 0.5) & (np.maximum(*variances) > MIN_VARIANCE)
    return np.asarray(correlations[is_reliable])


def _blocks(grid: Float[Array, "h w"]) -> Float[Array, "b n"]:
    count = SIDE // BLOCK
    return grid.reshape(count, BLOCK, count, BLOCK).swapaxes(1, 2).reshape(count * count, -1)
