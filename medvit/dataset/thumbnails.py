"""Thumbnails of stored images, for cards and reports: a 2D image as it is, a volume as one of its axial slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray as Array

from medvit.artifacts import CONFIG
from medvit.attributes import BURNED_IN_TEXT
from medvit.dataset.made_with import MadeWith
from medvit.dataset.manifest import Manifest
from medvit.measured import filled
from medvit.records import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_SIDE = 160
"""Maximum side of a thumbnail in pixels."""
SHOWN_PERCENTILES = (0.5, 99.5)
SIDE_INCHES, DPI = 1.3, 110


def showable(manifest: Manifest, rows: Sequence[Row]) -> list[Row]:
    """Return the images that may be shown: those without burned-in text.

    Images with such text are in a dataset only if its policy is mask or keep. Datasets of earlier versions do not
    record which images these are; if the policy of such a dataset is mask or keep, no image may be shown.
    """
    if any(BURNED_IN_TEXT in row.attributes for row in manifest):
        return [row for row in rows if BURNED_IN_TEXT not in row.attributes]
    return [] if _may_have_text(manifest) else list(rows)


def _may_have_text(manifest: Manifest) -> bool:
    if not (manifest.folder / CONFIG).is_file():
        return False
    policy = MadeWith.read(manifest.folder).option("taking.burned_in")
    return (policy.get("policy") if isinstance(policy, Mapping) else policy) not in (None, "quarantine")


def thumbnail(
    manifest: Manifest, row: Row, *, slice_index: int | None = None, max_side: int = MAX_SIDE
) -> Float[Array, "h w *c"]:
    """Return gray (h, w) or color (h, w, 3) values from 0 to 1; slices of volumes have A at the top and R at the left.

    `slice_index` is the axial slice of a volume; None stands for the middle one.

    Raises:
        DataError: If the store lacks the pixels.
    """
    if row.kind == "volume":
        k = row.shape[3] // 2 if slice_index is None else slice_index
        plane = axial(manifest.store.get(row.sha256, (slice(0, 1), slice(None), slice(None), slice(k, k + 1)))[0], 0)
    else:
        pixels = manifest.store.get(row.sha256)
        plane = np.moveaxis(pixels[:3], 0, -1) if len(pixels) >= 3 else pixels[0]
    kept = every_few(plane, max_side)
    values = filled(kept, row.padding, slope=row.slope, intercept=row.intercept).astype(np.float64)
    if plane.dtype == np.uint8:
        return values / 255.0  # already made for display
    low, high = np.percentile(values, SHOWN_PERCENTILES)
    return np.clip((values - low) / (high - low or 1.0), 0.0, 1.0)


def axial(volume: Int[Array, "i j k"], index: int) -> Int[Array, "j i"]:
    """Return a slice of a volume in RAS+ with A at the top and R at the left."""
    return volume[::-1, ::-1, index].T


def every_few(plane: Array, max_side: int) -> Array:
    """Return every n-th row and every m-th column of a plane, so that no side is longer than `max_side`."""
    rows, columns = (max(1, -(-size // max_side)) for size in plane.shape[:2])
    return plane[::rows, ::columns]


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
