"""Tissue detection on slides at low magnification, excluding blank glass, marker ink, bubbles and dust.

Stains absorb some colors more than others; glass, bubble rims, dust and pencil absorb all colors equally. Tissue is
therefore detected by its color in optical density (Beer and Lambert: -log10 of transmitted light, relative to blank
glass), which fading only scales. Marker ink has colors outside of the range of histology stains: hematoxylin, eosin and
DAB absorb green at least as strongly as nearly all other colors (vectors of Ruifrok and Johnston, 2001), while green
and blue ink transmit green, and red ink absorbs blue as strongly as green and transmits red.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from numpy import ndarray as Array

from medvit.errors import DataError, UnsupportedError

WORKING_MPP = 8.0
"""Microns per pixel of tissue detection: one nucleus per pixel."""
GLASS_SHARE = 0.005
"""Share of an image that must be bright and colorless to estimate the light of glass from it."""
USUAL_GLASS = 245.0
BRIGHT, COLORLESS = 180.0, 20.0
"""Gray levels: pixels that are darker, or whose channels differ by more, are not glass."""
GRAY_SPREAD, GRAY_SHARE = 2, 0.01
"""Bounds for an image without color: maximum difference between its channels in gray levels, and minimum share of
pixels that are darker than glass.
"""
CHROMA = (0.02, 0.06)
"""Bounds of the threshold on color in optical density, between faded tissue and the noise of a camera."""
INK_CHROMA = 0.12
"""Minimum color of ink in optical density; fainter ink is not recognized."""
SMOOTH = 0.025
"""Maximum amount of the finest detail in ink, in optical density. Ink is above the tissue, and therefore out of focus
and smooth.
"""
FAINT = 0.03
"""Optical density below which there is only glass."""
RIM = 1.5
"""Factor by which the rim of a stroke may have more detail than its center."""
ALIKE = 0.98
"""Minimum cosine similarity of two colors for the rim to count as having the color of the stroke. Hematoxylin and blue
ink have a similarity of 0.92.
"""
CLOSED_UM, OPENED_UM, GROWN_UM = 90.0, 12.0, 150.0
"""In microns: size of gaps to close, as in fat; size of specks to remove; width of the faint rim of a stroke."""
MIN_AREA_UM2 = 5_000.0
"""Minimum area of an island of tissue; smaller islands are dust."""
MIN_AREA_PIXELS = 9


@dataclass(frozen=True)
class TissueMap:
    """Tissue and ink pixels (H, W) of a low-power image; a pixel is never both."""

    tissue: Bool[Array, "h w"]
    ink: Bool[Array, "h w"]


def find_tissue(pixels: UInt8[Array, "3 h w"], mpp: float) -> TissueMap:
    """Return tissue and ink in an image with `mpp` microns per pixel, which should be about `WORKING_MPP`."""
    from scipy import ndimage

    density = optical_density(pixels)
    smooth = np.stack([ndimage.gaussian_filter(channel, 0.7) for channel in density])
    chroma = smooth.max(axis=0) - smooth.min(axis=0)
    ink = _ink(density, smooth, chroma, mpp)
    colored = (chroma > _threshold(chroma[~ink])) & ~ink
    opened = ndimage.binary_opening(colored, _disk(OPENED_UM / 2, mpp))
    kept = ndimage.binary_propagation(opened, mask=colored)
    closed = _closed(kept, _disk(CLOSED_UM / 2, mpp)) & ~ink
    return TissueMap(_without_islands(closed, mpp), ink)


def require_tissue(found: TissueMap, pixels: UInt8[Array, "3 h w"]) -> None:
    """Check that a slide has tissue; `pixels` is its low-magnification image.

    Raises:
        UnsupportedError: If the slide is gray, since tissue and dust cannot be distinguished without color.
        DataError: If the slide has no tissue.
    """
    if not found.tissue.any():
        if _is_gray(pixels):
            raise UnsupportedError(
                "the slide is gray, and tissue is found by its color; expected a slide in color, as of hematoxylin and "
                "eosin: exclude it, or give its tiles as image files"
            )
        share = float(found.ink.mean())
        seen = f"only ink, on {share:.0%} of it" if share > 0.01 else "only blank glass"
        raise DataError(f"no tissue was found on the slide, {seen}; exclude it, or scan it again")


def optical_density(pixels: UInt8[Array, "3 h w"]) -> Float32[Array, "3 h w"]:
    """Return the optical density of each channel relative to the blank glass of the same image."""
    values = pixels.astype(np.float32)
    glass = _glass(values)[:, None, None]
    return np.maximum(-np.log10((values + 1.0) / (glass + 1.0)), 0.0).astype(np.float32)


def _is_gray(pixels: UInt8[Array, "3 h w"]) -> bool:
    """Return whether an image has no color anywhere, and shows more than blank glass."""
    spread = int((pixels.max(axis=0) - pixels.min(axis=0)).max())
    return spread <= GRAY_SPREAD and bool((optical_density(pixels).mean(axis=0) > FAINT).mean() > GRAY_SHARE)


def _glass(values: Float32[Array, "3 h w"]) -> Float32[Array, "3"]:
    spread = values.max(axis=0) - values.min(axis=0)
    is_glass = (values.min(axis=0) > BRIGHT) & (spread < COLORLESS)
    if is_glass.mean() < GLASS_SHARE:
        return np.full(3, USUAL_GLASS, np.float32)
    return np.median(values[:, is_glass], axis=1).astype(np.float32)


def _ink(
    density: Float32[Array, "3 h w"], smooth: Float32[Array, "3 h w"], chroma: Float32[Array, "h w"], mpp: float
) -> Bool[Array, "h w"]:
    from scipy import ndimage

    red, green, blue = smooth
    strong = chroma > INK_CHROMA
    is_green = strong & (green < 0.75 * red) & (green < blue + 0.05)
    is_blue = strong & (green < 0.6 * red) & (blue < red)
    is_red = strong & (red < 0.2 * green) & (blue > 0.75 * green)
    detail = np.abs(density - np.stack([ndimage.gaussian_filter(channel, 2.0) for channel in density])).max(axis=0)
    detail = ndimage.gaussian_filter(detail, 2.0)
    limit = SMOOTH * (1.0 + smooth.mean(axis=0) * 4.0)
    is_flat = detail < limit
    sure = ndimage.binary_opening((is_green | is_blue | is_red) & is_flat, _disk(2 * OPENED_UM, mpp))
    if not sure.any():
        return sure
    # The thick end of a stroke is nearly black and its rim faint: both belong to the ink that they touch.
    dark = ndimage.binary_propagation(sure, mask=sure | (is_flat & (smooth.mean(axis=0) > 0.5)))
    distance, nearest = ndimage.distance_transform_edt(~dark, return_indices=True)
    near = distance * mpp <= GROWN_UM
    is_alike = _likeness(smooth, smooth[:, *nearest]) > ALIKE
    rim = near & ((detail < RIM * limit) | is_alike) & (smooth.max(axis=0) > FAINT)
    return np.asarray(ndimage.binary_propagation(dark, mask=dark | rim))


def _likeness(one: Float32[Array, "3 h w"], other: Float32[Array, "3 h w"]) -> Float32[Array, "h w"]:
    """Return the cosine similarity of colors in optical density: 1 if one is a thinner layer of the other."""
    norms = np.linalg.norm(one, axis=0) * np.linalg.norm(other, axis=0)
    return np.asarray((one * other).sum(axis=0) / np.maximum(norms, 1e-6))


def _threshold(chroma: Float32[Array, "n"]) -> float:
    """Return the threshold of Otsu (1979), limited to a fixed range."""
    low, high = CHROMA
    counts, edges = np.histogram(np.minimum(chroma, 0.5), 256, (0.0, 0.5))
    centers = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * centers)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    best = float(centers[int(np.nanargmax(between))]) if np.isfinite(between).any() else high
    return min(max(best, low), high)


def _disk(radius_um: float, mpp: float) -> Bool[Array, "d d"]:
    radius = max(1.0, radius_um / mpp)
    reach = int(radius)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return np.asarray(x**2 + y**2 <= radius**2 + 0.5)


def _closed(mask: Bool[Array, "h w"], disk: Bool[Array, "d d"]) -> Bool[Array, "h w"]:
    from scipy import ndimage

    reach = len(disk) // 2
    padded = np.pad(mask, reach, mode="edge")  # otherwise closing would erode tissue along the image border
    inner = tuple(slice(reach, -reach or None) for _ in range(2))
    return np.asarray(ndimage.binary_closing(padded, disk)[inner])


def _without_islands(mask: Bool[Array, "h w"], mpp: float) -> Bool[Array, "h w"]:
    from scipy import ndimage

    labels, _ = ndimage.label(mask, np.ones((3, 3)))
    areas = np.bincount(labels.ravel())
    large = areas >= max(MIN_AREA_PIXELS, MIN_AREA_UM2 / mpp**2)
    large[0] = False
    return np.asarray(large[labels])
