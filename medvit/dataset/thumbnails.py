"""Thumbnails of stored images, for cards and reports: a 2D image as it is, a volume as its middle axial slice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.dataset.manifest import Manifest
from medvit.measured import filled
from medvit.records import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_SIDE = 160
"""Maximum side of a thumbnail in pixels."""
SHOWN_PERCENTILES = (0.5, 99.5)
SIDE_INCHES, DPI = 1.3, 110


def thumbnail(manifest: Manifest, row: Row) -> Float[Array, "h w *c"]:
    """Return gray (h, w) or color (h, w, 3) values from 0 to 1; slices of volumes have A at the top and R at the left.

    Raises:
        DataError: If the store lacks the pixels.
    """
    if row.kind == "volume":
        middle = row.shape[3] // 2
        plane = manifest.store.get(row.sha256, (slice(0, 1), slice(None), slice(None), slice(middle, middle + 1)))
        plane = plane[0, ::-1, ::-1, 0].T
    else:
        pixels = manifest.store.get(row.sha256)
        plane = np.moveaxis(pixels[:3], 0, -1) if len(pixels) >= 3 else pixels[0]
    rows, columns = (max(1, -(-size // MAX_SIDE)) for size in plane.shape[:2])
    values = filled(plane[::rows, ::columns], row.padding, slope=row.slope, intercept=row.intercept).astype(np.float64)
    if plane.dtype == np.uint8:
        return values / 255.0  # already made for display
    low, high = np.percentile(values, SHOWN_PERCENTILES)
    return np.clip((values - low) / (high - low or 1.0), 0.0, 1.0)


def resized(values: Float[Array, "h w"], *, height_to_width: float) -> Float[Array, "i j"]:
    """Return an image with rows or columns repeated, so that it displays with the aspect ratio of its pixels."""
    rows, columns = max(1, round(height_to_width)), max(1, round(1.0 / height_to_width))
    return values.repeat(rows, axis=0).repeat(columns, axis=1)


def montage(lines: Sequence[tuple[str, Sequence[tuple[str, Float[Array, "h w *c"]]]]]) -> Figure:
    """Draw rows of titled images, each row under its heading."""
    from matplotlib.figure import Figure

    width = max(len(pictures) for _, pictures in lines)
    size = (SIDE_INCHES * max(width, 3), (SIDE_INCHES + 0.45) * len(lines))
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    parts = figure.subfigures(len(lines), 1, squeeze=False)[:, 0]
    for part, (heading, pictures) in zip(parts, lines, strict=True):
        part.suptitle(heading, fontsize=8, x=0.01, ha="left")
        for axes in (grid := part.subplots(1, max(width, 3), squeeze=False)[0]):
            axes.set_axis_off()
        for axes, (title, values) in zip(grid, pictures, strict=False):
            axes.imshow(values, cmap="gray", vmin=0.0, vmax=1.0)
            axes.set_title(title, fontsize=6)
    return figure
