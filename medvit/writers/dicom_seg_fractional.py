"""Probabilities of a segmentation as a fractional DICOM Segmentation (PS3.3 C.8.20.2.3): one byte a pixel and class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medvit.errors import UnsupportedError
from medvit.readers.dicom import READER as DICOM
from medvit.records import Item
from medvit.types import Prediction
from medvit.writers import ImageContext, ModelTask
from medvit.writers.dicom_parts.dicom_object import notes_on, silent
from medvit.writers.dicom_parts.frames import write_with_frames
from medvit.writers.dicom_parts.object_uids import object_uids
from medvit.writers.dicom_parts.source_instances import Sources, read_sources
from medvit.writers.dicom_seg import EMPTY, on_source, with_one_frame

PROBABILITIES = "probabilities"
MAXIMUM = 255
"""Stored value of the probability 1."""


def write_fractional(path: Path, context: ImageContext, sources: Sources) -> list[str]:
    """Write a FRACTIONAL segmentation of the probabilities of all classes but the background; return notes.

    Frames in which all probabilities are 0 are omitted.

    Raises:
        GeometryError: If the probabilities are not on the pixel grid of the source.
        UnsupportedError: If the prediction has no probabilities, or the source is of a retired SOP class.
    """
    maps = context.prediction.voxel_probabilities
    if maps is None:
        raise UnsupportedError(
            "the model has no probabilities of classes: it predicts overlapping regions, whose probabilities are others"
        )
    planes = {
        (segment, plane): frame
        for segment, one in enumerate(maps, start=1)
        for plane, frame in enumerate(on_source(replace(context.prediction, mask=one), sources))
        if frame.any()
    }
    with silent():
        uids = object_uids(PROBABILITIES, context, sources, context.pixels_sha256, maps)
        options = {"fractional_type": "PROBABILITY", "max_fractional_value": MAXIMUM}
        segmentation = with_one_frame("FRACTIONAL", context, sources, uids, PROBABILITIES, **options)
        segmentation.SegmentsOverlap = "UNDEFINED"
        pixels = b"".join(frame.tobytes() for frame in planes.values())
        used = list(planes) or [(1, 0)]
        write_with_frames(
            path, segmentation, used, pixels or bytes(int(segmentation.Rows) * int(segmentation.Columns)), sources
        )
    return [*notes_on(sources), *[EMPTY] * (not planes)]


class DicomSegFractionalWriter:
    """Writer of `probabilities.dcm`."""

    name, title = "dicom_seg_fractional", "fractional DICOM segmentation"
    tasks: Sequence[ModelTask] = ("segmentation",)
    is_on_request = True
    needs_probabilities = True

    def applies(self, item: Item, prediction: Prediction) -> bool:
        """Return whether the item is from a DICOM series."""
        return prediction.mask is not None and item.reader == DICOM.name

    def write(self, context: ImageContext, folder: Path) -> Sequence[str]:
        """Write the segmentation."""
        return write_fractional(context.path(folder, "probabilities", ".dcm"), context, read_sources(context.item))


WRITER = DicomSegFractionalWriter()
