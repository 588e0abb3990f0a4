"""Tiny DICOM series for the tests of the readers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

SliceWriter = Callable[..., Path]


@pytest.fixture
def write_slice(tmp_path: Path) -> SliceWriter:
    """Write one CT slice; keywords are DICOM keywords, a value of None removes an element."""
    series = generate_uid()

    def write(
        pixels: np.ndarray, *, position: tuple[float, float, float] | None = (0.0, 0.0, 0.0), name: str = "", **elements
    ) -> Path:
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.MediaStorageSOPClassUID = elements.get("SOPClassUID") or CTImageStorage
        path = tmp_path / (name or f"{meta.MediaStorageSOPInstanceUID}.dcm")
        dataset = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
        bits = 8 * pixels.dtype.itemsize
        tags = {
            "SOPClassUID": CTImageStorage,
            "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
            "PatientID": "SECRET-1",
            "PatientName": "Secret^Name",
            "StudyInstanceUID": "1.2.3.4",
            "SeriesInstanceUID": series,
            "SeriesDescription": "thin axial",
            "Modality": "CT",
            "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
            "ImagePositionPatient": None if position is None else list(position),
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            "PixelSpacing": [0.5, 0.75],
            "Rows": pixels.shape[0],
            "Columns": pixels.shape[1],
            "SamplesPerPixel": 1 if pixels.ndim == 2 else 3,
            "PhotometricInterpretation": "MONOCHROME2" if pixels.ndim == 2 else "RGB",
            "BitsAllocated": bits,
            "BitsStored": bits,
            "HighBit": bits - 1,
            "PixelRepresentation": int(np.issubdtype(pixels.dtype, np.signedinteger)),
            "RescaleSlope": 1,
            "RescaleIntercept": -1024,
        } | elements
        if pixels.ndim == 3:
            dataset.PlanarConfiguration = 0
        for keyword, value in tags.items():
            if value is not None:
                setattr(dataset, keyword, value)
        dataset.PixelData = pixels.tobytes()
        pydicom.dcmwrite(path, dataset)
        return path

    return write


@pytest.fixture
def write_series(write_slice: SliceWriter) -> Callable[..., tuple[list[Path], np.ndarray]]:
    """Writes slices along their normal under shuffled names; gives files in slice order and their voxels (k, j, i)."""

    def write(
        *, places_mm: tuple[float, ...] = (0, 1, 2, 3, 4), dtype: type = np.int16, **elements
    ) -> tuple[list[Path], np.ndarray]:
        generator = np.random.default_rng(0)
        voxels = generator.integers(0, 100, (len(places_mm), 4, 6)).astype(dtype)
        directions = np.array(elements.get("ImageOrientationPatient", [1, 0, 0, 0, 1, 0]), dtype=float).reshape(2, 3)
        normal = np.cross(*directions)
        names = generator.permutation(len(places_mm))
        files = [
            write_slice(
                voxels[n],
                position=tuple(np.array([-10.0, -20.0, -30.0]) + place * normal),
                name=f"{names[n]:03d}.dcm",
                **elements,
            )
            for n, place in enumerate(places_mm)
        ]
        return files, voxels

    return write
