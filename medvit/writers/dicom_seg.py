"""Mask as a DICOM Segmentation (PS3.3 A.51) on the slices of its source, in the study of the source."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int, UInt8
from numpy import ndarray as Array

from medvit.errors import GeometryError, UnsupportedError
from medvit.geometry import like
from medvit.readers.dicom import READER as DICOM
from medvit.records import Item
from medvit.types import Prediction
from medvit.writers import COLORS, Concept, ImageContext, Maker, ModelTask
from medvit.writers.character_sets import settle
from medvit.writers.coded_terms import label_of, property_category, property_types
from medvit.writers.source_instances import Sources, has_position, read_sources

if TYPE_CHECKING:
    from pydicom import Dataset

SERIES_NUMBER_LIMIT, SERIES_NUMBER_STEP = 10**8, 1000
"""SeriesNumber of a segmentation: the number of the source series modulo the limit, plus the step."""


def write_seg(
    path: Path, prediction: Prediction, sources: Sources, *, maker: Maker, codes: Mapping[str, str] | None = None
) -> None:
    """Write a BINARY segmentation with a segment for every class in the mask, except the background.

    Raises:
        GeometryError: If the mask is not on the pixel grid of the source.
        UnsupportedError: If the source is of a retired SOP class.
        ValueError: If the mask is all background: DICOM has no empty segmentation.
    """
    assert prediction.mask is not None
    labels = present_labels(prediction.mask)
    if not labels:
        raise ValueError("the mask is empty; DICOM has no segmentation without a segment")
    frames = on_source(prediction, sources)
    _complete_thickness(sources)
    # (frames, rows, columns, segments), one bit each
    stacked = np.stack([frames == label for label in labels], axis=-1).astype(np.uint8)
    types = property_types(prediction.classes, codes or {})
    described = [
        _segment(number, name, COLORS[(label - 1) % len(COLORS)], maker, types[name])
        for number, label, name in ((n, label, prediction.classes[label]) for n, label in enumerate(labels, start=1))
    ]
    with silent():
        fit_texts(sources, [prediction.classes[label] for label in labels], codes or {})
        segmentation = _segmentation(stacked, described, sources, maker)
        segmentation.save_as(path)


def _segmentation(stacked: UInt8[Array, "n h w l"], described: list[Any], sources: Sources, maker: Maker) -> Dataset:
    import highdicom as hd

    try:
        segmentation = hd.seg.Segmentation(
            source_images=sources.headers,
            pixel_array=stacked,
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=described,
            series_description="medvit segmentation, for research use",
            omit_empty_frames=True,
            **authorship(sources, maker),
        )
    except KeyError:
        raise UnsupportedError("the source is of a retired DICOM class, which a segmentation cannot refer to") from None
    _refer_to_frames(segmentation, sources.frames)
    if not has_position(sources.headers[0]):
        # Type 2C: an image without position must have the attribute for the direction of its rows, possibly empty.
        segmentation.PatientOrientation = sources.headers[0].get("PatientOrientation", "")
    return segmentation


def fit_texts(sources: Sources, classes: Sequence[str], codes: Mapping[str, str]) -> None:
    """Convert the headers of the source to UTF-8 if classes or their codes are not ASCII.

    This is necessary because a DICOM object has only one character set.
    """
    if not all(text.isascii() for text in (*classes, *(codes.get(name, "") for name in classes))):
        for header in sources.headers:
            settle(header, to_utf_8=True)


def authorship(sources: Sources, maker: Maker) -> dict[str, Any]:
    """Return the common arguments of highdicom objects: a new series of one instance, made by a model."""
    import highdicom as hd

    return {
        "series_instance_uid": hd.UID(),
        "series_number": _series_number(sources),
        "sop_instance_uid": hd.UID(),
        "instance_number": 1,
        "manufacturer": "medvit",
        "manufacturer_model_name": "medvit",
        "software_versions": maker.version,
        "device_serial_number": maker.model_sha256[:16],  # the device is the model
        "content_label": "MEDVIT",
        "content_description": "made by an algorithm, not reviewed",
        "contributing_equipment": [_equipment(maker)],
    }


def _refer_to_frames(segmentation: Dataset, frames: Sequence[int]) -> None:
    """Correct the frame numbers by which a segmentation refers to its source.

    The source file may have more frames than were segmented. `frames` are the numbers of the segmented frames in the
    file.
    """
    for group in segmentation.PerFrameFunctionalGroupsSequence if frames else ():
        for derivation in group.get("DerivationImageSequence", ()):
            for source in derivation.get("SourceImageSequence", ()):
                source.ReferencedFrameNumber = frames[int(source.ReferencedFrameNumber) - 1] + 1  # counted from 1


@contextmanager
def silent() -> Iterator[None]:
    """Suppress logs and warnings of libraries, because they quote identifiers of the source."""
    for library in ("highdicom", "pydicom"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def present_labels(mask: Int[Array, "*s"]) -> list[int]:
    """Return the classes in a mask, without the background."""
    return [int(label) for label in np.unique(mask) if label != 0]


def on_source(prediction: Prediction, sources: Sources) -> Int[Array, "n h w"]:
    """Return the mask as frames (frames, rows, columns) on the pixel grid of its source.

    There is one frame per header of the source or, for a multi-frame source, per frame of the source, in the same
    order.

    Raises:
        GeometryError: If the mask is not on the pixel grid of the source.
    """
    mask, first = prediction.mask, sources.headers[0]
    assert mask is not None
    if prediction.affine is None or sources.affine is None:
        frames = mask[None]
    else:
        turned = like(mask, prediction.affine, sources.affine)  # (columns, rows, slices)
        frames = np.transpose(turned, (2, 1, 0))
    _require_shape(frames.shape, (len(sources.frames or sources.headers), int(first.Rows), int(first.Columns)))
    return frames


def _series_number(sources: Sources) -> int:
    number = str(sources.headers[0].get("SeriesNumber") or "")
    return (int(number) if number.isdigit() else 0) % SERIES_NUMBER_LIMIT + SERIES_NUMBER_STEP


def _require_shape(found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if found != expected:
        raise GeometryError(f"the mask has frames {found}, its source {expected} (frames, rows, columns)")


def _complete_thickness(sources: Sources) -> None:
    """Set a missing slice thickness to the slice spacing: the standard requires one for every volume."""
    for header in sources.headers:
        if "ImageOrientationPatient" in header and not header.get("SliceThickness"):
            gap_mm = min(header.PixelSpacing) if sources.affine is None else sources.affine.spacing_mm[2]
            header.SliceThickness = f"{gap_mm:.6g}"


def _segment(number: int, name: str, color: tuple[int, int, int], maker: Maker, concept: Concept) -> Any:
    import highdicom as hd

    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=label_of(name),
        segmented_property_category=coded(property_category(name)),
        segmented_property_type=coded(concept),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm(maker),
        tracking_id=label_of(f"medvit {name}"),
        tracking_uid=hd.UID(),
        display_color=hd.color.CIELabColor.from_rgb(*color),
    )


def algorithm(maker: Maker) -> Any:
    """Return the origin of a result as highdicom's description of an algorithm."""
    import highdicom as hd
    from pydicom.sr.codedict import codes as terms

    parameters = {"model_sha256": maker.model_sha256}
    if maker.run_id:
        parameters["mlflow_run"] = maker.run_id
    return hd.AlgorithmIdentificationSequence(
        name="medvit", family=terms.DCM.ArtificialIntelligence, version=maker.version, parameters=parameters
    )


