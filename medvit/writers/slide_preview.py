"""Preview of a prediction for a slide: the slide, its attention and class maps, and its top tiles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray as Array

from medvit.writers.caption import captioned
from medvit.writers.heatmap import colored
from medvit.writers.slide_maps import HeatMap, SlideFinding, attention_map, class_map
from medvit.wsi.slide import Slide

MAX_SIDE = 480
"""Longer side of the slide in the picture, in pixels."""
OPACITY = 0.55
"""Opacity of a map's color over the slide."""
NUM_TOP, TOP_SIDE = 6, 160
"""Number of tiles shown, and their side in pixels."""
GAP = 8
"""Pixels between pictures."""


def write_slide_preview(path: Path, slide: Slide, finding: SlideFinding) -> None:
    """Write a PNG: the slide without overlay, with attention, and with each class map; the top tiles are below.

    Each part has a caption below it.
    """
    from PIL import Image as Picture

    bare = np.moveaxis(slide.overview(MAX_SIDE), 0, -1)
    maps = [("attention: bright where the model looked", "attention", attention_map(finding))]
    for label in finding.heat_classes():
        title = f"{finding.classes[label]}: bright where probable, dark where not"
        maps.append((title, "class", class_map(finding, label)))
    pictures = [(title, overlaid(bare, heat, finding, colors)) for title, colors, heat in maps]
    above = _row([captioned(picture, (title, None)) for title, picture in (("slide", bare), *pictures)])
    tops = _row([top for top, _ in top_tiles(slide, finding)])
    below = captioned(tops, ("tiles with most attention, most first", None))
    width = max(above.shape[1], below.shape[1])
    Picture.fromarray(np.concatenate([_widened(above, width), _widened(below, width)])).save(path)


def overlaid(bare: UInt8[Array, "h w 3"], heat: HeatMap, finding: SlideFinding, colors: str) -> UInt8[Array, "h w 3"]:
    """Return an overview of a slide, overlaid with a map where there are tiles."""
    height, width = bare.shape[:2]
    shrunk = finding.shape[0] / height, finding.shape[1] / width
    rows = np.minimum(((np.arange(height) + 0.5) * shrunk[0] / heat.cell).astype(int), heat.values.shape[0] - 1)
    columns = np.minimum(((np.arange(width) + 0.5) * shrunk[1] / heat.cell).astype(int), heat.values.shape[1] - 1)
    values = heat.values[np.ix_(rows, columns)]
    mixed = (1.0 - OPACITY) * bare + OPACITY * colored(values, colors)
    return np.where(np.isnan(values)[..., None], bare, mixed).astype(np.uint8)


def top_tiles(slide: Slide, finding: SlideFinding, count: int = NUM_TOP) -> list[tuple[UInt8[Array, "h w 3"], int]]:
    """Return the tiles with the most attention as images, and their positions in the grid."""
    from PIL import Image as Picture

    found = []
    for index in finding.top(count):
        x, y = (int(place) for place in finding.grid.xy[index])
        pixels = slide.read(x, y, finding.grid.size, finding.grid.mpp).transpose(1, 2, 0)
        found.append((np.asarray(Picture.fromarray(pixels).resize((TOP_SIDE, TOP_SIDE))), int(index)))
    return found


def _row(pictures: list[UInt8[Array, "h w 3"]]) -> UInt8[Array, "h w 3"]:
    return np.concatenate([np.pad(p, ((0, GAP), (0, GAP), (0, 0)), constant_values=255) for p in pictures], axis=1)


def _widened(picture: UInt8[Array, "h w 3"], width: int) -> UInt8[Array, "h w 3"]:
    return np.pad(picture, ((0, 0), (0, width - picture.shape[1]), (0, 0)), constant_values=255)
