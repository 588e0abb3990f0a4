"""Figure of a slide in a report: plain, with attention and class maps, and the tiles with the most attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from numpy import ndarray as Array

from medvit.inference.slide_predictor import SlidePredictor
from medvit.writers.slide_maps import SlideFinding, attention_map, class_map
from medvit.writers.slide_preview import MAX_SIDE, overlaid, top_tiles

if TYPE_CHECKING:
    from medvit.wsi.slide import Slide


MAX_HEADS = 6
"""Maximum number of attention heads shown."""


def slide_figure(slide: Slide, finding: SlideFinding, predictor: SlidePredictor) -> Figure:
    """Draw a slide with its attention and class maps, and the tiles with the most attention.

    On the first of these tiles, the attention heads of the backbone are shown too.
    """
    bare = np.moveaxis(slide.overview(MAX_SIDE), 0, -1)
    above = [("slide", bare), ("attention", overlaid(bare, attention_map(finding), finding, "attention"))]
    for label in finding.heat_classes():
        picture = overlaid(bare, class_map(finding, label), finding, "class")
        above.append((f"probability of {finding.classes[label]}", picture))
    tops = top_tiles(slide, finding)
    titles = (_title(finding, index) for _, index in tops)
    rows = [("", above), (TOP_TITLE, list(zip(titles, (picture for picture, _ in tops), strict=True)))]
    x, y = (int(place) for place in finding.grid.xy[tops[0][1]])
    heads = predictor.heads_on(slide.read(x, y, finding.grid.size, finding.grid.mpp))
    if heads is not None:
        rows.append((HEADS_TITLE, [(f"head {n + 1}", head) for n, head in enumerate(heads[:MAX_HEADS])]))
    return _drawn(rows)


TOP_TITLE = "tiles with most attention: attention, most probable class"
HEADS_TITLE = "attention heads of the backbone on the first of them"


def _title(finding: SlideFinding, index: int) -> str:
    reading = finding.reading
    return f"{reading.attention[index]:.2g}, {finding.classes[reading.scores[index].argmax()]}"


def _drawn(rows: Sequence[tuple[str, Sequence[tuple[str, Array]]]]) -> Figure:
    heights = [2.2, *(1.15 for _ in rows[1:])]
    figure = Figure(figsize=(max(8.0, 2.6 * len(rows[0][1])), 1.25 * sum(heights)), layout="constrained")
    parts = np.asarray(figure.subfigures(len(rows), 1, height_ratios=heights))
    for part, (heading, pictures) in zip(parts, rows, strict=True):
        part.suptitle(heading, fontsize=8)
        for axes, (title, picture) in zip(part.subplots(1, len(pictures), squeeze=False)[0], pictures, strict=True):
            axes.imshow(picture)
            axes.set_title(title, fontsize=7)
            axes.set_axis_off()
    return figure
