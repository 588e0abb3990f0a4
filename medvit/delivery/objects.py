"""DICOM objects in a folder of predictions that can be delivered to an archive."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from medvit.artifacts import STATUS
from medvit.delivery.identity import KEYWORDS, StudyIdentity
from medvit.errors import DataError, UnreadableError


@dataclass(frozen=True)
class DicomObject:
    """One DICOM file of a result, identified by its path within the predictions."""

    path: Path = field(repr=False)
    name: str
    """Path within the predictions, such as `s-.../segmentation.dcm` or `s-.../MODEL/segmentation.dcm`."""
    sha256: str
    sop_class: str
    transfer_syntax: str
    study_uid: str = field(repr=False)
    series_uid: str = field(repr=False)
    instance_uid: str = field(repr=False)
    identity: StudyIdentity = field(repr=False)

    def content(self) -> bytes:
        """Return the bytes of the file.

        Raises:
            UnreadableError: If the file was changed or removed since its patient was checked.
        """
        try:
            content = self.path.read_bytes()
        except OSError:
            content = b""
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise UnreadableError("the file has changed since its patient was checked; send it again")
        return content


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


def read_object(path: Path, name: str) -> DicomObject:
    """Return the facts about a DICOM file that its delivery needs; `name` is its path within the predictions.

    Raises:
        UnreadableError: If the file is not DICOM, or lacks a UID.
    """
    import pydicom

    try:
        content = path.read_bytes()
        header = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True)
        study_uid, series_uid = str(header.StudyInstanceUID), str(header.SeriesInstanceUID)
        instance_uid = str(header.SOPInstanceUID)
        sop_class, syntax = str(header.SOPClassUID), str(header.file_meta.TransferSyntaxUID)
    except Exception:  # any content: pydicom raises many kinds of errors
        raise UnreadableError(
            f"{name} cannot be read as a DICOM object with its UIDs; run predict again for this study"
        ) from None
    if not (study_uid and series_uid and instance_uid):
        raise UnreadableError(f"{name} lacks a UID of its study, series or instance; run predict again for this study")
    values = {keyword: str(header.get(keyword) or "") for keyword in KEYWORDS}
    digest = hashlib.sha256(content).hexdigest()
    return DicomObject(
        path, name, digest, sop_class, syntax, study_uid, series_uid, instance_uid, StudyIdentity(values)
    )
