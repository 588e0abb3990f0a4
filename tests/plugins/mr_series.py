"""DICOM series made for a test: small, oblique on wish, with every voxel different."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from medvit.geometry import Affine, lps_to_ras, to_ras
from medvit.readers import find
from medvit.records import Item
from medvit.types import Image

SeriesMaker = Callable[..., tuple[Item, Image]]
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
TILTED = (0.9553364891, 0.2955202067, 0.0, -0.2823212367, 0.9126678074, 0.2955202067)


def slice_header(
    rows: int, columns: int, spacing: tuple[float, float], iop: tuple[float, ...], position: np.ndarray
) -> Dataset:
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.SOPClassUID = header.file_meta.MediaStorageSOPClassUID = MRImageStorage
    header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.Modality = "MR"
    header.PatientID, header.PatientName = "SECRET-7", "Doe^Jane"
    header.PatientBirthDate, header.PatientSex = "19500101", "F"
    header.StudyDate, header.StudyTime, header.StudyID, header.AccessionNumber = "20200102", "101010", "1", ""
    header.ReferringPhysicianName = ""
    header.SeriesNumber, header.InstanceNumber = 3, 1
    header.Rows, header.Columns, header.PixelSpacing = rows, columns, list(spacing)
    header.ImageOrientationPatient = list(iop)
    header.ImagePositionPatient = [round(float(x), 6) for x in position]
    header.SliceThickness = 2.0
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 16, 15, 0
    header.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    return header


@pytest.fixture
def make_series(tmp_path: Path) -> SeriesMaker:
    """Write a series of 6 slices of 8 x 10 pixels, with file names in random order; return its item, and its image in
    RAS+.
    """

    def make(
        *,
        iop: tuple[float, ...] = AXIAL,
        name: str = "series",
        description: str = "T1",
        study: str | None = None,
        without: tuple[str, ...] = (),
        num_slices: int = 6,
    ) -> tuple[Item, Image]:
        rows, columns, spacing, gap = 8, 10, (1.5, 0.8), 2.0
        row, column = np.array(iop[:3]), np.array(iop[3:])
        normal = np.cross(row, column)
        voxels = np.arange(num_slices * rows * columns, dtype=np.uint16).reshape(num_slices, rows, columns)
        study, series, frame = study or generate_uid(), generate_uid(), generate_uid()
        files = []
        for k in range(num_slices):
            header = slice_header(rows, columns, spacing, iop, np.array([-20.0, 30.0, 40.0]) + k * gap * normal)
            header.StudyInstanceUID, header.SeriesInstanceUID, header.FrameOfReferenceUID = study, series, frame
            header.InstanceNumber, header.SeriesDescription = k + 1, description
            header.PixelData = voxels[k].tobytes()
            for keyword in without:
                delattr(header, keyword)
            path = tmp_path / "source" / name / f"{(k * 5 + 2) % 7}.dcm"
            path.parent.mkdir(parents=True, exist_ok=True)
            header.save_as(path, enforce_file_format=True)
            files.append(path)
        (item,) = find(files)
        assert isinstance(item, Item)
        matrix = np.eye(4)
        matrix[:3, :3] = np.stack([row * spacing[1], column * spacing[0], normal * gap], axis=1)
        matrix[:3, 3] = [-20.0, 30.0, 40.0]
        pixels, affine = to_ras(np.transpose(voxels, (2, 1, 0)), Affine(lps_to_ras(matrix)))
        return item, Image(pixels[None], "volume", "MR", affine)

    return make
