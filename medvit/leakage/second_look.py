"""A second look at the pixels of two images that may be near duplicates, also where one is shifted or cropped.

Two images of one kind can agree in everything coarse, as two photographs of a fundus within one round frame do, and
still be of two eyes. What decides is fine structure at equal local contrast, block by block, so that an edge of the
frame counts no more than a vessel: of a copy, three quarters of the blocks agree; of two eyes, those on the edge alone.

A copy that lost its borders is shifted and stretched. Windows of one image are sought in the other by
cross-correlation, and from those whose displacements agree follows one shift and one stretch along each axis.
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
"""Points a side of the grid on which images are compared."""
ROUGH = SIDE // 2
"""Points a side of the grid on which windows are sought."""
WINDOW = ROUGH // 2
"""Points a side of a window on the rough grid; nine of them overlap by half."""
MAX_SHIFT = ROUGH // 8
"""Points of the rough grid by which a window is displaced along an axis at most."""
MAX_STRETCH = 1.15
"""How much longer one image is than the other along an axis at most: a crop by 10 % stretches by 1.11."""
TOLERANCE = 2.0
"""Points of the rough grid within which windows agree on shift and stretch."""
MIN_WINDOWS = 4
"""Windows that must agree; with fewer, images are laid over each other by one shift."""
BLOCK = 32
"""Points a side of the blocks whose fine structure is compared, each as far as both images cover it."""
MIN_BLOCKS = 4
MIN_VARIANCE = 0.15
"""Variance of the fine structure at equal local contrast without which a block has none: 1 where it has much."""
FINE, COARSE, LOCAL = 1.0, 6.0, 8.0
"""Standard deviations in points of the blurs between which structure is fine, and over which contrast is local."""
TRUNCATED = 2.5
"""Standard deviations at which the wide blurs end."""
MIN_FINE = 0.12
"""Fine structure, as a share of the standard deviation of the image, without which an image is too smooth to tell:
smooth phantoms have 0.11 at most, ultrasound, brain slices and fundus photographs 0.17 at least."""
QUARTILE = 25
MIN_DETAIL = 0.3
MIN_DETAIL_SMALL = 0.7
"""Lower quartile over blocks of the correlation of fine structure that copies have at least.

