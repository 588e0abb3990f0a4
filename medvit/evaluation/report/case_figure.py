"""Pictures of a case: the image, and the image with truth and prediction, in one color per class."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from numpy import ndarray as Array
from PIL import Image as Pillow

from medvit.document import Picture
from medvit.document.colors import color_of
from medvit.records import IGNORED
from medvit.writers.scale_bar import OUTLINE, draw_scale_bar

THUMBNAIL_INCHES, PANEL_INCHES, DPI = 1.75, 3.4, 128
FILLED = 0.35
"""Opacity of predictions."""


@dataclass(frozen=True)
class CasePlane:
    """CasePlane of an image: its title, the letters at its left, right, upper and lower edge, its axes, and its cut.

    `down` and `across` are the axes of the array along the rows and the columns of the plane.
    """

    title: str
    letters: str
    down: int
    across: int
    cut: Callable[[Array], Array]


@dataclass(frozen=True)
class CasePanel:
    """CasePanel of a picture: a plane, its title, and whether truth and prediction are drawn."""

    plane: CasePlane
    title: str
    has_truth: bool = True
    has_found: bool = True


@dataclass(frozen=True)
class CaseImage:
    """Image of a case (C, *S) with its true and predicted label maps (*S), which are 0 everywhere if there are none.

    `spacing` is the distance between pixels along each axis, in `unit` (mm or px). `has_sides` states whether the axes
    of a volume are known to be R, A, S; if not, its planes have no anatomical names and letters.
    """

    pixels: Float[Array, "c *s"]
    truth: Int[Array, "*s"]
    found: Int[Array, "*s"]
    spacing: tuple[float, ...]
    unit: str
    has_sides: bool = True

    @property
    def has_masks(self) -> bool:
        """Return whether there is anything to draw on the image."""
        return bool(self.truth.any() or self.found.any())


def case_pictures(name: str, caption: str, case: CaseImage) -> tuple[Picture, Picture]:
    """Return a thumbnail and a larger picture of a case.

    The larger picture shows the image without and with its label maps. A volume is cut in three planes through the
    largest disagreement of truth and prediction, or else through the middle of the label maps, or else of the volume.
    """
    planes = _planes(case)
    panels = [CasePanel(plane, plane.title) for plane in planes]
    if case.has_masks:
        alone = "image alone" if not planes[0].title else f"{planes[0].title}, image alone"
        panels.insert(0, CasePanel(planes[0], alone, has_truth=False, has_found=False))
    if case.has_masks and len(planes) == 1:  # the outline of a thin structure covers its prediction
        panels[1:] = [
            CasePanel(planes[0], "prediction", has_truth=False),
            CasePanel(planes[0], "prediction and truth (outline)"),
        ]
    small = _drawn(case, [CasePanel(planes[0], "")], THUMBNAIL_INCHES)
    return _picture(f"{name}-small", caption, small), _picture(name, caption, _drawn(case, panels, PANEL_INCHES))


def _drawn(case: CaseImage, panels: Sequence[CasePanel], inches: float) -> Figure:
    pixels, low, high = _displayed(case)
    sizes = [_size(case, panel.plane) for panel in panels]
    height = inches * min(1.6, max(0.5, max(down / across for down, across in sizes)))
    figure = Figure(figsize=(inches * len(panels), height), layout="constrained")
    for axes, panel, (_, width) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, sizes, strict=True):
        plane = panel.plane
        picture = plane.cut(pixels)
        aspect = case.spacing[plane.down] / case.spacing[plane.across]
        axes.imshow(picture, cmap="gray", vmin=low, vmax=high, aspect=aspect)
        axes.set_axis_off()
        if panel.has_found:
            _fill(axes, plane.cut(case.found))
        if panel.has_truth:
            _outline(axes, plane.cut(case.truth))
        if panel.title:
            axes.set_title(panel.title, fontsize=8, color="white")
        for letter, (x, y) in zip(plane.letters, EDGES, strict=False):
            place = {"ha": "center", "va": "center", "transform": axes.transAxes}
            axes.text(x, y, letter, color="white", fontsize=9, path_effects=OUTLINE, **place)
        draw_scale_bar(axes, width, picture.shape[1], picture.shape[0], case.unit)
    return figure


EDGES = ((0.03, 0.5), (0.97, 0.5), (0.5, 0.96), (0.5, 0.04))
"""Places of the four letters of a plane, in units of its width and height."""


def _fill(axes: Axes, found: Int[Array, "h w"]) -> None:
    """Fill each predicted class in its color."""
    filled = np.zeros((*found.shape, 4))
    for number in np.unique(found[found > 0]):
        filled[found == number] = to_rgba(color_of(int(number)), FILLED)
    axes.imshow(filled, aspect=axes.get_aspect(), interpolation="nearest")


def _outline(axes: Axes, truth: Int[Array, "h w"]) -> None:
    """Draw the outline of each true class in its color."""
    for number in np.unique(truth[(truth > 0) & (truth != IGNORED)]):
        is_class = np.pad(truth == number, 1).astype(float)
        extent = (-1.0, truth.shape[1], -1.0, truth.shape[0])
        axes.contour(is_class, levels=[0.5], colors=color_of(int(number)), linewidths=1.1, extent=extent)


def _planes(case: CaseImage) -> list[CasePlane]:
    if case.truth.ndim == 2:
        return [CasePlane("", "", 0, 1, lambda picture: picture)]
    i, j, k = _center(case.truth, case.found)
    planes = [
        CasePlane("axial", "RLAP", 1, 0, lambda volume: volume[::-1, ::-1, k].T),
        CasePlane("coronal", "RLSI", 2, 0, lambda volume: volume[::-1, j, ::-1].T),
        CasePlane("sagittal", "APSI", 2, 1, lambda volume: volume[i, ::-1, ::-1].T),
    ]
    if case.has_sides:
        return planes
    return [replace(plane, title=f"plane {number + 1}", letters="") for number, plane in enumerate(planes)]


def _center(truth: Int[Array, "i j k"], found: Int[Array, "i j k"]) -> tuple[int, int, int]:
    """Return the voxel through which planes are cut: where most voxels are wrong, or the middle of the label maps."""
    counted = truth != IGNORED
    wrong = (truth != found) & counted
    if wrong.any():
        i, j, k = (int(wrong.sum(axis=tuple({0, 1, 2} - {axis})).argmax()) for axis in range(3))
        return i, j, k
    inside = np.argwhere((truth > 0) & counted)
    middle = inside.mean(axis=0).round().astype(int) if len(inside) else np.array(truth.shape) // 2
    return int(middle[0]), int(middle[1]), int(middle[2])


def _displayed(case: CaseImage) -> tuple[Array, float, float]:
    """Return the pixels to display, in color if a 2D image has three channels, and the limits of their window."""
    if len(case.pixels) == 3 and case.truth.ndim == 2:
        colors = np.moveaxis(case.pixels, 0, -1)
        return np.clip(colors / max(float(colors.max()), 1e-6), 0.0, 1.0), 0.0, 1.0
    low, high = np.percentile(case.pixels[0], (0.5, 99.5))
    return case.pixels[0], float(low), float(high)


def _size(case: CaseImage, plane: CasePlane) -> tuple[float, float]:
    """Return height and width of a plane, in the unit of the spacing."""
    down, across = (case.truth.shape[axis] * case.spacing[axis] for axis in (plane.down, plane.across))
    return down, across


def _picture(name: str, caption: str, figure: Figure) -> Picture:
    """Render a figure as a PNG with a palette, which is several times smaller than one in full color."""
    buffer, reduced = io.BytesIO(), io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor="black", metadata={"Software": None})
    with Pillow.open(buffer) as rendered:
        width = rendered.width
        rendered.convert("RGB").quantize(256, method=Pillow.Quantize.MEDIANCUT).save(reduced, "PNG", optimize=True)
    return Picture(name, caption, reduced.getvalue(), width)
