"""DICOM objects in a folder of predictions that can be delivered to an archive."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from medvit.artifacts import STATUS
from medvit.delivery.identity import KEYWORDS, StudyIdentity
from medvit.errors import DataError, UnreadableError


@dataclass(frozen=True)
class DicomObject:
    """One DICOM file of a result, identified by its folder (pseudonym of the study) and its name."""

    path: Path = field(repr=False)
    study: str
    sha256: str
    sop_class: str
    transfer_syntax: str
    study_uid: str = field(repr=False)
    series_uid: str = field(repr=False)
    instance_uid: str = field(repr=False)
    identity: StudyIdentity = field(repr=False)

    @property
    def name(self) -> str:
        """Return the name of the object within the predictions: `s-.../segmentation.dcm`."""
        return f"{self.study}/{self.path.name}"


def dicom_files(predictions: Path) -> dict[str, list[Path]]:
    """Return the DICOM files of each study of a folder of predictions that is marked as done, sorted by name.

    Raises:
        DataError: If the folder does not contain predictions.
    """
    path = predictions / STATUS
    try:
        with path.open(encoding="utf-8", newline="") as file:
            done = sorted(line["study"] for line in csv.DictReader(file) if line["status"] == "done")
    except OSError:
        raise DataError(
            f"{predictions} is not a folder of predictions: no {STATUS} in it; give the output of predict"
        ) from None
    except (UnicodeDecodeError, csv.Error, KeyError, TypeError):
        raise DataError(f"{path} is damaged and cannot be read; run predict again") from None
    return {study: sorted(_files(predictions / study)) for study in done}


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*.dcm") if path.is_file())


def read_object(path: Path, study: str) -> DicomObject:
    """Return the facts about a DICOM file that its delivery needs.

    Raises:
        UnreadableError: If the file is not DICOM, or lacks an identifier.
    """
    import pydicom

    try:
        content = path.read_bytes()
        header = pydicom.dcmread(path, stop_before_pixels=True)
        study_uid, series_uid = str(header.StudyInstanceUID), str(header.SeriesInstanceUID)
        instance_uid = str(header.SOPInstanceUID)
        sop_class, syntax = str(header.SOPClassUID), str(header.file_meta.TransferSyntaxUID)
    except Exception:  # any content: pydicom raises many kinds of errors
        raise UnreadableError(
            f"{study}/{path.name} cannot be read as a DICOM object with its UIDs; run predict again for this study"
        ) from None
    values = {keyword: str(header.get(keyword) or "") for keyword in KEYWORDS}
    digest = hashlib.sha256(content).hexdigest()
    return DicomObject(
        path, study, digest, sop_class, syntax, study_uid, series_uid, instance_uid, StudyIdentity(values)
    )
