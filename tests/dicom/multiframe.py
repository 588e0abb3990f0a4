"""Enhanced multi-frame instances made for a test: functional groups, several times, stacks, rescale a frame."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, generate_uid

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SPACING = (0.5, 0.75)


def item(**elements: Any) -> Dataset:
    made = Dataset()
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


def frame_group(
    position: Sequence[float],
    *,
    content: dict[str, Any] | None = None,
    **sequences: dict[str, Any],
) -> Dataset:
    """The functional groups of one frame; keywords are sequences of one item each."""
    group = item(PlanePositionSequence=Items([item(ImagePositionPatient=[float(part) for part in position])]))
    if content is not None:
        group.FrameContentSequence = Items([item(**content)])
    for keyword, elements in sequences.items():
        setattr(group, keyword, Items([item(**elements)]))
    return group


def write_multiframe(
    path: Path,
    voxels: np.ndarray,
    groups: Sequence[Dataset],
    *,
    orientation: Sequence[float] = AXIAL,
    **elements: Any,
) -> Path:
    """Writes voxels (frames, rows, columns); keywords are DICOM keywords of the instance."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    tags = {
        "SOPClassUID": EnhancedMRImageStorage,
        "SOPInstanceUID": generate_uid(),
        "PatientID": "SECRET-9",
        "PatientName": "Secret^Name",
        "PatientBirthDate": "",
        "PatientSex": "",
        "StudyInstanceUID": "1.2.3.4",
        "SeriesInstanceUID": "1.2.3.4.5",
        "FrameOfReferenceUID": "1.2.3.4.6",
        "StudyDate": "20200101",
        "StudyTime": "101010",
        "StudyID": "",
        "AccessionNumber": "",
        "ReferringPhysicianName": "",
        "SeriesNumber": 4,
        "InstanceNumber": 1,
        "Modality": "MR",
        "ImageType": ["ORIGINAL", "PRIMARY", "M", "NONE"],
        "NumberOfFrames": len(voxels),
        "Rows": voxels.shape[1],
        "Columns": voxels.shape[2],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
    } | elements
    for keyword, value in tags.items():
        if value is not None:
            setattr(dataset, keyword, value)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    if groups:
        shared = item(PixelMeasuresSequence=Items([item(PixelSpacing=list(SPACING), SliceThickness=1.0)]))
        shared.PlaneOrientationSequence = Items([item(ImageOrientationPatient=list(orientation))])
        dataset.SharedFunctionalGroupsSequence = Items([shared])
        dataset.PerFrameFunctionalGroupsSequence = Items(list(groups))
    dataset.PixelData = voxels.astype("<u2").tobytes()
    dataset.save_as(path, enforce_file_format=True)
    return path


def counted(num_frames: int, rows: int = 4, columns: int = 6) -> np.ndarray:
    """Voxels (frames, rows, columns) that are all different."""
    return np.arange(num_frames * rows * columns, dtype=np.uint16).reshape(num_frames, rows, columns)


def real_world_mapping(label: str | None = "FIELD", unit: str = "Hz", **elements: Any) -> Dataset:
    """An item that takes stored values 0 to 4095 to 0.25 * stored - 512 in a unit."""
    code = item(CodeValue=unit, CodingSchemeDesignator="UCUM", CodeMeaning="a unit")
    elements = {
        "LUTLabel": label,
        "MeasurementUnitsCodeSequence": Items([code]),
        "RealWorldValueFirstValueMapped": 0,
        "RealWorldValueLastValueMapped": 4095,
        "RealWorldValueSlope": 0.25,
        "RealWorldValueIntercept": -512.0,
    } | elements
    made = item(**{key: value for key, value in elements.items() if value is not None})
    for end in ("First", "Last"):
        if f"RealWorldValue{end}ValueMapped" in made:
            made[f"RealWorldValue{end}ValueMapped"].VR = "US"
    return made


def mapped_by(*items: Dataset) -> dict[str, Any]:
    return {"RealWorldValueMappingSequence": Items(list(items))}
