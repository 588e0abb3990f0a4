"""Synthetic chest radiograph, with or without a lung opacity."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt16
from numpy import ndarray as Array
from scipy.ndimage import gaussian_filter

CLASSES = ("normal", "opacity")
SIZE = 96
RIB_GAP = 0.145


def radiograph(generator: np.random.Generator, label: str, size: int = SIZE) -> UInt16[Array, "h w"]:
    """Return one 12-bit posteroanterior view in which dense tissue is bright; `label` is one of `CLASSES`.

    An opacity is a cloud without sharp borders in one lung, as in pneumonia; some are faint. Images differ in lung
    size, lung density, vessels and brightness.
    """
    y, x = np.mgrid[0:size, 0:size] / (size - 1) * 2 - 1
    x = x + generator.normal(0, 0.05)
    y = y + generator.normal(0, 0.05)
    # The patient's left is at the right of the image: there the heart extends.
    heart = np.hypot((x - 0.14) / generator.uniform(0.3, 0.4), (y - 0.3) / generator.uniform(0.28, 0.36)) < 1
    lungs = _lungs(generator, x, y) * (1 - gaussian_filter(heart.astype(np.float64), 1.0))
    density = 0.25 + 0.35 * (np.hypot(x / 0.98, y / 1.6) < 1) - 0.42 * lungs
    density += _mediastinum(x, y) + 0.06 * heart + _ribs(generator, x, y) + _vessels(generator, lungs)
    if label == "opacity":
        density += _opacity(generator, x, y) * lungs
    density = gaussian_filter(density, generator.uniform(0.6, 1.0)) * generator.uniform(0.85, 1.1)
    density += 0.1 * gaussian_filter(generator.standard_normal(density.shape), size / 6) * size / 6
    density += generator.normal(0, generator.uniform(0.012, 0.025), density.shape)
    return np.clip(np.round((density * 0.75 + 0.08) * 4095), 0, 4095).astype(np.uint16)


def _lungs(draw: np.random.Generator, x: Float[Array, "h w"], y: Float[Array, "h w"]) -> Float[Array, "h w"]:
    fields = np.zeros_like(x)
    for side in (-1, 1):
        width, height = draw.uniform(0.33, 0.4), draw.uniform(0.66, 0.78)
        shape = np.abs((x - side * 0.45) / width) ** 2.4 + np.abs((y + 0.1) / height) ** 2.2
        dome = 0.35 * ((x - side * 0.4) / 0.4) ** 2 * (side * x < 0.4)
        diaphragm = 0.52 + draw.normal(0, 0.04) - dome + 0.1 * (side > 0)
        fields = np.maximum(fields, (shape < 1) & (y < diaphragm))
    return gaussian_filter(fields.astype(np.float64), 1.2)


def _mediastinum(x: Float[Array, "h w"], y: Float[Array, "h w"]) -> Float[Array, "h w"]:
    spine = np.exp(-((x / 0.1) ** 2)) * (0.9 + 0.1 * np.cos(y * 30))
    clavicles = np.exp(-(((y + 0.68 + 0.12 * np.abs(x)) / 0.03) ** 2)) * (np.abs(x) < 0.75) * (np.abs(x) > 0.12)
    return 0.3 * spine + 0.14 * clavicles


def _ribs(draw: np.random.Generator, x: Float[Array, "h w"], y: Float[Array, "h w"]) -> Float[Array, "h w"]:
    phase, bend = draw.uniform(0, 1), draw.uniform(0.25, 0.4)
    height = (y - bend * (1 - (np.abs(x) - 0.35) ** 2 * 3)) / RIB_GAP + phase
    front = (y + bend * 0.8 * np.abs(x)) / (RIB_GAP * 1.25) + draw.uniform(0, 1)
    cage = (np.hypot(x / 0.9, y / 1.1) < 1) & (np.abs(x) > 0.08)
    bands = 0.1 * (np.cos(2 * np.pi * height) > 0.45) + 0.04 * (np.cos(2 * np.pi * front) > 0.5)
    return bands * cage * draw.uniform(0.7, 1.1)


def _vessels(draw: np.random.Generator, lungs: Float[Array, "h w"]) -> Float[Array, "h w"]:
    points = np.zeros_like(lungs)
    rows, columns = np.nonzero(lungs > 0.9)
    chosen = draw.integers(0, len(rows), 26)
    points[rows[chosen], columns[chosen]] = draw.uniform(0.2, 1.0, len(chosen))
    fine = gaussian_filter(points, 1.0)
    tree = gaussian_filter(draw.standard_normal(lungs.shape), 1.8)
    return (0.1 * fine / fine.max() + 0.03 * tree / tree.std()) * lungs


def _opacity(draw: np.random.Generator, x: Float[Array, "h w"], y: Float[Array, "h w"]) -> Float[Array, "h w"]:
    side = draw.choice([-1, 1])
    center = side * draw.uniform(0.35, 0.6), draw.uniform(-0.4, 0.4)
    radius = draw.uniform(0.22, 0.42)
    distance = np.hypot((x - center[0]) / draw.uniform(0.8, 1.2), y - center[1]) / radius
    clouds = gaussian_filter(draw.standard_normal(x.shape), 3)
    return draw.uniform(0.07, 0.3) * np.exp(-(distance**2)) * (1 + 0.35 * clouds / clouds.std())
