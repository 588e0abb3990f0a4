"""A slide in a report: bare, where the model looked, what it saw, and the tiles it looked at most."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from medvit.inference.slides import SlideFinding, attention_map, class_map
from medvit.inference.write_slide_preview import MAX_SIDE, overlaid, top_tiles

if TYPE_CHECKING:
    from medvit.readers.slides import Slide


def slide_figure(slide: Slide, finding: SlideFinding) -> Figure:
    """Overview, attention and class maps above; the tiles with most attention below, with their attention."""
    bare = np.moveaxis(slide.overview(MAX_SIDE), 0, -1)
    above = [("slide", bare), ("attention", overlaid(bare, attention_map(finding), finding, "attention"))]
    for label in finding.heat_classes():
        picture = overlaid(bare, class_map(finding, label), finding, "class")
        above.append((f"probability of {finding.classes[label]}", picture))
    below = [
        (f"{finding.reading.attention[index]:.2g}, {finding.classes[finding.reading.scores[index].argmax()]}", picture)
        for picture, index in top_tiles(slide, finding)
    ]
    figure = Figure(figsize=(max(2.4 * len(above), 1.3 * len(below)), 4.4), layout="constrained")
    upper, lower = np.asarray(figure.subfigures(2, 1, height_ratios=(2.2, 1.0)))
    lower.suptitle("tiles with most attention: attention, most probable class", fontsize=8)
    for part, pictures in ((upper, above), (lower, below)):
        for axes, (title, picture) in zip(part.subplots(1, len(pictures), squeeze=False)[0], pictures, strict=True):
            axes.imshow(picture)
            axes.set_title(title, fontsize=7)
            axes.set_axis_off()
    return figure