Chosen on half of the images of six sets (`benchmarks/duplicates.py`; docs/results.md has the others). Different images
of ultrasound, nuclei and DRIVE had 0.16 at most, copies cropped by up to 5 % 0.8 and by up to 10 % 0.37 at least.
Of pictures of 28 pixels different ones had 0.65 at most, copies cropped by up to 10 % 0.8 at least.
"""
SMALL = 64
"""Images with fewer pixels along an axis have so few details that `MIN_DETAIL_SMALL` holds."""


@dataclass(frozen=True)
class Look:
    """An image prepared to be laid over others; what only likely copies need is computed when it is asked for."""

    grid: Float[Array, "h w"]
    rough: Float[Array, "r r"]
    """Its fine structure on the rough grid."""
    is_small: bool

    @cached_property
    def detail(self) -> Float[Array, "h w"]:
        """Its fine structure at equal local contrast."""
        return self._detail[0]

    @cached_property
    def is_smooth(self) -> bool:
        """Whether it has too little fine structure to tell."""
        spread = self._detail[1]
        return spread < MIN_FINE * float(self.grid.std()) or spread == 0.0

    @cached_property
    def spectrum(self) -> Complex[Array, "r f"]:
        """Fourier transform of the rough grid."""
        return np.asarray(scipy.fft.rfft2(self.rough))

    @cached_property
    def window_spectra(self) -> Complex[Array, "9 r f"]:
        """Fourier transforms of the windows of the rough grid."""
        return np.asarray(scipy.fft.rfft2(_windowed(self.rough)))

    @cached_property
    def _detail(self) -> tuple[Float[Array, "h w"], float]:
        return _detail(self.grid)


@dataclass(frozen=True)
class Placement:
    """Where an image lies on another: a point there is `stretch` times the point here, plus `shift`, along (H, W)."""

    stretch: Float[Array, "2"]
    shift: Float[Array, "2"]


def prepared(pixels: Num[Array, "c h w"], turn: Turn | None = None) -> Look:
    """An image, turned, on the grid, with its fine structure at equal local contrast."""
    grid = averaged_on(pixels, SIDE).astype(np.float32)
    grid = grid if turn is None else np.ascontiguousarray(turn.apply(grid))
    rough, _ = _detail(grid.reshape(ROUGH, 2, ROUGH, 2).mean(axis=(1, 3)))
    return Look(grid, rough, min(pixels.shape[1:]) < SMALL)


def shows_the_same(one: Look, other: Look) -> bool:
    """Whether two images have the same content, as they lie, shifted or with borders of one of them cut off."""
    least = MIN_DETAIL_SMALL if one.is_small or other.is_small else MIN_DETAIL
    return agreement(one, other) >= least


def agreement(one: Look, other: Look) -> float:
    """Lower quartile over blocks of the correlation of fine structure, once the images lie over each other.

    0 where too few blocks have fine structure.
    """
    placement = _placed(one, other)
    laid, covered = _laid(other.detail, placement)
    found = _correlations(one.detail, laid, covered)
    return float(np.percentile(found, QUARTILE)) if len(found) >= MIN_BLOCKS else 0.0


def _detail(grid: Float[Array, "h w"]) -> tuple[Float[Array, "h w"], float]:
    """Fine structure at equal local contrast, and its standard deviation before."""
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
    """Where the other image lies on the first, as most windows say."""
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
    """Pairs of windows that differ in row and column, from which shift and stretch follow."""
    first, second = np.triu_indices(9, 1)
    is_slanted = (_centers()[first] != _centers()[second]).all(axis=1)
    return first[is_slanted], second[is_slanted]


def _displacements(whole: Complex[Array, "r f"], windows: Complex[Array, "n r f"]) -> Float[Array, "n 2"]:
    """By how many points each window lies further down and right in the other image, to a part of a point."""
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
    """Where the parabola through three values has its peak, from the middle one, within half a point."""
    curvature = np.minimum(before - 2.0 * top + after, -1e-12)
    return np.clip(0.5 * (before - after) / curvature, -0.5, 0.5)


def _fitted(here: Float[Array, "n 2"], there: Float[Array, "n 2"]) -> Placement:
    """The least-squares shift and stretch; an axis along which all windows lie at one place is not stretched."""
    centered = here - here.mean(axis=0)
    extent = (centered**2).sum(axis=0)
    stretch = np.where(extent > 0, (centered * there).sum(axis=0) / np.maximum(extent, 1.0), 1.0)
    return _on_grid(stretch, there.mean(axis=0) - stretch * here.mean(axis=0))


def _on_grid(stretch: Float[Array, "2"], shift: Float[Array, "2"]) -> Placement:
    """A placement in points of the fine grid: a rough point is the middle of two of them."""
    return Placement(stretch, 2.0 * shift + 0.5 * (1.0 - stretch))


def _laid(detail: Float[Array, "h w"], placement: Placement) -> tuple[Float[Array, "h w"], Bool[Array, "h w"]]:
    """The fine structure of an image where it lies on another, and the points it covers."""
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
    """Of the blocks that are covered by half at least and have fine structure in one of the images."""
    inside = _blocks(covered.astype(np.float32))
    number = np.maximum(inside.sum(axis=1), 1.0)
    parts = [_blocks(part) * inside for part in (one, other)]
    first, second = ((part - (part.sum(axis=1) / number)[:, None]) * inside for part in parts)
    variances = [(part**2).sum(axis=1) / number for part in (first, second)]
    correlations = (first * second).sum(axis=1) / number / np.sqrt(variances[0] * variances[1] + 1e-12)
    is_told = (inside.mean(axis=1) >= 0.5) & (np.maximum(*variances) > MIN_VARIANCE)
    return np.asarray(correlations[is_told])


def _blocks(grid: Float[Array, "h w"]) -> Float[Array, "b n"]:
    count = SIDE // BLOCK
    return grid.reshape(count, BLOCK, count, BLOCK).swapaxes(1, 2).reshape(count * count, -1)
