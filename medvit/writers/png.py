"""Mask of an image as PNG: a grayscale image whose pixel values are the classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int
from numpy import ndarray as Array

from medvit.records import Item
from medvit.types import Prediction
from medvit.writers import ImageContext, ModelTask


def write_png(path: Path, mask: Int[Array, "h w"]) -> None:
    """Write a label map as a grayscale image whose pixel values are the class indices."""
    from PIL import Image as Picture

    Picture.fromarray(mask.astype(np.uint8 if mask.max(initial=0) < 256 else np.uint16)).save(path)


class PngWriter:
    """Writer of `mask.png`."""

    name, title = "png", "PNG label map"
    tasks: Sequence[ModelTask] = ("segmentation",)

    def applies(self, item: Item, prediction: Prediction) -> bool:
        """Return whether the item is a 2D image."""
        return prediction.mask is not None and prediction.mask.ndim == 2

    def write(self, context: ImageContext, folder: Path) -> Sequence[str]:
        """Write the label map."""
        assert context.prediction.mask is not None
        write_png(context.path(folder, "mask", ".png"), context.prediction.mask)
        return ()


WRITER = PngWriter()
