"""Files of a map of a slide: a table of the tiles, a TIFF for slide viewers, an overlay, and a figure."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy import ndarray as Array

from medvit.explanations.drawing import SIGNED, UNSIGNED, MapPlane, overlaid, scale_of
from medvit.files.atomic import write_text
from medvit.writers.heatmap import write_heatmap
from medvit.writers.scale_bar import draw_scale_bar
from medvit.writers.slide_maps import HeatMap, SlideFinding, tile_map
from medvit.wsi.slide import Slide

MAX_SIDE = 900
"""Longer side of the slide in the pictures, in pixels."""
NUM_TOP = 6
"""Number of tiles shown next to the map."""
COLUMNS = ("x", "y", "value", "rank")


def write_tiles(path: Path, finding: SlideFinding, values: Float[Array, "n"]) -> None:
    """Write the corner of each tile in pixels of level 0, its value, and its rank from 1, highest value first."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for rank, index in enumerate(np.argsort(-values, kind="stable"), start=1):
        x, y = finding.grid.xy[index]
        writer.writerow([int(x), int(y), f"{values[index]:.6g}", rank])
    write_text(path, text.getvalue())


def write_map_tiff(path: Path, finding: SlideFinding, values: Float[Array, "n"], *, is_signed: bool) -> None:
    """Write the map as a pyramidal TIFF for slide viewers, in the colors of the figure."""
    low, high = scale_of(values, is_signed=is_signed)
    shares = np.clip((values - low) / (high - low), 0.0, 1.0)
    write_heatmap(path, tile_map(finding, shares), "signed" if is_signed else "class")


def write_slide_overlay(
    path: Path, slide: Slide, finding: SlideFinding, values: Float[Array, "n"], *, is_signed: bool
) -> None:
    """Write the overview of the slide with the map in color over it."""
    from PIL import Image as Picture

    plane = plane_of(slide, tile_map(finding, values), is_signed=is_signed)
    Picture.fromarray(overlaid(plane, scale_of(values, is_signed=is_signed), is_signed=is_signed)).save(path)


def plane_of(slide: Slide, heat: HeatMap, *, is_signed: bool) -> MapPlane:
    """Return the overview of a slide, and its map on the same pixels; without a color outside of the tiles."""
    bare = np.moveaxis(slide.overview(MAX_SIDE), 0, -1).astype(np.float32) / np.float32(255.0)
    places = []
    for shown, side, cells in zip(bare.shape, slide.shape, heat.values.shape, strict=False):
        centers = (np.arange(shown) + 0.5) * side / shown
        places.append(np.minimum((centers / heat.cell).astype(int), cells - 1))
    outside = 0.0 if is_signed else float(np.nanmin(heat.values))
    values = np.nan_to_num(heat.values, nan=outside)[np.ix_(*places)]
    return MapPlane(bare, values, "", bare.shape[1] / bare.shape[0])


def slide_map_figure(
    slide: Slide, finding: SlideFinding, values: Float[Array, "n"], *, is_signed: bool, label: str
) -> Figure:
    """Plot the slide without and with the map, its scale, and the tiles with the highest values."""
    plane, scale = (
        plane_of(slide, tile_map(finding, values), is_signed=is_signed),
        scale_of(values, is_signed=is_signed),
    )
    height = 3.6 / plane.width_to_height
    figure = Figure(figsize=(8.4, min(max(height, 1.6), 6.0) + 2.0), layout="constrained")
    above, below = np.asarray(figure.subfigures(2, 1, height_ratios=(min(max(height, 1.6), 6.0), 2.0)))
    bare, colored = above.subplots(1, 2)
    bare.imshow(plane.picture)
    colored.imshow(overlaid(plane, scale, is_signed=is_signed))
    tops = finding.highest(values, NUM_TOP)
    for axes in (bare, colored):
        axes.set_xticks([])
        axes.set_yticks([])
        rows, columns = plane.values.shape
        draw_scale_bar(axes, slide.shape[1] * finding.mpp / 1000.0, columns, rows, "mm")
    _number_tiles(colored, finding, tops, plane.values.shape[1] / slide.shape[1])
    colors = ScalarMappable(Normalize(*scale), colormaps[SIGNED if is_signed else UNSIGNED])
    above.colorbar(colors, ax=colored, label=label, shrink=0.85)
    below.suptitle("tiles with the highest values", fontsize=9)
    for number, (axes, index) in enumerate(zip(below.subplots(1, NUM_TOP), tops, strict=False), start=1):
        x, y = (int(place) for place in finding.grid.xy[index])
        axes.imshow(np.moveaxis(slide.read(x, y, finding.grid.size, finding.grid.mpp), 0, -1))
        axes.set_title(f"{number}: {values[index]:.3g}", fontsize=8)
        size = finding.grid.size
        draw_scale_bar(axes, size * finding.grid.mpp / 1000.0, size, size, "mm")
    for axes in below.axes:
        axes.set_axis_off()
    return figure


def _number_tiles(axes: Axes, finding: SlideFinding, tops: Int[Array, "k"], shrunk: float) -> None:
    """Draw the frame and the number of each tile that is shown."""
    from matplotlib.patches import Rectangle

    side = finding.side * shrunk
    for number, index in enumerate(tops, start=1):
        x, y = finding.grid.xy[index] * shrunk - 0.5
        axes.add_patch(Rectangle((x, y), side, side, fill=False, edgecolor="black", linewidth=0.8))
        axes.annotate(str(number), (x, y), fontsize=6, color="black", va="bottom")