def coded(concept: Concept) -> Any:
    """Return a coded term as an object of highdicom."""
    import highdicom as hd

    return hd.sr.CodedConcept(concept.value, concept.scheme, concept.meaning)


def _equipment(maker: Maker) -> Any:
    import highdicom as hd
    from pydicom.sr.codedict import codes as terms

    run = f", MLflow run {maker.run_id}" if maker.run_id else ""
    return hd.ContributingEquipment(
        "medvit",
        terms.DCM.ProcessingEquipment,
        manufacturer_model_name="medvit",
        software_versions=maker.version,
        contribution_description=f"made by the model {maker.model_sha256}{run}",
    )


class DicomSegWriter:
    """Writer of `segmentation.dcm`."""

    name, title = "dicom_seg", "DICOM segmentation"
    tasks: Sequence[ModelTask] = ("segmentation",)

    def applies(self, item: Item, prediction: Prediction) -> bool:
        """Return whether the item is from a DICOM series."""
        return prediction.mask is not None and item.reader == DICOM.name

    def write(self, context: ImageContext, folder: Path) -> Sequence[str]:
        """Write the segmentation, unless the mask is empty: DICOM has no empty segmentation."""
        assert context.prediction.mask is not None
        if not present_labels(context.prediction.mask):
            return ["the mask is empty, so there is no DICOM segmentation"]
        sources = read_sources(context.item)
        path = context.path(folder, "segmentation", ".dcm")
        write_seg(path, context.prediction, sources, maker=context.maker, codes=context.codes)
        missing = ", ".join(sources.made_up)
        notes = [f"the source has no UID of its {missing}: the segmentation has a derived one"] if missing else []
        return [*sources.notes, *notes]


WRITER = DicomSegWriter()
