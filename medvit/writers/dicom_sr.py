"""Measurements and probabilities as a DICOM Structured Report (PS3.16 TID 1500 Measurement Report).

A segmentation has a group (TID 1411) for each class with its volume and largest diameter, which refers to the segment
in `segmentation.dcm`. Other models have a group (TID 1501) for each class with its probability, and one for each call.
The report is PARTIAL and UNVERIFIED: no person has read it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool
from numpy import ndarray as Array

from medvit.files.digests import digest_of_parts
from medvit.geometry import Affine
from medvit.readers.dicom import READER as DICOM
from medvit.records import Item
from medvit.types import Prediction
from medvit.writers import Concept, Finding, ImageContext, Maker, ModelTask
from medvit.writers.dicom_parts.coded_terms import PRIVATE_SCHEME, label_of, property_category, property_types
from medvit.writers.dicom_parts.dicom_object import authorship, coded, fit_texts, notes_on, silent
from medvit.writers.dicom_parts.object_uids import object_uids, tracking, uid_of
from medvit.writers.dicom_parts.source_instances import Sources, read_sources
from medvit.writers.dicom_seg import SEGMENTATION, on_source, seg_uids

if TYPE_CHECKING:
    from pydicom import Dataset

REPORT = "report"
VOLUME = Concept("SCT", "118565006", "Volume")
DIAMETER = Concept("IBSI", "L0JK", "Maximum 3D Diameter of a Mesh")
PROBABILITY = Concept("DCM", "122157", "Probability")
THRESHOLD = Concept(PRIVATE_SCHEME, "THRESHOLD", "Threshold of the probability")
MILLILITER = Concept("UCUM", "mL", "milliliter")
MILLIMETER = Concept("UCUM", "mm", "millimeter")
NO_UNITS = Concept("UCUM", "1", "no units")
IMAGING = Concept("SCT", "363679005", "Imaging")
CALLS = {"positive": Concept("SCT", "10828004", "Positive"), "negative": Concept("SCT", "260385009", "Negative")}


def write_sr(path: Path, context: ImageContext, sources: Sources) -> list[str]:
    """Write the report; return notes.

    Raises:
        GeometryError: If a mask is not on the pixel grid of the source.
    """
    import highdicom as hd

    prediction = context.prediction
    with silent():
        result = prediction.probabilities if prediction.mask is None else prediction.mask
        assert result is not None
        stated = repr(context.calls) + repr(context.flags) * bool(context.flags)
        calls = np.frombuffer(stated.encode(), np.uint8)
        uids = object_uids(REPORT, context, sources, context.pixels_sha256, result, calls)
        fit_texts(sources, context, prediction.classes)
        groups = _of_classes(context, sources) if prediction.mask is None else _of_segments(context, sources)
        observer = hd.sr.ObserverContext(_term("121007", "Device"), _device(context.maker))
        content = hd.sr.MeasurementReport(
            observation_context=hd.sr.ObservationContext(observer_device_context=observer),
            procedure_reported=coded(IMAGING),
            imaging_measurements=groups,
        )
        content[0].ContentSequence.extend(map(_flag, context.flags))
        common = authorship(sources, context, REPORT, uids)
        report = hd.sr.ComprehensiveSR(
            evidence=[*sources.headers, *([] if prediction.mask is None else [_segmentation(context, sources)])],
            content=content[0],
            is_complete=False,
            is_final=False,
            is_verified=False,
            **{key: value for key, value in common.items() if not key.startswith("content_")},
        )
        report.save_as(path)
    return notes_on(sources)


def _flag(reason: str) -> Any:
    """Return a comment with the reason why a person should look at the result first."""
    import highdicom as hd

    contains = hd.sr.RelationshipTypeValues.CONTAINS
    return hd.sr.TextContentItem(_term("121106", "Comment"), f"flagged: {reason}", contains)


def max_diameter_mm(mask: Bool[Array, "i j k"], affine: Affine) -> float:
    """Return the largest distance in mm between two points of the surface of a mask, 0 if it is empty.

    The surface is a mesh with vertices halfway between voxels inside and outside (IBSI L0JK).
    """
    from scipy.spatial import ConvexHull
    from scipy.spatial.distance import pdist

    if not mask.any():
        return 0.0
    i, j = np.nonzero(mask.any(axis=2))
    lines = mask[i, j]
    low, high = lines.argmax(axis=1), mask.shape[2] - 1 - lines[:, ::-1].argmax(axis=1)
    ends = np.concatenate([np.stack([i, j, low], axis=1), np.stack([i, j, high], axis=1)])
    halves = 0.5 * np.concatenate([np.eye(3), -np.eye(3)])
    points = affine((ends[:, None] + halves).reshape(-1, 3))
    return float(pdist(points[ConvexHull(points).vertices]).max())


def _of_segments(context: ImageContext, sources: Sources) -> list[Any]:
    import highdicom as hd
    from pydicom.uid import SegmentationStorage
    from scipy.ndimage import find_objects

    prediction, mask = context.prediction, context.prediction.mask
    assert mask is not None
    assert prediction.affine is not None
    on_source(prediction, sources)  # refuses a mask that the segmentation cannot have
    instance = seg_uids(SEGMENTATION, context, sources).instance
    boxes = find_objects(mask, max_label=len(prediction.classes) - 1)
    groups = []
    for number, (name, box) in enumerate(zip(prediction.classes[1:], boxes, strict=True), start=1):
        found = mask[box] == number if box else np.zeros((1, 1, 1), bool)
        volume_ml = np.count_nonzero(found) * prediction.affine.voxel_ml
        measurements = [_measurement(VOLUME, volume_ml, MILLILITER)]
        if volume_ml:
            measurements.append(_measurement(DIAMETER, max_diameter_mm(found, prediction.affine), MILLIMETER))
        segment = hd.sr.ReferencedSegment(
            SegmentationStorage,
            instance,
            number,
            source_series=hd.sr.SourceSeriesForSegmentation(sources.headers[0].SeriesInstanceUID),
        )
        groups.append(
            hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
                referenced_segment=segment,
                measurements=measurements,
                finding_category=coded(property_category(name)),
                **_common(context, sources, name),
            )
        )
    return groups


def _of_classes(context: ImageContext, sources: Sources) -> list[Any]:
    import highdicom as hd

    prediction = context.prediction
    assert prediction.probabilities is not None
    frames = [frame + 1 for frame in sources.frames] or None
    images = [
        hd.sr.SourceImageForMeasurementGroup(header.SOPClassUID, header.SOPInstanceUID, frames)
        for header in sources.headers
    ]
    groups = [
        hd.sr.MeasurementsAndQualitativeEvaluations(
            measurements=[_measurement(PROBABILITY, float(value), NO_UNITS)],
            source_images=images,
            **_common(context, sources, name),
        )
        for name, value in zip(prediction.classes, prediction.probabilities, strict=True)
    ]
    return groups + [
        hd.sr.MeasurementsAndQualitativeEvaluations(
            measurements=[
                _measurement(PROBABILITY, float(call.probability or 0), NO_UNITS),
                _measurement(THRESHOLD, float(call.threshold or 0), NO_UNITS),
            ],
            qualitative_evaluations=[hd.sr.QualitativeEvaluation(_name_of(call), coded(CALLS[call.call]))],
            source_images=images,
            **_common(context, sources, call.label),
        )
        for call in context.calls
    ]


def _common(context: ImageContext, sources: Sources, name: str) -> dict[str, Any]:
    """Return the common parts of all groups: tracking, coded class and algorithm (TID 4019)."""
    import highdicom as hd

    maker, tracked = context.maker, tracking(sources.headers[0], name)
    parameters = [f"model_sha256={maker.model_sha256}"]
    parameters += [f"mlflow_run={maker.run_id}"] if maker.run_id else []
    return {
        "tracking_identifier": hd.sr.TrackingIdentifier(uid=tracked.uid, identifier=tracked.name),
        "finding_type": coded(property_types((*context.prediction.classes, name), context.codes)[name]),
        "algorithm_id": hd.sr.AlgorithmIdentification(
            label_of(maker.name or "medvit"),
            maker.version,
            parameters=parameters,
            family=_term("123110", "Artificial Intelligence"),
            manufacturer="medvit",
        ),
    }


def _measurement(name: Concept, value: float, unit: Concept) -> Any:
    import highdicom as hd

    return hd.sr.Measurement(coded(name), float(f"{value:.6g}"), coded(unit))


def _name_of(call: Finding) -> Any:
    digest = digest_of_parts(call.operating_point)[:8].upper()
    return coded(Concept(PRIVATE_SCHEME, f"CALL_{digest}", label_of(f"Call at {call.operating_point}")))


def _device(maker: Maker) -> Any:
    import highdicom as hd

    return hd.sr.DeviceObserverIdentifyingAttributes(
        uid=uid_of("device", maker.model_sha256),
        name="medvit",
        manufacturer_name="medvit",
        model_name=label_of(maker.name or "medvit"),
        serial_number=maker.model_sha256[:16],
    )


def _term(value: str, meaning: str) -> Any:
    return coded(Concept("DCM", value, meaning))


def _segmentation(context: ImageContext, sources: Sources) -> Dataset:
    """Return what a report requires of the header of the segmentation that it refers to."""
    from pydicom import Dataset
    from pydicom.uid import SegmentationStorage

    uids, header = seg_uids(SEGMENTATION, context, sources), Dataset()
    for keyword in ("StudyInstanceUID", "PatientID", "PatientName", "PatientBirthDate", "PatientSex"):
        header[keyword] = sources.headers[0][keyword]
    header.SOPClassUID, header.SOPInstanceUID, header.SeriesInstanceUID = (
        SegmentationStorage,
        uids.instance,
        uids.series,
    )
    return header


class DicomSrWriter:
    """Writer of `report.dcm`."""

    name, title = "dicom_sr", "DICOM structured report"
    tasks: Sequence[ModelTask] = ("segmentation", "classification", "multilabel", "ordinal")
    is_on_request = True
    requires: Mapping[ModelTask, Sequence[str]] = {"segmentation": ("dicom_seg",)}

    def applies(self, item: Item, prediction: Prediction) -> bool:
        """Return whether the item is from a DICOM series and has probabilities or the mask of a volume."""
        is_volume = prediction.mask is not None and prediction.mask.ndim == 3 and prediction.affine is not None
        return item.reader == DICOM.name and (is_volume or prediction.probabilities is not None)

    def write(self, context: ImageContext, folder: Path) -> Sequence[str]:
        """Write the report."""
        return write_sr(context.path(folder, "report", ".dcm"), context, read_sources(context.item))


WRITER = DicomSrWriter()
