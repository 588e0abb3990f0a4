"""Datasets with a planted truth: discs to segment, and the brightness of an image as a number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from medvit.dataset.manifest import Facts, Manifest
from medvit.records import IGNORED, Row

SIDE = 32
Drawn = Callable[[np.random.Generator, np.ndarray], np.ndarray]
"""Function that draws the pixels (H, W) of an image with a mask."""


def bright(generator: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """Draw a disc that is brighter than its surroundings, with little noise."""
    return np.asarray(500.0 + 400.0 * mask + generator.normal(0.0, 30.0, mask.shape))


def noisy(generator: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """Draw a disc whose noise hides it in single pixels but not in smoothed ones; the brightness of images differs."""
    return np.asarray(generator.uniform(0, 5000) + 200.0 * mask + generator.normal(0.0, 200.0, mask.shape))


def varied(generator: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """Draw a bright disc in an image whose brightness differs from that of all others."""
    return np.asarray(generator.uniform(0, 5000) + 400.0 * mask + generator.normal(0.0, 30.0, mask.shape))


def discs_in(folder: Path, drawn: Drawn = bright, *, moves: bool = True, seed: int = 0, number: int = 36) -> Manifest:
    """Write images with a disc of random place, or always in the middle, and its label map; a corner is ignored."""
    folder.mkdir()
    manifest = Manifest((), Facts("discs", mask_classes=("background", "disc")), folder)
    generator, rows = np.random.default_rng(seed), []
    grid = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij"), axis=-1)
    for index in range(number):
        center = generator.uniform(10, 22, size=2) if moves else np.full(2, 16.0)
        mask = np.asarray(((grid - center) ** 2).sum(axis=-1) <= 7**2)
        pixels = drawn(generator, mask)[None].clip(-30000, 30000).astype(np.int16)
        labels = np.where(grid.sum(axis=-1) < 4, IGNORED, mask).astype(np.uint8)
        names = [f"{what}-{index:03}" for what in "ipsq"]
        split = ("train", "train", "test", "val")[index % 4]
        row = Row(*names, "MR", "image", "d", split, pixels.shape, "int16", manifest.store.put(pixels))
        rows.append(replace(row, mask=manifest.store.put(labels)))
    written = replace(manifest, rows=tuple(rows))
    written.write()
    return written


def brightness_in(folder: Path, *, seed: int = 0, number: int = 60, reference: int = 0) -> Manifest:
    """Write images of noise whose mean is a multiple of the label `age`.

    The first `reference` columns are 0 and then 1,000 in all images, so that an image normalized by its own statistics
    still shows the brightness of the others.
    """
    folder.mkdir()
    generator, rows = np.random.default_rng(seed), []
    ages = generator.uniform(20, 80, number).round(1)
    known = tuple(sorted({str(age) for age in ages}))
    manifest = Manifest((), Facts("ages", classes={"age": known, "grade": ("0", "1", "2")}), folder)
    for index, age in enumerate(ages):
        signal = np.full((1, 16, 16), 10 * age)
        signal[..., : reference // 2], signal[..., reference // 2 : reference] = 0.0, 1000.0
        pixels = (signal + generator.normal(0, 100, signal.shape)).astype(np.int16)
        names = [f"{what}-{index:03}" for what in "ipsq"]
        split = ("train", "train", "test", "val")[index % 4]
        row = Row(*names, "MR", "image", "d", split, pixels.shape, "int16", manifest.store.put(pixels))
        rows.append(replace(row, labels={"age": str(age), "grade": str(int(age - 20) // 21)}))
    written = replace(manifest, rows=tuple(rows))
    written.write()
    return written
