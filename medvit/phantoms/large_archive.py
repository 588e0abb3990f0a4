"""Archives of very many DICOM instances with very few pixels, for benchmarks of scanning."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from medvit.geometry import Affine
from medvit.phantoms.dicom import PhantomPatient, write_ct_series

ROOT = "1.2.826.0.1.3680043.10.1561"
"""Root of the synthetic UIDs. UIDs in the template end in zeros, which are replaced."""


def write_archive(folder: Path, *, num_series: int, num_slices: int) -> None:
    """Write CT series of 4 x 4 pixels, with a folder and a patient per series.

    All files are copies of one template, in which only the bytes that differ between instances are replaced. Their
    headers are therefore complete, and thousands of files are written per second.
    """
    template = _template(folder)
    for series in range(num_series):
        inside = folder / f"{series // 100:04d}" / f"{series:06d}"
        inside.mkdir(parents=True)
        of_series = _patched(template, "patient", series)
        of_series = _patched(_patched(of_series, "study", series), "series", series)
        for index in range(num_slices):
            of_instance = _patched(of_series, "instance", series * num_slices + index)
            (inside / f"{index:04d}.dcm").write_bytes(_patched(of_instance, "place", index))


def _template(folder: Path) -> bytes:
    from pydicom import dcmread

    (path, *others) = write_ct_series(
        folder, np.zeros((4, 4, 2), np.int16), Affine.from_spacing((1.0, 1.0, 1.0)), subject=PhantomPatient(0, 0)
    )
    dataset = dcmread(path)
    for file in (path, *others):
        file.unlink()
    dataset.PatientID = _text("patient", 0)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = _text("study", 0), _text("series", 0)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = _text("instance", 0)
    dataset.ImagePositionPatient = ["0", "0", _text("place", 0)]
    content = io.BytesIO()
    dataset.save_as(content, enforce_file_format=True)
    return content.getvalue()


def _patched(content: bytes, what: str, number: int) -> bytes:
    return content.replace(_text(what, 0).encode(), _text(what, number).encode())


def _text(what: str, number: int) -> str:
    """Return an identifier, or a position in mm, as text; all texts of the same kind have equal length."""
    if what == "patient":
        return f"PHANTOM-{number:08d}"
    if what == "place":
        return f"{number:08d}.125"
    return f"{ROOT}.{('study', 'series', 'instance').index(what) + 1}.1{number:08d}"
