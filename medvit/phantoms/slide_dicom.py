"""Phantom slides as DICOM: VL Whole Slide Microscopy Image (PS3.3 A.32.8), a file per level, and a label with names."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray as Array
from PIL import Image
from pydicom import FileDataset
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit, VLWholeSlideMicroscopyImageStorage

from medvit.phantoms.dicom import PhantomPatient
from medvit.phantoms.slide import MPP, QUALITY, TILE, levels

LABEL_SHAPE = (128, 256)
WHITE_LIGHT = ("414298005", "SCT", "Full Spectrum")
BRIGHTFIELD = ("111744", "DCM", "Brightfield illumination")


def write_dicom_slide(
    folder: Path, pixels: UInt8[Array, "h w 3"], *, subject: PhantomPatient, mpp: float = MPP
) -> list[Path]:
    """Write a slide as a series: its levels, finest first, then its label; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, level in enumerate(levels(pixels)):
        flavor = ("ORIGINAL" if number == 0 else "DERIVED", "PRIMARY", "VOLUME", "NONE" if number == 0 else "RESAMPLED")
        extent_mm = tuple(side * mpp / 1000 for side in pixels.shape[:2])
        dataset = _image(level, subject, number, flavor, (extent_mm[0], extent_mm[1]))
        files.append(_save(dataset, folder / f"level-{number}.dcm"))
    label = np.full((*LABEL_SHAPE, 3), 255, np.uint8)
    label[40:88:8, 20:236] = 0
    dataset = _image(label, subject, 99, ("ORIGINAL", "PRIMARY", "LABEL", "NONE"), (25.0, 25.0))
    dataset.SpecimenLabelInImage, dataset.BurnedInAnnotation = "YES", "YES"
    dataset.BarcodeValue, dataset.LabelText = subject.patient_id, subject.name
    files.append(_save(dataset, folder / "label.dcm"))
    return files


def _image(
    pixels: UInt8[Array, "h w 3"],
    subject: PhantomPatient,
    number: int,
    flavor: tuple[str, str, str, str],
    extent_mm: tuple[float, float],
) -> Dataset:
    dataset = _of_subject(subject, number)
    height, width = pixels.shape[:2]
    dataset.ImageType = list(flavor)
    dataset.ImagedVolumeHeight, dataset.ImagedVolumeWidth, dataset.ImagedVolumeDepth = (*extent_mm, 0.001)
    dataset.TotalPixelMatrixRows, dataset.TotalPixelMatrixColumns = height, width
    dataset.TotalPixelMatrixFocalPlanes, dataset.NumberOfOpticalPaths = 1, 1
    dataset.Rows = dataset.Columns = TILE
    frames = _frames(pixels)
    dataset.NumberOfFrames = len(frames)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "YBR_FULL_422", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.LossyImageCompression, dataset.LossyImageCompressionMethod = "01", "ISO_10918_1"
    dataset.LossyImageCompressionRatio = round(3 * TILE**2 * len(frames) / sum(map(len, frames)), 2)
    _add_place(dataset, extent_mm, (height, width))
    dataset.PixelData = encapsulate(frames)
    dataset["PixelData"].is_undefined_length = True
    return dataset


