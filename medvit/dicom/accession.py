"""Accession number of an instance, (0008,0050): the identifier that hospital systems give to an examination."""

from __future__ import annotations

from pathlib import Path


def read_accession(path: Path) -> str:
    """Return the AccessionNumber of a file; empty if it has none or the file is not DICOM."""
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    try:
        dataset = dcmread(path, stop_before_pixels=True, specific_tags=["SpecificCharacterSet", "AccessionNumber"])
        return str(dataset.get("AccessionNumber") or "").strip()
    except (InvalidDicomError, OSError, ValueError, KeyError, EOFError):
        return ""
