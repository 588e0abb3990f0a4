"""Synthetic slide of tissue stained with hematoxylin and eosin, in two classes, some slides with marker ink.

The classes overlap, as in real tissue. A tumor occupies a varying part of the tissue. Its nuclei are larger, denser and
more varied than normal nuclei, to a degree (grade) that differs between patients. Both classes have aggregates of
lymphocytes, with small dark nuclei, and areas of reactive, slightly enlarged nuclei. Stain, thickness and light differ
between slides, so the mean color is hardly related to the class. Stains mix in optical density (Ruifrok and Johnston,
2001).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray as Array
from scipy.ndimage import gaussian_filter, zoom

CLASSES = ("normal", "tumor")
"""Classes of slides; a slide with tumor also has normal tissue."""
MPP = 0.5
"""Microns per pixel at level 0: 20x."""
SHAPE = (1536, 2048)
NUM_LEVELS = 4
"""Number of levels: 20x, 10x, 5x and 2.5x."""
TILE = 256
COARSE = 16
"""Pixels of level 0 per pixel of the class map."""
HEMATOXYLIN, EOSIN = (0.65, 0.70, 0.29), (0.07, 0.99, 0.11)
INKS = ((0.9, 0.15, 0.4), (1.0, 0.5, 0.1))
"""Optical densities of green and blue marker."""
NEST = (0.25, 0.55)
"""Range of the radius of a tumor, and of reactive areas, relative to half a side of the slide."""
GRADES = (0.45, 1.0)
"""Range of the grades of tumors: how far their nuclei are from normal ones."""
CENTIMETER, MICRONS = 3, 1e4
QUALITY = 85
"""JPEG quality."""
LN_10 = np.float32(np.log(10))


@dataclass(frozen=True)
class Nuclei:
    """Nuclei of one kind of cell.

    `density` is their number per pixel, `radius` their mean radius in pixels, and `spread` its relative variation.
    """

    density: float
    radius: float
    spread: float
    elongation: float
    stain: float


NORMAL = Nuclei(0.0014, 4.6, 0.16, 1.5, 0.85)
LYMPHOCYTES = Nuclei(0.0035, 3.9, 0.08, 1.05, 1.15)
REACTIVE = Nuclei(0.0016, 5.4, 0.2, 1.3, 0.9)
TUMOR = Nuclei(0.0024, 7.6, 0.3, 1.25, 1.0)
"""Nuclei of the kinds of cells; those of a tumor are at grade 1."""


@dataclass(frozen=True)
class SlidePhantom:
    """Pixels (H, W, 3) at `MPP`, and `labels` (h, w) every `COARSE` pixels: 0 glass, 1 normal, 2 tumor."""

    pixels: UInt8[Array, "h w 3"]
    labels: UInt8[Array, "g f"]


def slide(
    generator: np.random.Generator,
    label: str,
    *,
    has_ink: bool = False,
    shape: tuple[int, int] = SHAPE,
    grade: float = GRADES[1],
) -> SlidePhantom:
    """Return one slide of class `label`, one of `CLASSES`; the sides in `shape` are multiples of `COARSE`.

    `grade` is the grade of the tumor. With a grade of 0, its nuclei are like normal ones.
    """
    coarse = (shape[0] // COARSE, shape[1] // COARSE)
    labels = _regions(generator, label, coarse)
    density = _stained(generator, labels, grade, shape)
    if has_ink:
        density += _stroke(generator, coarse, shape)[None] * np.array(_ink(generator), np.float32)[:, None, None]
    pixels = np.empty((*shape, 3), np.uint8)
    # Channel by channel: all at once would take three times the memory.
    for channel, light in enumerate(generator.uniform(236, 248, 3)):
        noise = 1.5 * generator.standard_normal(shape, dtype=np.float32)
        pixels[..., channel] = np.clip(np.float32(light) * np.exp(-LN_10 * density[channel]) + noise, 0, 255)
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
    """Write a pyramidal TIFF with JPEG tiles, which OpenSlide can open.

    Without `mpp`, the file does not state a pixel size.
    """
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
    """Return the class map of a slide: a blob of tissue and, in tumor slides, a nest of tumor within it."""
    y, x = np.mgrid[: coarse[0], : coarse[1]]
    y, x = y / coarse[0] * 2 - 1, x / coarse[1] * 2 - 1
    wavy = gaussian_filter(generator.normal(size=coarse), 6) * 12
    tissue = np.hypot(x - generator.normal(0, 0.05), y) + 0.12 * wavy < 0.78
    labels = tissue.astype(np.uint8)
    nest = _blob(generator, coarse, generator.uniform(*NEST))
    if label == "tumor":
        labels[tissue & nest] = 2
    return labels


def _blob(generator: np.random.Generator, coarse: tuple[int, int], radius: float) -> Bool[Array, "g f"]:
    """Return a wavy disk somewhere in the tissue, its radius relative to half a side of the slide."""
    y, x = np.mgrid[: coarse[0], : coarse[1]]
    y, x = y / coarse[0] * 2 - 1, x / coarse[1] * 2 - 1
    center = generator.uniform(-0.4, 0.4, 2)
    wavy = gaussian_filter(generator.normal(size=coarse), 3) * 6
    return np.asarray(np.hypot(x - center[0], y - center[1]) < radius * (1 + 0.25 * wavy))


def _stained(
    generator: np.random.Generator, labels: UInt8[Array, "g f"], grade: float, shape: tuple[int, int]
) -> Float[Array, "3 h w"]:
    blue, pink = (_own_stain(generator, vector) for vector in (HEMATOXYLIN, EOSIN))
    nuclei = np.zeros(shape, np.float32)
    for kind, where in _cells(generator, labels, grade):
        _draw_nuclei(generator, nuclei, kind, where)
    covered = _fine(np.clip(2 * gaussian_filter((labels > 0).astype(np.float32), 0.8) - 0.5, 0, 1), shape)
    nuclei = gaussian_filter(nuclei, 0.7) * covered
    fibers = gaussian_filter(generator.standard_normal(shape, dtype=np.float32), (0.8, 4.0)) * 2.4
    thickness = _fine(np.clip(1 + 4 * gaussian_filter(generator.normal(size=labels.shape), 5), 0.6, 1.4), shape, 2.0)
    eosin = np.clip(0.38 + 0.2 * fibers, 0.02, None) * thickness * covered * (1.0 - 0.4 * np.clip(nuclei, 0, 1))
    return np.asarray(nuclei[None] * blue[:, None, None] + eosin[None] * pink[:, None, None])


def _cells(
    generator: np.random.Generator, labels: UInt8[Array, "g f"], grade: float
) -> Iterator[tuple[Nuclei, Bool[Array, "g f"]]]:
    """Yield the kinds of cells with a mask of their positions.

    Both classes are drawn in the same way except for the tumor.
    """
    cellularity, size = generator.uniform(0.7, 1.6), generator.uniform(0.92, 1.08)
    reactive = _blob(generator, labels.shape, generator.uniform(*NEST)) & (labels == 1)
    yield _scaled(NORMAL, cellularity, size), (labels == 1) & ~reactive
    yield _scaled(REACTIVE, cellularity, size), reactive
    for _ in range(generator.integers(1, 5)):
        around = _blob(generator, labels.shape, generator.uniform(0.04, 0.16))
        yield _scaled(LYMPHOCYTES, generator.uniform(0.7, 1.2), size), around & (labels == 1)
    yield _scaled(_graded(grade), cellularity, size), labels == 2


def _scaled(kind: Nuclei, cellularity: float, size: float) -> Nuclei:
    return replace(kind, density=kind.density * cellularity, radius=kind.radius * size)


def _graded(grade: float) -> Nuclei:
    """Return the nuclei of a tumor: like normal ones for a grade of 0, like `TUMOR` for 1, in between for others."""
    return Nuclei(
        *(float(np.interp(grade, (0, 1), ends)) for ends in zip(astuple(NORMAL), astuple(TUMOR), strict=True))
    )


def _draw_nuclei(
    generator: np.random.Generator, canvas: Float[Array, "h w"], kind: Nuclei, where: Bool[Array, "g f"]
) -> None:
    """Draw ellipses at random places and angles; where two overlap, the darker one is kept."""
    rows, columns = np.nonzero(where)
    cells = np.repeat(np.arange(len(rows)), generator.poisson(kind.density * COARSE**2, len(rows)))
    count = len(cells)
    y, x = ((place[cells] + generator.random(count)) * COARSE for place in (rows, columns))
    radius = kind.radius * np.exp(kind.spread * generator.standard_normal(count))
    longer = 1 + (kind.elongation - 1) * generator.uniform(0.4, 1.6, count)
    angle, stain = generator.uniform(0, np.pi, count), kind.stain * generator.uniform(0.8, 1.2, count)
    reach = np.ceil(radius * np.sqrt(longer)).astype(int) + 1
    for n in range(count):
        top, left = max(int(y[n]) - reach[n], 0), max(int(x[n]) - reach[n], 0)
        part = canvas[top : int(y[n]) + reach[n] + 1, left : int(x[n]) + reach[n] + 1]
        down = (np.arange(part.shape[0]) + top - y[n])[:, None]
        right = (np.arange(part.shape[1]) + left - x[n])[None]
        along = (np.cos(angle[n]) * down + np.sin(angle[n]) * right) / np.sqrt(longer[n])
        across = (np.cos(angle[n]) * right - np.sin(angle[n]) * down) * np.sqrt(longer[n])
        inside = along**2 + across**2 < radius[n] ** 2
        part[inside] = np.maximum(part[inside], stain[n])


def _own_stain(generator: np.random.Generator, vector: tuple[float, float, float]) -> Float[Array, "3"]:
    turned = np.clip(np.array(vector) + generator.normal(0, 0.05, 3), 0.02, None)
    return np.asarray(turned / np.linalg.norm(turned) * generator.uniform(0.8, 1.2), np.float32)


def _ink(generator: np.random.Generator) -> tuple[float, float, float]:
    return INKS[int(generator.integers(len(INKS)))]


def _stroke(generator: np.random.Generator, coarse: tuple[int, int], shape: tuple[int, int]) -> Float[Array, "h w"]:
    """Return a straight smooth stroke across a corner of the slide, out of focus."""
    y, x = np.mgrid[: coarse[0], : coarse[1]]
    offset = generator.uniform(0.16, 0.24) * sum(coarse)
    distance = np.abs(x + y - offset) / np.sqrt(2)
    return _fine(gaussian_filter((distance < 0.07 * coarse[0]).astype(np.float32), 1.0), shape)


def _fine(coarse: Float[Array, "g f"], shape: tuple[int, int], most: float = 1.0) -> Float[Array, "h w"]:
    fine = zoom(coarse.astype(np.float32), COARSE, order=1, grid_mode=True, mode="nearest")
    return np.clip(fine, 0, most)[: shape[0], : shape[1]]