def _of_subject(subject: PhantomPatient, number: int) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID = VLWholeSlideMicroscopyImageStorage
    dataset.SOPInstanceUID = subject.uid("slide", number)
    dataset.PatientID, dataset.PatientName = subject.patient_id, subject.name
    dataset.PatientBirthDate, dataset.PatientSex = "", ""
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = subject.uid("study"), subject.uid("slides")
    dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = subject.uid("frame"), "SLIDE_CORNER"
    dataset.StudyID, dataset.AccessionNumber, dataset.ReferringPhysicianName = "1", "", ""
    dataset.StudyDate, dataset.StudyTime = "20240102", "101500"
    dataset.ContentDate, dataset.ContentTime, dataset.AcquisitionDateTime = "20240102", "101500", "20240102101500"
    dataset.Modality, dataset.SeriesNumber, dataset.InstanceNumber = "SM", 1, number + 1
    dataset.Manufacturer, dataset.ManufacturerModelName = "Phantom", "Slide"
    dataset.DeviceSerialNumber, dataset.SoftwareVersions = "1", "1"
    dataset.ContainerIdentifier, dataset.IssuerOfTheContainerIdentifierSequence = "SLIDE-1", []
    dataset.ContainerTypeCodeSequence = [_code("433466003", "SCT", "Microscope slide")]
    specimen = Dataset()
    specimen.SpecimenIdentifier, specimen.SpecimenUID = "SPECIMEN-1", subject.uid("specimen")
    specimen.IssuerOfTheSpecimenIdentifierSequence, specimen.SpecimenPreparationSequence = [], []
    dataset.SpecimenDescriptionSequence = [specimen]
    dataset.AcquisitionContextSequence = []
    return dataset


def _add_place(dataset: Dataset, extent_mm: tuple[float, float], shape: tuple[int, int]) -> None:
    measures, shared, path, origin = Dataset(), Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = [_decimal(mm / side) for mm, side in zip(extent_mm, shape, strict=True)]
    measures.SliceThickness, measures.SpacingBetweenSlices = "0.001", "0.001"
    shared.PixelMeasuresSequence = [measures]
    frame_type, path_used = Dataset(), Dataset()
    frame_type.FrameType = dataset.ImageType
    path_used.OpticalPathIdentifier = "1"
    shared.WholeSlideMicroscopyImageFrameTypeSequence = [frame_type]
    shared.OpticalPathIdentificationSequence = [path_used]
    dataset.SharedFunctionalGroupsSequence = [shared]
    organization = Dataset()
    organization.DimensionOrganizationUID = f"{dataset.SeriesInstanceUID}.1"[:64]
    dataset.DimensionOrganizationType, dataset.DimensionOrganizationSequence = "TILED_FULL", [organization]
    dataset.ImageOrientationSlide = [0, -1, 0, -1, 0, 0]
    origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem = 20, 40
    dataset.TotalPixelMatrixOriginSequence = [origin]
    path.OpticalPathIdentifier = "1"
    path.IlluminationTypeCodeSequence, path.IlluminationColorCodeSequence = [_code(*BRIGHTFIELD)], [_code(*WHITE_LIGHT)]
    path.ICCProfile = _profile()
    dataset.OpticalPathSequence = [path]
    dataset.VolumetricProperties, dataset.FocusMethod, dataset.ExtendedDepthOfField = "VOLUME", "AUTO", "NO"
    dataset.SpecimenLabelInImage, dataset.BurnedInAnnotation = "NO", "NO"


def _profile() -> bytes:
    """Return the sRGB color profile, without its creation time (bytes 24 to 35), which differs between calls."""
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile[:24] + bytes(12) + profile[36:] + bytes(len(profile) % 2)


def _frames(pixels: UInt8[Array, "h w 3"]) -> list[bytes]:
    rows, columns = (math.ceil(side / TILE) for side in pixels.shape[:2])
    padding = [(0, rows * TILE - pixels.shape[0]), (0, columns * TILE - pixels.shape[1]), (0, 0)]
    whole = np.pad(pixels, padding, mode="edge")
    tiles = whole.reshape(rows, TILE, columns, TILE, 3).swapaxes(1, 2).reshape(-1, TILE, TILE, 3)
    return [_jpeg(tile) for tile in tiles]


def _jpeg(tile: UInt8[Array, "h w 3"]) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(tile)).save(content, "JPEG", quality=QUALITY, subsampling="4:2:2")
    return content.getvalue()


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _decimal(value: float) -> str:
    return f"{value:.12f}"[:16]


def _save(dataset: Dataset, path: Path) -> Path:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    meta.TransferSyntaxUID = JPEGBaseline8Bit
    FileDataset(str(path), dataset, file_meta=meta, preamble=b"\0" * 128).save_as(path, enforce_file_format=True)
    return path
