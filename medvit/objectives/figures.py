"""Figures for checking pretraining."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from medvit.transforms.patches import patchify, unpatchify
from medvit.types import Tokens, Views

TITLES = ("image", "seen by the encoder", "rebuilt")


def reconstruction_figure(columns: Sequence[Float[Tensor, "b c *s"]]) -> Figure:
    """Return a figure with one row per image: the original, the visible part and the reconstruction.

    Volumes are shown by their middle slice.
    """
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
    """Return an image for display: RGB, the first channel of any other image, or the middle axial slice of a volume.

    The top of the slice is anterior. A channel that the image lacks is shown as zero.
    """
    values = pixels.detach().nan_to_num().cpu().numpy()
    if values.ndim == 4:
        return values[0, :, ::-1, values.shape[3] // 2].T
    return values.transpose(1, 2, 0) if values.shape[0] == 3 else values[0]


def masked_figure(
    pixels: Float[Tensor, "b c *s"],
    predicted: Float[Tensor, "b n p"],
    hidden: Bool[Tensor, "b n"],
    patch_size: tuple[int, ...],
) -> Figure:
    """Return a figure of images, their visible part, and the images with `predicted` instead of hidden patches."""
    patches, shape = patchify(pixels.float(), patch_size), tuple(pixels.shape[2:])
    mask = hidden[..., None]
    seen = unpatchify(patches.masked_fill(mask, float(pixels.min())), patch_size, shape)
    rebuilt = unpatchify(torch.where(mask, predicted.float(), patches), patch_size, shape)
    return reconstruction_figure([pixels.float(), seen, rebuilt])


def similarity_figure(pixels: Float[Tensor, "b c *s"], tokens: Tokens) -> Figure:
    """Return a figure with one row per image: the original, and each patch's similarity to the middle patch.

    Volumes are shown by their middle slice.
    """
    unit = F.normalize(tokens.patches.float(), dim=-1).unflatten(1, tokens.grid)
    middle = tuple(side // 2 for side in tokens.grid)
    maps = (unit * unit[:, *middle].reshape(len(unit), *(1,) * len(middle), -1)).sum(dim=-1)
    return panel_figure([pixels, maps[:, None]], ("image", "cosine with the middle patch"))


def views_figure(views: Views) -> Figure:
    """Return a figure of the crops of up to four images as the model receives them, one row per image.

    Global crops come first, then up to four local crops.
    """
    columns = [crops[:4].float() for crops in views.crops]
    titles = [f"global {number}" for number in range(len(columns))]
    if views.local is not None:
        columns += [crops[:4].float() for crops in views.local[:4]]
        titles += [f"local {number}" for number in range(len(views.local[:4]))]
    return panel_figure(columns, titles)


def panel_figure(columns: Sequence[Float[Tensor, "b c *s"]], titles: Sequence[str]) -> Figure:
    """Return a figure with one row per image and one column per panel; each panel has its own gray scale."""
    figure = Figure(figsize=(2.2 * len(columns), 2.2 * len(columns[0])), layout="constrained")
    axes = figure.subplots(len(columns[0]), len(columns), squeeze=False)
    for row, panels in enumerate(axes):
        for panel, column, title in zip(panels, columns, titles, strict=True):
            values = middle_slice(column[row])
            low, high = np.percentile(values, (0.5, 99.5))
            panel.imshow(np.clip((values - low) / max(high - low, 1e-6), 0.0, 1.0), cmap="gray", vmin=0.0, vmax=1.0)
            panel.set_axis_off()
            if row == 0:
                panel.set_title(title, fontsize=9)
    return figure
