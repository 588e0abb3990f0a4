"""Mask as a DICOM Label Map Segmentation (Supplement 243): one number a pixel, the index of its class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medvit.readers.dicom import READER as DICOM
from medvit.records import Item
from medvit.types import Prediction
from medvit.writers import ImageContext, ModelTask
from medvit.writers.dicom_parts.bit_packing import pad_pixels
from medvit.writers.dicom_parts.dicom_object import notes_on, silent
from medvit.writers.dicom_parts.source_instances import Sources, read_sources
from medvit.writers.dicom_seg import EMPTY, make_segmentation, on_source, refer_to_source, seg_uids

LABEL_MAP = "label map"


def write_label_map(path: Path, context: ImageContext, sources: Sources) -> list[str]:
    """Write a LABELMAP segmentation; return notes. Slices without a class are omitted, if there are others.

    Raises:
        GeometryError: If the mask is not on the pixel grid of the source.
        UnsupportedError: If the source is of a retired SOP class.
    """
    frames = on_source(context.prediction, sources).astype(np.min_scalar_type(len(context.prediction.classes) - 1))
    is_empty = not frames.any()
    with silent():
        uids = seg_uids(LABEL_MAP, context, sources)
        segmentation = make_segmentation(frames, "LABELMAP", context, sources, uids, LABEL_MAP)
        pad_pixels(segmentation)
        refer_to_source(segmentation, sources)
        segmentation.save_as(path)
    return [*notes_on(sources), *[EMPTY] * is_empty]


class DicomSegLabelMapWriter:
    """Writer of `labelmap.dcm`."""

    name, title = "dicom_seg_labelmap", "DICOM label map segmentation"
    tasks: Sequence[ModelTask] = ("segmentation",)
    is_on_request = True

    def applies(self, item: Item, prediction: Prediction) -> bool:
        """Return whether the item is from a DICOM series."""
        return prediction.mask is not None and item.reader == DICOM.name

    def write(self, context: ImageContext, folder: Path) -> Sequence[str]:
        """Write the segmentation."""
        return write_label_map(context.path(folder, "labelmap", ".dcm"), context, read_sources(context.item))


WRITER = DicomSegLabelMapWriter()
