"""Phantoms as DICOM: single-slice CT series, localizers, radiographs, retinal photographs, multi-frame OCT volumes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from jaxtyping import Int16, UInt8, UInt16
from numpy import ndarray as Array
from pydicom import FileDataset, dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    OphthalmicPhotography8BitImageStorage,
    OphthalmicTomographyImageStorage,
    generate_uid,
)

from medvit.geometry import Affine, lps_to_ras

RESCALE_INTERCEPT = -1024
SCOUT = "Scout"
"""SeriesDescription of a localizer."""


@dataclass(frozen=True)
class PhantomPatient:
    """Synthetic patient with one study, determined by `seed`, `number` and `visit`."""

    seed: int
    number: int
    visit: int = 0

    @property
    def patient_id(self) -> str:
        """DICOM PatientID."""
        return f"PHANTOM-{self.seed}-{self.number:03d}"

    @property
    def name(self) -> str:
        """DICOM PatientName."""
        return f"Phantom^{self.number:03d}"

    def uid(self, *parts: object) -> str:
        """Return a DICOM UID for the study or one of its `parts`, derived from the seed and the patient."""
        visit = [f"visit {self.visit}"] if self.visit else []
        return str(generate_uid(entropy_srcs=[str(self.seed), str(self.number), *visit, *map(str, parts)]))


def write_ct_series(
    folder: Path,
    hu: Int16[Array, "i j k"],
    affine: Affine,
    *,
    subject: PhantomPatient,
    orientation: str = "LPS",
    description: str = "Abdomen portal venous",
    number: int = 2,
) -> list[Path]:
    """Write a volume in RAS+ as one CT series; return the files, in the order of the slices.

    `orientation` gives the directions of columns, rows and slices: `"LPS"` is axial, `"LIA"` coronal. File names are
    shuffled, as scanners and archives leave them.
    """
    wanted = nib.orientations.axcodes2ornt(orientation)
    turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), wanted)
    voxels = nib.orientations.apply_orientation(hu, turn)
    matrix = lps_to_ras(affine.matrix @ nib.orientations.inv_ornt_aff(turn, hu.shape))
    names = np.random.default_rng([subject.seed, subject.number, number]).permutation(voxels.shape[2])
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"IM{name:05d}.dcm" for name in names]
    for index, path in enumerate(files):
        dataset = _ct_slice(subject, matrix, index, description=description, number=number)
        _set_pixels(dataset, (voxels[:, :, index].T.astype(np.int32) - RESCALE_INTERCEPT).astype(np.uint16))
        _save(dataset, path)
    return files


def write_localizer(folder: Path, hu: Int16[Array, "i j k"], affine: Affine, *, subject: PhantomPatient) -> Path:
    """Write the scout of a study: one coronal projection, which cannot be part of a volume."""
    flat = hu.astype(np.float64).mean(axis=1, keepdims=True)
    (path,) = write_ct_series(
        folder,
        np.round(flat).astype(np.int16),
        affine,
        subject=subject,
        orientation="LIA",
        description=SCOUT,
        number=1,
    )
    return path


def write_radiograph(
    path: Path, pixels: UInt16[Array, "h w"], *, subject: PhantomPatient, inverted: bool = False
) -> None:
    """Write one 12-bit chest radiograph as a DX image for presentation.

    With `inverted`, the stored values are inverted and the image is MONOCHROME1, as with many detectors.
    """
    dataset = _study(subject, "DX", DigitalXRayImageStorageForPresentation, "CHEST PA", number=1, instance=1)
    dataset.ImageType = ["DERIVED", "PRIMARY", ""]
    dataset.PresentationIntentType = "FOR PRESENTATION"
    dataset.PatientOrientation = ["L", "F"]
    dataset.BodyPartExamined, dataset.ViewPosition, dataset.PositionerType = "CHEST", "PA", ""
    dataset.ImageLaterality = "U"
    dataset.AnatomicRegionSequence = Sequence([_code("43799004", "SCT", "Thorax")])
    dataset.AcquisitionContextSequence = Sequence([])
    dataset.ViewCodeSequence = Sequence([_code("399348003", "SCT", "postero-anterior")])
    dataset.ViewCodeSequence[0].ViewModifierCodeSequence = Sequence([])
    dataset.DetectorType = "SCINTILLATOR"
    dataset.ImagerPixelSpacing = [2.5, 2.5]
    dataset.PixelIntensityRelationship = "LOG"
    dataset.PixelIntensityRelationshipSign = -1
    dataset.PresentationLUTShape = "INVERSE" if inverted else "IDENTITY"
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = 0, 1, "US"
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "00"
    dataset.WindowCenter, dataset.WindowWidth = 2048, 4096
    _set_pixels(dataset, (4095 - pixels if inverted else pixels).astype(np.uint16))
    dataset.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    path.parent.mkdir(parents=True, exist_ok=True)
    _save(dataset, path)


def write_photograph(path: Path, pixels: UInt8[Array, "h w 3"], *, subject: PhantomPatient, side: str) -> None:
    """Write one color photograph of the retina as an Ophthalmic Photography 8 Bit Image (PS3.3 A.41)."""
    number = 1 if side == "right" else 2
    dataset = _study(subject, "OP", OphthalmicPhotography8BitImageStorage, "Fundus", number=number, instance=1)
    dataset.StudyDate = dataset.ContentDate = f"{2020 + subject.visit}0101"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "", "COLOR"]
    dataset.ImageLaterality, dataset.PatientOrientation = side[0].upper(), ["L", "F"]
    dataset.AnatomicRegionSequence = Sequence([_code("5665001", "SCT", "Retina")])
    dataset.RelativeImagePositionCodeSequence = Sequence([_code("111903", "DCM", "Disc-Macula Centered")])
    dataset.AcquisitionContextSequence = Sequence([])
    dataset.AcquisitionDateTime = f"{dataset.ContentDate}120000"
    dataset.SynchronizationFrameOfReferenceUID = subject.uid("clock", side)
    dataset.SynchronizationTrigger, dataset.AcquisitionTimeSynchronized = "NO TRIGGER", "N"
    dataset.DeviceSerialNumber, dataset.SoftwareVersions = "0", "1"
    kind = _code("409898007", "SCT", "Fundus camera")
    dataset.AcquisitionDeviceTypeCodeSequence = Sequence([kind])
    dataset.DetectorType, dataset.PupilDilated, dataset.PatientEyeMovementCommanded = "CMOS", "", ""
    for keyword in ("EmmetropicMagnification", "HorizontalFieldOfView", "IntraOcularPressure"):
        setattr(dataset, keyword, None)
    unknown = ("IlluminationType", "LightPathFilterTypeStack", "ImagePathFilterTypeStack", "Lenses")
    for name in unknown:
        setattr(dataset, f"{name}CodeSequence", Sequence([]))
    dataset.RefractiveStateSequence = Sequence([])
    dataset.BurnedInAnnotation, dataset.LossyImageCompression = "NO", "00"
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.NumberOfFrames, dataset.FrameIncrementPointer, dataset.FrameTime = 1, 0x00181063, 0
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    content = pixels.tobytes()
    dataset.PixelData = content + b"\0" * (len(content) % 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    _save(dataset, path)


def write_tomogram(
    path: Path,
    pixels: UInt8[Array, "frames rows columns"],
    spacing_mm: tuple[float, float, float],
    *,
    subject: PhantomPatient,
    side: str = "right",
    without: tuple[int, ...] = (),
) -> None:
    """Write one OCT volume as a multi-frame Ophthalmic Tomography Image (PS3.3 A.52.4.4).

    `spacing_mm` is the spacing between B-scans, between rows in depth and between columns. B-scans ascend from
    inferior to superior, their columns run to the patient's left and their rows deeper. B-scans whose numbers are in
    `without` are omitted.
    """
    number = 1 if side == "right" else 2
    dataset = _study(subject, "OPT", OphthalmicTomographyImageStorage, "Macula", number=number, instance=1)
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = subject.uid("frame", side), ""
    dataset.ImageLaterality = side[0].upper()
    dataset.AnatomicRegionSequence = Sequence([_code("5665001", "SCT", "Retina")])
    dataset.AcquisitionContextSequence = Sequence([])
    dataset.OphthalmicVolumetricPropertiesFlag = "YES"
    dataset.DeviceSerialNumber, dataset.SoftwareVersions = "0", "1"
    organization = subject.uid("dimensions", side)
    dataset.DimensionOrganizationSequence = Sequence([_item(DimensionOrganizationUID=organization)])
    place = _item(DimensionIndexPointer=0x00200032, FunctionalGroupPointer=0x00209113)
    place.DimensionOrganizationUID = organization
    dataset.DimensionIndexSequence = Sequence([place])
    dataset.BurnedInAnnotation, dataset.LossyImageCompression = "NO", "00"
    dataset.PresentationLUTShape = "IDENTITY"
    _describe_scanner(dataset)
    between, deep, along = spacing_mm
    measures = _item(PixelSpacing=[_decimal(deep), _decimal(along)], SliceThickness=_decimal(between))
    shared = _item(PixelMeasuresSequence=Sequence([measures]))
    shared.PlaneOrientationSequence = Sequence([_item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])])
    anatomy = _item(FrameLaterality=side[0].upper(), AnatomicRegionSequence=dataset.AnatomicRegionSequence)
    shared.FrameAnatomySequence = Sequence([anatomy])
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    kept = [index for index in range(len(pixels)) if index not in without]
    dataset.PerFrameFunctionalGroupsSequence = Sequence([_bscan(index, between) for index in kept])
    dataset.NumberOfFrames, dataset.SamplesPerPixel, dataset.PhotometricInterpretation = len(kept), 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape[1:]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    content = pixels[kept].tobytes()
    dataset.PixelData = content + b"\0" * (len(content) % 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    _save(dataset, path)


def _describe_scanner(dataset: Dataset) -> None:
    """Set the attributes of ophthalmic tomography modules (PS3.3 C.8.17.7 to C.8.17.11); unknown ones are empty."""
    dataset.AcquisitionDateTime, dataset.AcquisitionNumber, dataset.AcquisitionDuration = "20200101120000", 1, 2.0
    dataset.ConcatenationFrameOffsetNumber = 0
    dataset.InConcatenationNumber = dataset.InConcatenationTotalNumber = 1
    kind = _code("392012008", "SCT", "Optical Coherence Tomography Scanner")
    dataset.AcquisitionDeviceTypeCodeSequence = Sequence([kind])
    dataset.DetectorType, dataset.PupilDilated = "CMOS", ""
    unknown = (
        "AxialLengthOfTheEye",
        "EmmetropicMagnification",
        "HorizontalFieldOfView",
        "IntraOcularPressure",
        "OphthalmicAnatomicReferencePointXCoordinate",
        "OphthalmicAnatomicReferencePointYCoordinate",
    )
    for keyword in unknown:
        setattr(dataset, keyword, None)
    dataset.LightPathFilterTypeStackCodeSequence = dataset.RefractiveStateSequence = Sequence([])


def _bscan(index: int, between_mm: float) -> Dataset:
    """Return the functional groups of one B-scan."""
    place = _item(ImagePositionPatient=["0", "0", _decimal(index * between_mm)])
    content = _item(FrameAcquisitionNumber=1, DimensionIndexValues=[index + 1], FrameAcquisitionDuration=10.0)
    content.FrameReferenceDateTime = content.FrameAcquisitionDateTime = "20200101120000"
    return _item(PlanePositionSequence=Sequence([place]), FrameContentSequence=Sequence([content]))


def lose_slice(series: Path) -> None:
    """Remove the middle slice of a series, as a broken transfer does."""
    files = sorted(series.glob("*.dcm"), key=lambda path: int(dcmread(path, stop_before_pixels=True).InstanceNumber))
    files[len(files) // 2].unlink()


def _study(
    subject: PhantomPatient, modality: str, sop_class: str, description: str, *, number: int, instance: int
) -> Dataset:
    """Return the modules every image has: patient, study, series, equipment, image."""
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = subject.uid(modality, number, instance)
    dataset.PatientName, dataset.PatientID = subject.name, subject.patient_id
    dataset.PatientBirthDate, dataset.PatientSex = "", "O"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = subject.uid("study"), subject.uid(modality, number)
    dataset.StudyDate, dataset.StudyTime = "20200101", "120000"
    dataset.StudyID, dataset.AccessionNumber, dataset.ReferringPhysicianName = "1", "", ""
    dataset.SeriesNumber, dataset.InstanceNumber = number, instance
    dataset.SeriesDescription, dataset.Modality = description, modality
    dataset.Manufacturer, dataset.ManufacturerModelName = "medvit", "phantom"
    dataset.ContentDate, dataset.ContentTime = "20200101", "120000"
    return dataset


def _ct_slice(subject: PhantomPatient, matrix_lps: Array, index: int, *, description: str, number: int) -> Dataset:
    dataset = _study(subject, "CT", CTImageStorage, description, number=number, instance=index + 1)
    spacing = np.linalg.norm(matrix_lps[:3, :3], axis=0)
    directions = matrix_lps[:3, :3] / spacing
    position = matrix_lps[:3, 3] + index * matrix_lps[:3, 2]
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER" if description == SCOUT else "AXIAL"]
    dataset.BodyPartExamined = "ABDOMEN"
    dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = subject.uid("frame"), ""
    dataset.PatientPosition = "HFS"
    dataset.ImageOrientationPatient = [_decimal(v) for v in (*directions[:, 0], *directions[:, 1])]
    dataset.ImagePositionPatient = [_decimal(v) for v in position]
    dataset.PixelSpacing = [_decimal(spacing[1]), _decimal(spacing[0])]
    dataset.SliceThickness = _decimal(spacing[2])
    dataset.RescaleIntercept, dataset.RescaleSlope = RESCALE_INTERCEPT, 1
    if description != SCOUT:  # projections have no Hounsfield units
        dataset.RescaleType = "HU"
    dataset.KVP, dataset.AcquisitionNumber = 120, 1
    dataset.WindowCenter, dataset.WindowWidth = 40, 400
    return dataset


def _set_pixels(dataset: Dataset, stored: UInt16[Array, "h w"]) -> None:
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.PixelData = np.ascontiguousarray(stored, dtype="<u2").tobytes()


def _save(dataset: Dataset, path: Path) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(str(path), dataset, file_meta=meta, preamble=b"\0" * 128)
    file.save_as(path, enforce_file_format=True)


def _item(**elements: object) -> Dataset:
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    return _item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def _decimal(value: float) -> str:
    """Return a DICOM decimal string of at most 16 characters."""
    return f"{value:.10f}"[:16]
