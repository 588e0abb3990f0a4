"""Synthetic slide of tissue stained with hematoxylin and eosin, of two classes, some with marker ink.

Stains mix in optical density (Ruifrok and Johnston, 2001), and each slide has its own stain and light.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray as Array
from scipy.ndimage import gaussian_filter, zoom

CLASSES = ("normal", "tumor")
"""A slide with tumor also has normal tissue."""
MPP = 0.5
"""Microns per pixel at level 0: 20x."""
SHAPE = (1536, 2048)
NUM_LEVELS = 4
"""20x, 10x, 5x and 2.5x."""
TILE = 256
COARSE = 16
"""Pixels of level 0 per pixel of the class map."""
HEMATOXYLIN, EOSIN = (0.65, 0.70, 0.29), (0.07, 0.99, 0.11)
INKS = ((0.9, 0.15, 0.4), (1.0, 0.5, 0.1))
"""Optical densities of green and blue marker."""
NUCLEI = {"normal": (0.0012, 2.2, 0.9), "tumor": (0.0035, 3.6, 1.3)}
"""Class -> nuclei per pixel, sigma of a nucleus in pixels, and its uptake of stain."""
CENTIMETER, MICRONS = 3, 1e4
QUALITY = 85
"""JPEG quality."""


@dataclass(frozen=True)
class SlidePhantom:
    """Pixels (H, W, 3) at `MPP`, and `labels` (h, w) every `COARSE` pixels: 0 glass, 1 normal, 2 tumor."""

    pixels: UInt8[Array, "h w 3"]
    labels: UInt8[Array, "g f"]


def slide(
    generator: np.random.Generator, label: str, *, has_ink: bool = False, shape: tuple[int, int] = SHAPE
) -> SlidePhantom:
    """Return one slide; `label` is one of `CLASSES`. Sides are whole multiples of `COARSE`."""
    coarse = (shape[0] // COARSE, shape[1] // COARSE)
    labels = _regions(generator, label, coarse)
    tissue = [_fine((labels == n + 1).astype(np.float32), shape) for n in range(len(CLASSES))]
    covered = np.clip(sum(tissue), 0.0, 1.0)
    density = _stained(generator, tissue, covered)
    if has_ink:
        density += _stroke(generator, coarse, shape)[None] * np.array(_ink(generator))[:, None, None]
    pixels = np.empty((*shape, 3), np.uint8)
    # Channel by channel: all at once would take three times the memory, in float64.
    for channel, light in enumerate(generator.uniform(236, 248, 3)):
        noise = generator.normal(0, 1.5, shape).astype(np.float32)
        pixels[..., channel] = np.clip(light * 10.0 ** -density[channel] + noise, 0, 255)
    return SlidePhantom(pixels, labels)


def levels(pixels: UInt8[Array, "h w 3"], count: int = NUM_LEVELS) -> Iterator[UInt8[Array, "h w 3"]]:
    """Return the image at decreasing scales, each half of the previous one, averaged."""
    for _ in range(count):
        yield pixels
        height, width = (side // 2 for side in pixels.shape[:2])
        blocks = pixels[: 2 * height, : 2 * width].astype(np.uint16)
        rows = blocks[::2] + blocks[1::2]
        pixels = np.rint((rows[:, ::2] + rows[:, 1::2]) / 4).astype(np.uint8)


def write_tiff(path: Path, pixels: UInt8[Array, "h w 3"], mpp: float | None = MPP) -> None:
    """Write a pyramidal TIFF of JPEG tiles that OpenSlide opens; without `mpp`, it has no scale."""
    import tifffile

    scale: dict[str, Any] = {} if mpp is None else {"resolutionunit": CENTIMETER}
    path.parent.mkdir(parents=True, exist_ok=True)
    with tifffile.TiffWriter(path) as file:
        for number, level in enumerate(levels(pixels)):
            if mpp is not None:
                per_cm = MICRONS / (mpp * 2**number)
                scale["resolution"] = (per_cm, per_cm)
            file.write(
                level,
                photometric="rgb",
                tile=(TILE, TILE),
                compression="jpeg",
                compressionargs={"level": QUALITY},
                subfiletype=int(number > 0),
                metadata=None,
                **scale,
            )


def _regions(generator: np.random.Generator, label: str, coarse: tuple[int, int]) -> UInt8[Array, "g f"]:
    """Return a blob of tissue and, in tumor slides, another one within it."""
    y, x = np.mgrid[: coarse[0], : coarse[1]]
    y, x = y / coarse[0] * 2 - 1, x / coarse[1] * 2 - 1
    wavy = gaussian_filter(generator.normal(size=coarse), 6) * 12
    tissue = np.hypot(x - generator.normal(0, 0.05), y) + 0.12 * wavy < 0.78
    labels = tissue.astype(np.uint8)
    if label == "tumor":
        center = generator.uniform(-0.25, 0.25, 2)
        other = gaussian_filter(generator.normal(size=coarse), 6) * 12
        labels[tissue & (np.hypot(x - center[0], y - center[1]) + 0.1 * other < 0.38)] = 2
    return labels


def _stained(
    generator: np.random.Generator, tissue: list[Float[Array, "h w"]], covered: Float[Array, "h w"]
) -> Float[Array, "3 h w"]:
    blue, pink = (_own_stain(generator, vector) for vector in (HEMATOXYLIN, EOSIN))
    nuclei = np.zeros_like(covered)
    for name, where in zip(CLASSES, tissue, strict=True):
        share, sigma, stain = NUCLEI[name]
        points = (generator.random(covered.shape, dtype=np.float32) < share).astype(np.float32)
        nuclei += np.clip(gaussian_filter(points, sigma) * 2 * np.pi * sigma**2 * 1.6, 0, 1) * stain * where
    fibers = gaussian_filter(generator.normal(size=covered.shape).astype(np.float32), (0.8, 4.0)) * 2.4
    eosin = np.clip(0.38 + 0.2 * fibers, 0.02, None) * covered * (1.0 - 0.4 * np.clip(nuclei, 0, 1))
    return nuclei[None] * blue[:, None, None] + eosin[None] * pink[:, None, None]


def _own_stain(generator: np.random.Generator, vector: tuple[float, float, float]) -> Float[Array, "3"]:
    turned = np.clip(np.array(vector) + generator.normal(0, 0.04, 3), 0.02, None)
    return np.asarray(turned / np.linalg.norm(turned) * generator.uniform(0.8, 1.2), np.float32)


def _ink(generator: np.random.Generator) -> tuple[float, float, float]:
    return INKS[int(generator.integers(len(INKS)))]


def _stroke(generator: np.random.Generator, coarse: tuple[int, int], shape: tuple[int, int]) -> Float[Array, "h w"]:
    """Return a straight smooth stroke across a corner of the slide, out of focus."""
    y, x = np.mgrid[: coarse[0], : coarse[1]]
    offset = generator.uniform(0.16, 0.24) * sum(coarse)
    distance = np.abs(x + y - offset) / np.sqrt(2)
    return _fine(gaussian_filter((distance < 0.07 * coarse[0]).astype(np.float32), 1.0), shape)


def _fine(coarse: Float[Array, "g f"], shape: tuple[int, int]) -> Float[Array, "h w"]:
    return np.clip(zoom(coarse, COARSE, order=1, grid_mode=True, mode="nearest"), 0, 1)[: shape[0], : shape[1]]
