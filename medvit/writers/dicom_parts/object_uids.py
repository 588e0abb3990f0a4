"""Unique identifiers (UIDs) of DICOM results, derived from the inputs of a result.

The same source instances, model, settings and version give the same UIDs; if anything differs, the UIDs do. An archive
that receives a result twice therefore stores one object. The two differ only in their times and in the run that made
them. An object must not change under its UID, so the first one is kept: a finished study is not predicted again, and
archives keep the object that they have, unless they are configured to overwrite it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID, uuid5

from numpy import ndarray as Array

from medvit.files.digests import digest_of_array, digest_of_parts
from medvit.writers import WriterContext
from medvit.writers.dicom_parts.coded_terms import label_of
from medvit.writers.dicom_parts.source_instances import COPIED_TAGS, Sources

if TYPE_CHECKING:
    from pydicom import Dataset

NAMESPACE = UUID("6f0c1f5a-4c0e-5e53-9a3e-5d0d7a7f6a11")
"""Namespace of the UUIDs of results (RFC 9562, version 5)."""
VERSION = 2
"""Version of the DICOM writers: increase it if they write the same result in another way."""


class Tracking(NamedTuple):
    """TrackingID and TrackingUID of a finding."""

    name: str
    uid: str


@dataclass(frozen=True)
class ObjectUids:
    """UIDs of one object, derived from the digest of its inputs and results."""

    digest: str

    @property
    def series(self) -> str:
        """SeriesInstanceUID; each object has a series of its own."""
        return self.of("series")

    @property
    def instance(self) -> str:
        """SOPInstanceUID."""
        return self.of("instance")

    def of(self, *parts: str) -> str:
        """Return the UID of a part of the object, such as a group of annotations."""
        return uid_of(self.digest, *parts)


def object_uids(kind: str, context: WriterContext, sources: Sources, pixels_sha256: str, *results: Array) -> ObjectUids:
    """Return the UIDs of an object of a kind, such as segmentation, with the given results.

    The digest contains the identifiers and pixels of the source, its patient and study, the hash and name of the model,
    the settings, codes and version, and the results, because a GPU may compute them differently the next time.
    """
    maker = context.maker
    parts: list[str | bytes] = [str(VERSION), kind, maker.version, maker.model_sha256, maker.name, maker.settings]
    parts += [str(maker.series_number), context.item.part, pixels_sha256]
    parts += [f"{name}={code}" for name, code in sorted(context.codes.items())]
    parts += [_identity(sources.headers[0]), *(str(header.SOPInstanceUID) for header in sources.headers)]
    parts += [str(frame) for frame in sources.frames]
    return ObjectUids(digest_of_parts(*parts, *map(digest_of_array, results)))


def tracking(header: Dataset, name: str) -> Tracking:
    """Return the identifiers of a class in a study, which are the same in all results for the study."""
    study = digest_of_parts("study", header.StudyInstanceUID, header.get("PatientID", ""))
    return Tracking(label_of(f"{name} {study[:8]}"), uid_of("tracking", study, name))


def uid_of(*parts: str) -> str:
    """Return a UID that is derived from texts: 2.25 and a UUID as an integer (PS3.5 B.2)."""
    return f"2.25.{uuid5(NAMESPACE, digest_of_parts(*parts)).int}"


def _identity(header: Dataset) -> str:
    """Return the elements of a header that a result copies: patient, study, series and frame of reference."""
    chosen = [tag for tag in header.keys() if tag.group == 0x0010 or tag in COPIED_TAGS]  # noqa: SIM118 (raw tags)
    uids = (header.get(key, "") for key in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"))
    return "\n".join([*(f"{tag} {header[tag].value}" for tag in sorted(chosen)), *map(str, uids)])
