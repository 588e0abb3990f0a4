"""Pictures of pretraining that a person looks at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

TITLES = ("image", "seen by the encoder", "rebuilt")


def reconstruction_figure(columns: Sequence[Float[Tensor, "b c *s"]]) -> Figure:
    """A row an image, a column each of what it is, what was seen and what was rebuilt; the middle slice of a volume."""
    num_rows = len(columns[0])
    figure = Figure(figsize=(6.6, 2.2 * num_rows), layout="constrained")
    axes = figure.subplots(num_rows, len(columns), squeeze=False)
    for row, panels in enumerate(axes):
        low, high = np.percentile(middle_slice(columns[0][row]), (0.5, 99.5))
        for panel, column, title in zip(panels, columns, TITLES, strict=True):
            shown = np.clip((middle_slice(column[row]) - low) / max(high - low, 1e-6), 0.0, 1.0)
            panel.imshow(shown, cmap="gray", vmin=0.0, vmax=1.0)
            panel.set_axis_off()
            if row == 0:
                panel.set_title(title, fontsize=9)
    return figure


def middle_slice(pixels: Float[Tensor, "c *s"]) -> Float[np.ndarray, "h w *c"]:
    """An RGB image itself, else the first channel; of a volume the middle axial slice with A upward."""
    values = pixels.detach().cpu().numpy()
    if values.ndim == 4:
        return values[0, :, ::-1, values.shape[3] // 2].T
    return values.transpose(1, 2, 0) if values.shape[0] == 3 else values[0]
