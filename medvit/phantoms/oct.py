"""Synthetic OCT volume of the macula: layers, a fovea, vessels that cast shadows, and fluid in some classes."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray as Array
from scipy.ndimage import gaussian_filter

CLASSES = ("normal", "fluid")
LAYERS = ("background", "inner retina", "outer retina", "pigment epithelium", "fluid")
"""Names of the label-map values 0 to 4; background is vitreous above and choroid below."""
SHAPE = (16, 64, 96)
"""B-scans, rows in depth, columns."""
SPACING_MM = (0.25, 0.0156, 0.0625)
"""Spacing between B-scans, in depth, and along a B-scan: 4 x 1 x 6 mm in total, anisotropic as in a real scan."""

BRIGHTNESS = {"vitreous": 12, "nerve fibers": 150, "inner": 95, "outer": 55, "epithelium": 190, "choroid": 100}


@dataclass(frozen=True)
class OctPhantom:
    """B-scans (frames, rows, columns) of one eye, rows running deeper, and the class of each pixel."""

    pixels: UInt8[Array, "frames rows columns"]
    labels: UInt8[Array, "frames rows columns"]


def oct_volume(
    generator: np.random.Generator, label: str, shape: tuple[int, int, int] = SHAPE, side: str = "right"
) -> OctPhantom:
    """Return one eye of class `label` (one of `CLASSES`) and `side` (right or left).

    Nerve fibers are thicker on the nasal side. Noise is speckle, which grows with brightness. Tilt and curvature of the
    retina differ between eyes.
    """
    frames, rows, columns = shape
    y, x = np.meshgrid(np.linspace(-1, 1, frames), np.linspace(-1, 1, columns), indexing="ij")
    unit = rows / 64
    floor = _smooth(generator, y.shape, 1.2) + 41 + 3 * generator.normal() * x + 2 * (x**2 + y**2)
    fovea = np.exp(-((x - generator.normal(0, 0.05)) ** 2 + (y - generator.normal(0, 0.05)) ** 2) / 0.05)
    nasal = x if side == "right" else -x  # in an image of a right eye the nose is at the right
    fibers = (3.5 + 2.0 * nasal) * (1 - fovea)
    inner = (10 + _smooth(generator, y.shape, 0.5)) * (1 - 0.75 * fovea)
    outer, epithelium = 9 + 2 * fovea, 3.0
    pocket = _pocket(generator, y, x) if label == "fluid" else np.zeros_like(x)
    bottom = floor * unit
    seams = np.cumsum(np.stack([fibers, inner, outer + pocket, np.full_like(x, epithelium)]) * unit, axis=0)
    seams = np.concatenate([np.zeros_like(seams[:1]), seams]) + bottom - seams[-1]
    return _drawn(generator, seams, pocket * unit, rows)


def _drawn(
    draw: np.random.Generator, seams: Float[Array, "5 f c"], pocket: Float[Array, "f c"], rows: int
) -> OctPhantom:
    depth = np.arange(rows).reshape(1, -1, 1)
    lines = seams[:, :, None, :]
    between = [(depth >= upper) & (depth < lower) for upper, lower in itertools.pairwise(lines)]
    fluid = between[2] & (depth >= lines[3] - 0.9 * pocket[:, None, :]) & (pocket[:, None, :] > 1.0)
    light = np.full(between[0].shape, float(BRIGHTNESS["vitreous"]))
    choroid = BRIGHTNESS["choroid"] * np.exp(-np.clip(depth - lines[-1], 0, None) / (rows / 7))
    light = np.where(depth >= lines[-1], choroid, light)
    labels = np.zeros(light.shape, np.uint8)
    kinds = (("nerve fibers", 1), ("inner", 1), ("outer", 2), ("epithelium", 3))
    for region, (name, value) in zip(between, kinds, strict=True):
        light[region], labels[region] = BRIGHTNESS[name], value
    light[fluid], labels[fluid] = BRIGHTNESS["vitreous"] + 8, LAYERS.index("fluid")
    light = np.where(depth >= lines[1], light * _shadows(draw, pocket.shape)[:, None, :], light)
    speckle = gaussian_filter(draw.gamma(6.0, 1 / 6.0, light.shape), (0, 0.5, 0.7))
    return OctPhantom(np.clip(np.round(light * speckle), 0, 255).astype(np.uint8), labels)


def _smooth(draw: np.random.Generator, shape: tuple[int, ...], size: float) -> Float[Array, "f c"]:
    field = gaussian_filter(draw.standard_normal(shape), [length / 4 for length in shape])
    return np.asarray(size * field / max(float(field.std()), 1e-6))


def _pocket(draw: np.random.Generator, y: Float[Array, "f c"], x: Float[Array, "f c"]) -> Float[Array, "f c"]:
    """Return the height of a pocket of fluid under the retina at each position of the volume.

    The height is in rows of a B-scan with 64 rows.
    """
    center, size = draw.uniform(-0.4, 0.4, 2), draw.uniform(0.25, 0.45)
    bump = 1.0 - ((y - center[0]) ** 2 + (x - center[1]) ** 2) / size**2
    return np.asarray(draw.uniform(8, 14) * np.sqrt(np.clip(bump, 0.0, None)))


def _shadows(draw: np.random.Generator, shape: tuple[int, ...]) -> Float[Array, "f c"]:
    """Return the fraction of light that passes the vessels, which run across the B-scans."""
    frames, columns = shape
    passed = np.ones(shape)
    for _ in range(5):
        places = draw.uniform(0, columns) + np.cumsum(draw.normal(0, columns / 80, frames))
        distance = np.abs(np.arange(columns)[None] - places[:, None])
        passed *= 1 - 0.55 * np.exp(-((distance / (columns / 90)) ** 2))
    return passed
