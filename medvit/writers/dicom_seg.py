"""Mask as a DICOM Segmentation (PS3.3 A.51) on the slices of its source, in the study of the source.

Every class of the model is described, and its SegmentNumber is its index in every study. Only frames with pixels are
stored, and as many empty ones as `medvit.writers.dicom_parts.bit_packing` requires. An empty mask is one empty frame:
the number of frames shall be greater than zero (PS3.3 C.7.6.6.1.1), and readers refuse a file without pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int, UInt
from numpy import ndarray as Array

from medvit.errors import GeometryError, UnsupportedError
from medvit.geometry import like
from medvit.readers.dicom import READER as DICOM
from medvit.records import Item
from medvit.types import Prediction
from medvit.writers import COLORS, ImageContext, ModelTask
from medvit.writers.dicom_parts.bit_packing import with_empty_frames
from medvit.writers.dicom_parts.coded_terms import label_of, property_category, property_types
from medvit.writers.dicom_parts.dicom_object import algorithm, authorship, coded, fit_texts, notes_on, silent
from medvit.writers.dicom_parts.frames import packed, write_with_frames
from medvit.writers.dicom_parts.object_uids import ObjectUids, object_uids, tracking
from medvit.writers.dicom_parts.source_instances import Sources, has_position, read_sources

if TYPE_CHECKING:
    from pydicom import Dataset

SEGMENTATION = "segmentation"
"""Kind of the binary segmentation, in its description and in the digest of its UIDs."""
EMPTY = "the mask is empty: nothing was found"
AMBIGUOUS = (
    "the DICOM segmentation has too few frames to fill the last 16 bits of its pixels; the OHIF viewer may refuse it "
    "or show it wrongly"
)


def write_seg(path: Path, context: ImageContext, sources: Sources) -> list[str]:
    """Write a BINARY segmentation with a segment for every class except the background; return notes.

    Raises:
        GeometryError: If the mask is not on the pixel grid of the source.
        UnsupportedError: If the source is of a retired SOP class.
    """
    frames = on_source(context.prediction, sources).astype(np.min_scalar_type(len(context.prediction.classes) - 1))
    num_segments = len(context.prediction.classes) - 1
    found = _found(frames, num_segments)
    used, is_right = with_empty_frames(found or [(1, 0)], frames[0].size, num_segments, len(frames))
    with silent():
        uids = seg_uids(SEGMENTATION, context, sources)
        segmentation = with_one_frame("BINARY", context, sources, uids, SEGMENTATION)
        if num_segments == 1 and _is_regular([plane for _, plane in used], sources):
            segmentation.DimensionOrganizationType = "3D"
        write_with_frames(path, segmentation, used, packed(frames, used), sources)
    return [*notes_on(sources), *[EMPTY] * (not found), *[AMBIGUOUS] * (not is_right)]


def _found(frames: UInt[Array, "n h w"], num_segments: int) -> list[tuple[int, int]]:
    """Return the segments and planes with pixels, segment by segment."""
    is_present = np.zeros((len(frames), num_segments + 1), bool)
    for is_in, plane in zip(is_present, frames, strict=True):
        is_in[plane] = True
    return [(int(segment), int(plane)) for segment, plane in np.argwhere(is_present.T) if segment]


def _is_regular(planes: Sequence[int], sources: Sources) -> bool:
    """Return whether the planes of frames are equally spaced, so that the frames form a volume."""
    if sources.affine is None or len(planes) < 2:
        return False
    return len(set(np.diff(planes).tolist())) == 1


def with_one_frame(
    kind: str, context: ImageContext, sources: Sources, uids: ObjectUids, what: str, **options: Any
) -> Dataset:
    """Return a segmentation with one frame, as `make_segmentation` does, to be written with others.

    highdicom is given the first slice of a series alone, because it takes a millisecond for each slice.
    """
    _complete_thickness(sources)
    alone = sources if sources.frames else replace(sources, headers=sources.headers[:1])
    first = np.zeros((len(alone.frames or alone.headers), *_plane_shape(sources)), np.uint8)
    first[0, 0, 0] = 1
    segmentation = make_segmentation(first, kind, context, alone, uids, what, **options)
    if len(sources.headers) > 1:
        _refer_to_all(segmentation, sources)
    refer_to_source(segmentation, sources)
    return segmentation


def _refer_to_all(segmentation: Dataset, sources: Sources) -> None:
    """Complete a segmentation that was made from the first slice: references to all slices, and their spacing."""
    from highdicom.spatial import get_volume_positions
    from pydicom import Dataset
    from pydicom.valuerep import format_number_as_ds

    references = []
    for header in sources.headers:
        reference = Dataset()
        reference.ReferencedSOPClassUID = header.SOPClassUID
        reference.ReferencedSOPInstanceUID = header.SOPInstanceUID
        references.append(reference)
    segmentation.SourceImageSequence = references
    segmentation.ReferencedSeriesSequence[0].ReferencedInstanceSequence = references
    if "SpacingBetweenSlices" not in sources.headers[0]:  # else it is copied
        measures = segmentation.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        positions = [header.ImagePositionPatient for header in sources.headers]
        spacing_mm, _ = get_volume_positions(positions, sources.headers[0].ImageOrientationPatient)
        measures.pop("SpacingBetweenSlices", None)
        if spacing_mm is not None:
            measures.SpacingBetweenSlices = format_number_as_ds(spacing_mm)


def make_segmentation(
    frames: UInt[Array, "n h w"],
    kind: str,
    context: ImageContext,
    sources: Sources,
    uids: ObjectUids,
    what: str,
    **options: Any,
) -> Dataset:
    """Return a segmentation of label maps on the planes of the source, with a segment for each class of the model.

    `what` is the kind of segmentation in its description.

    Raises:
        UnsupportedError: If the source is of a retired SOP class.
    """
    import highdicom as hd

    classes = context.prediction.classes[1:]
    _complete_thickness(sources)
    fit_texts(sources, context, classes)
    try:
        segmentation = hd.seg.Segmentation(
            source_images=sources.headers,
            pixel_array=frames,
            segmentation_type=hd.seg.SegmentationTypeValues(kind),
            segment_descriptions=_segments(context, sources),
            **authorship(sources, context, what, uids),
            **options,
        )
    except KeyError:
        raise UnsupportedError("the source is of a retired DICOM class, which a segmentation cannot refer to") from None
    for item in (*segmentation.DimensionOrganizationSequence, *segmentation.DimensionIndexSequence):
        item.DimensionOrganizationUID = uids.of("dimensions")
    return segmentation


def seg_uids(kind: str, context: ImageContext, sources: Sources) -> ObjectUids:
    """Return the UIDs of a segmentation of a kind, without writing it."""
    mask = context.prediction.mask
    assert mask is not None
    return object_uids(kind, context, sources, context.pixels_sha256, mask)


def refer_to_source(segmentation: Dataset, sources: Sources) -> None:
    """Complete the references of a segmentation to its source."""
    _refer_to_frames(segmentation, sources.frames)
    if not has_position(sources.headers[0]):
        # Type 2C: an image without position must have the attribute for the direction of its rows, possibly empty.
        segmentation.PatientOrientation = sources.headers[0].get("PatientOrientation", "")


def _refer_to_frames(segmentation: Dataset, frames: Sequence[int]) -> None:
    """Correct the frame numbers by which a segmentation refers to its source.

    The source file may have more frames than were segmented. `frames` are the numbers of the segmented frames in the
    file.
    """
    for group in segmentation.PerFrameFunctionalGroupsSequence if frames else ():
        for derivation in group.get("DerivationImageSequence", ()):
            for source in derivation.get("SourceImageSequence", ()):
                source.ReferencedFrameNumber = frames[int(source.ReferencedFrameNumber) - 1] + 1  # counted from 1


def on_source(prediction: Prediction, sources: Sources) -> Int[Array, "n h w"]:
    """Return the mask as frames (frames, rows, columns) on the pixel grid of its source.

    There is one frame per header of the source or, for a multi-frame source, per frame of the source, in the same
    order.

    Raises:
        GeometryError: If the mask is not on the pixel grid of the source.
    """
    mask = prediction.mask
    assert mask is not None
    if prediction.affine is None or sources.affine is None:
        frames = mask[None]
    else:
        turned = like(mask, prediction.affine, sources.affine)  # (columns, rows, slices)
        frames = np.transpose(turned, (2, 1, 0))
    _require_shape(frames.shape, (len(sources.frames or sources.headers), *_plane_shape(sources)))
    return np.ascontiguousarray(frames)  # highdicom is slow if the pixels of a plane are scattered


def _plane_shape(sources: Sources) -> tuple[int, int]:
    return int(sources.headers[0].Rows), int(sources.headers[0].Columns)


def _require_shape(found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if found != expected:
        raise GeometryError(f"the mask has frames {found}, its source {expected} (frames, rows, columns)")


def _complete_thickness(sources: Sources) -> None:
    """Set a missing slice thickness to the slice spacing: the standard requires one for every volume."""
    for header in sources.headers:
        if "ImageOrientationPatient" in header and not header.get("SliceThickness"):
            gap_mm = min(header.PixelSpacing) if sources.affine is None else sources.affine.spacing_mm[2]
            header.SliceThickness = f"{gap_mm:.6g}"


def _segments(context: ImageContext, sources: Sources) -> list[Any]:
    import highdicom as hd

    classes = context.prediction.classes
    types = property_types(classes, context.codes)
    return [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=label_of(name),
            segmented_property_category=coded(property_category(name)),
            segmented_property_type=coded(types[name]),
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm(context.maker),
            tracking_id=tracking(sources.headers[0], name).name,
            tracking_uid=tracking(sources.headers[0], name).uid,
            display_color=hd.color.CIELabColor.from_rgb(*COLORS[(number - 1) % len(COLORS)]),
        )
        for number, name in enumerate(classes[1:], start=1)
    ]


class DicomSegWriter:
    """Writer of `segmentation.dcm`."""

    name, title = "dicom_seg", "DICOM segmentation"
    tasks: Sequence[ModelTask] = ("segmentation",)

    def applies(self, item: Item, prediction: Prediction) -> bool:
        """Return whether the item is from a DICOM series."""
        return prediction.mask is not None and item.reader == DICOM.name

    def write(self, context: ImageContext, folder: Path) -> Sequence[str]:
        """Write the segmentation."""
        return write_seg(context.path(folder, "segmentation", ".dcm"), context, read_sources(context.item))


WRITER = DicomSegWriter()
