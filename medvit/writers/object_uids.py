"""Derived unique identifiers (UIDs) of DICOM results."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID, uuid5

from medvit.writers.coded_terms import label_of

if TYPE_CHECKING:
    from pydicom import Dataset

NAMESPACE = UUID("6f0c1f5a-4c0e-5e53-9a3e-5d0d7a7f6a11")
"""Namespace of the UUIDs of results (RFC 9562, version 5)."""


class Tracking(NamedTuple):
    """TrackingID and TrackingUID of a finding."""

    name: str
    uid: str


def tracking(header: Dataset, name: str) -> Tracking:
    """Return the identifiers of a class in a study, which are the same in all results for the study."""
    study = digest_of("study", header.StudyInstanceUID, header.get("PatientID", ""))
    return Tracking(label_of(f"{name} {study[:8]}"), uid_of("tracking", study, name))


def uid_of(*parts: str) -> str:
    """Return a UID that is derived from texts: 2.25 and a UUID as an integer (PS3.5 B.2)."""
    return f"2.25.{uuid5(NAMESPACE, digest_of(*parts)).int}"


def digest_of(*parts: str | bytes) -> str:
    """Return the SHA-256 of texts or bytes, with their lengths, so that different lists never give the same digest."""
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode() if isinstance(part, str) else part
        digest.update(len(encoded).to_bytes(8, "big"))
        digest.update(encoded)
    return digest.hexdigest()
