"""Preview image for checking a result at a glance: slices through its center, without and with the classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from jaxtyping import Float, Int, UInt8
from numpy import ndarray as Array

from medvit.files.atomic import write_bytes
from medvit.files.png import encode_png
from medvit.records import Item
from medvit.types import Image, Prediction
from medvit.writers import COLORS, ImageContext, ModelTask, SlideContext
from medvit.writers.caption import Color, captioned
from medvit.writers.slide_maps import SlideFinding
from medvit.writers.slide_preview import write_slide_preview

OPACITY = 0.4
"""Opacity of the class color over a voxel."""
HEIGHT = 320
"""Height of a row of slices, in pixels."""
NEARLY = 0.9
"""Slices that show at least this share of the best slice's area count as equally good."""
PERCENTILES = (1.0, 99.0)
"""Intensity percentiles of the picture shown as black and white."""


def write_preview(path: Path, image: Image, prediction: Prediction) -> None:
    """Write a PNG of an image, or of the axial, coronal and sagittal slice of a volume.

    The left side of a slice is the patient's right, or the front in the sagittal slice.

    For a segmentation, a second row shows the same slices with the classes in color. The last lines name the classes
    with their colors or probabilities, or the label with its number.
    """
    from PIL import Image as Picture

    cuts = _slices(image, prediction) if image.kind == "volume" else [_whole(image, prediction)]
    rows = [[cut.bare for cut in cuts]] + ([[cut.colored for cut in cuts]] if prediction.mask is not None else [])
    widths = [min(max(1, round(HEIGHT * cut.width_to_height)), 3 * HEIGHT) for cut in cuts]
    tiles = [
        [
            np.asarray(Picture.fromarray(picture).resize((width, HEIGHT)))
            for picture, width in zip(row, widths, strict=True)
        ]
        for row in rows
    ]
    picture = np.concatenate([np.concatenate(row, axis=1) for row in tiles])
    write_bytes(path, encode_png(captioned(picture, *_legend(prediction))))


def _legend(prediction: Prediction) -> list[tuple[str, Color | None]]:
    if prediction.mask is not None:
        return [(name, COLORS[n % len(COLORS)]) for n, name in enumerate(prediction.classes[1:])]
    if prediction.by_label:
        return [line for label, one in prediction.by_label.items() for line in _legend_of_label(label, one)]
    if prediction.value is not None:
        return [(f"{prediction.classes[0]} {prediction.value:.4g}", None)]
    known = prediction.probabilities if prediction.probabilities is not None else ()
    grades: list[tuple[str, Color | None]] = [(f"{name} {grade}", None) for name, grade in prediction.grades.items()]
    return grades + [(f"{name} {value:.2f}", None) for name, value in zip(prediction.classes, known, strict=False)]


def _legend_of_label(label: str, prediction: Prediction) -> list[tuple[str, Color | None]]:
    own = _legend(prediction)
    num_named = len(prediction.grades) if prediction.value is None else len(own)  # which begin with the label
    return own[:num_named] + [(f"{label}: {text}", color) for text, color in own[num_named:]]


@dataclass(frozen=True)
class PreviewPlane:
    """Plane without and with the classes in color; `width_to_height` is its aspect ratio in mm, not in pixels."""

    bare: UInt8[Array, "h w 3"]
    colored: UInt8[Array, "h w 3"]
    width_to_height: float


def _slices(image: Image, prediction: Prediction) -> list[PreviewPlane]:
    gray = image.without_gaps().intensities()[0]
    mask = prediction.mask if prediction.mask is not None else np.zeros(gray.shape, dtype=np.uint8)
    center = _center(mask)
    spacing = image.affine.spacing_mm if image.affine is not None else (1.0, 1.0, 1.0)
    extent_mm = [n * step for n, step in zip(gray.shape, spacing, strict=True)]
    cuts = []
    for across, down, side in ((2, 1, 0), (1, 2, 0), (0, 2, 1)):
        plane: list[slice | int] = [slice(None)] * 3
        plane[across] = center[across]
        # Rows start at the front or top, columns at the patient's right or front: against the axes R, A and S.
        shown, labels = (np.flip(voxels[tuple(plane)].T) for voxels in (gray, mask))
        cuts.append(_cut(shown, labels, extent_mm[side] / extent_mm[down]))
    return cuts


def _whole(image: Image, prediction: Prediction) -> PreviewPlane:
    gray = image.without_gaps().intensities().mean(axis=0)
    mask = prediction.mask if prediction.mask is not None else np.zeros(gray.shape, dtype=np.uint8)
    return _cut(gray, mask, gray.shape[1] / gray.shape[0])


def _center(mask: Int[Array, "i j k"]) -> tuple[int, ...]:
    """Return the position at which the three slices cross, which is chosen to show as many classes as possible.

    On each axis, the score of a slice is the sum of the square roots of the areas of its classes. The square root keeps
    large classes from hiding small ones. Of the slices with nearly the highest score (`NEARLY`), the one nearest to the
    median position of the mask is chosen. If the mask is empty, the result is the center of the volume.
    """
    found = np.nonzero(mask)
    if not found[0].size:
        return tuple(n // 2 for n in mask.shape)
    center = []
    for axis, places in enumerate(found):
        areas = np.zeros((mask.shape[axis], int(mask.max()) + 1))
        np.add.at(areas, (places, mask[found]), 1)
        shown = np.sqrt(areas).sum(axis=1)
        best = np.flatnonzero(shown >= NEARLY * shown.max())
        center.append(int(best[np.abs(best - np.median(places)).argmin()]))
    return tuple(center)


def _cut(gray: Float[Array, "h w"], mask: Int[Array, "h w"], width_to_height: float) -> PreviewPlane:
    low, high = np.percentile(gray, PERCENTILES)
    shown = np.clip((gray - low) / max(float(high - low), 1e-6), 0.0, 1.0) * 255.0
    bare = np.repeat(shown[..., None], 3, axis=-1)
    colors = np.array(COLORS, dtype=np.float32)[(mask.astype(np.int64) - 1) % len(COLORS)]
    colored = np.where((mask > 0)[..., None], (1.0 - OPACITY) * bare + OPACITY * colors, bare)
    return PreviewPlane(bare.astype(np.uint8), colored.astype(np.uint8), width_to_height)


class PreviewWriter:
    """Writer of `preview.png`, for an image or a slide."""

    name, title = "preview", "preview"
    tasks: Sequence[ModelTask] = get_args(ModelTask)

    def applies(self, item: Item, prediction: Prediction | SlideFinding) -> bool:
        """Return True, because the format applies to every image and slide."""
        return True

    def write(self, context: ImageContext | SlideContext, folder: Path) -> Sequence[str]:
        """Write the preview image."""
        path = context.path(folder, "preview", ".png")
        if isinstance(context, SlideContext):
            write_slide_preview(path, context.slide, context.prediction)
        else:
            write_preview(path, context.image, context.prediction)
        return ()


WRITER = PreviewWriter()
