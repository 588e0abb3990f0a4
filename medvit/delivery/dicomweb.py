"""Archive with DICOMweb: QIDO-RS to ask, STOW-RS to store (PS3.18 10.6, 10.5).

Not `store_instances` of dicomweb-client, because it encodes every object again; the bytes on disk are sent instead.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from medvit.delivery import ArchiveConfig, RefusedError
from medvit.delivery.identity import KEYWORDS, StudyIdentity
from medvit.delivery.objects import DicomObject
from medvit.sources.dicomweb import DicomWeb, connection

FAILED_SOP_SEQUENCE, FAILURE_REASON = "00081198", "00081197"
CONFLICT = 409
"""HTTP status if no object was stored (PS3.18 table 10.5.3-1)."""
REFUSING = (400, 413, 415, 422)
"""Other HTTP statuses that concern only the object that was sent."""


class WebArchive:
    """Archive with DICOMweb."""

    def __init__(self, server: DicomWeb) -> None:
        self._server = server

    def study(self, uid: str) -> StudyIdentity | None:
        """Return the identity of a study in the archive; None if the archive has no such study."""
        found = self._server.search_studies({"StudyInstanceUID": uid}, KEYWORDS)
        return StudyIdentity({key: _value(found[0], key) for key in KEYWORDS}) if found else None

    def has(self, one: DicomObject) -> bool:
        """Return whether the archive has an object."""
        return one.instance_uid in self._server.instance_uids(one.study_uid, one.series_uid)

    def store(self, one: DicomObject) -> None:
        """Send an object, as it is on disk."""
        boundary = secrets.token_hex(16)
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        body = head + one.path.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
        kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
        status, answer = self._server.post(f"studies/{one.study_uid}", body, kind, allowed=(CONFLICT, *REFUSING))
        reason = _failure(answer)
        if status == CONFLICT or status in REFUSING or reason:
            raise RefusedError(f"the archive refuses the object (HTTP {status}{reason})")


@contextmanager
def connect(location: str, options: ArchiveConfig) -> Iterator[WebArchive]:
    """Return a context with a connection to the archive of a URL."""
    with connection(location, options) as server:
        yield WebArchive(server)


def _value(result: Mapping[str, Any], keyword: str) -> str:
    from pydicom.datadict import tag_for_keyword

    values = result.get(f"{tag_for_keyword(keyword):08X}", {}).get("Value") or [""]
    return str(values[0] if values[0] is not None else "")


def _failure(answer: Mapping[str, Any]) -> str:
    """Return the code of the first failure that an answer lists (PS3.18 10.5.3.3), with words before it, or nothing."""
    failed = answer.get(FAILED_SOP_SEQUENCE, {}).get("Value") or []
    if not failed:
        return ""
    codes = failed[0].get(FAILURE_REASON, {}).get("Value") or [None]
    return f", failure reason 0x{int(codes[0]):04X}" if codes[0] is not None else ", without a reason"
