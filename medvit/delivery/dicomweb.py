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
from medvit.sources.dicomweb import DicomWeb, connection, first_text
from medvit.sources.failures import CutShortError

FAILED_SOP_SEQUENCE, FAILURE_REASON = "00081198", "00081197"
OUT_OF_RESOURCES = "0xA7"
"""Beginning of the failure reasons that a retry may change (PS3.18 table I.2-2)."""
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
        own = [result for result in found if _value(result, "StudyInstanceUID") == uid]
        return StudyIdentity.common([StudyIdentity({key: _value(one, key) for key in KEYWORDS}) for one in own])

    def has(self, one: DicomObject) -> bool:
        """Return whether the archive has an object."""
        return one.instance_uid in self._server.instance_uids(one.study_uid, one.series_uid)

    def store(self, one: DicomObject) -> None:
        """Send an object, as it is on disk."""
        boundary = secrets.token_hex(16)
        head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        body = head + one.content() + f"\r\n--{boundary}--\r\n".encode()
        kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
        status, answer = self._server.post(f"studies/{one.study_uid}", body, kind, allowed=(CONFLICT, *REFUSING))
        reason = _failure(answer)
        if OUT_OF_RESOURCES in reason:
            raise CutShortError("the archive is out of resources")
        if status == CONFLICT or status in REFUSING or reason:
            raise RefusedError(f"the archive refuses the object (HTTP {status}{reason})")


@contextmanager
def connect(location: str, options: ArchiveConfig) -> Iterator[WebArchive]:
    """Return a context with a connection to the archive of a URL."""
    with connection(location, options) as server:
        yield WebArchive(server)


def _value(result: Mapping[str, Any], keyword: str) -> str:
    from pydicom.datadict import tag_for_keyword

    return first_text(result, f"{tag_for_keyword(keyword):08X}")


def _failure(answer: Mapping[str, Any]) -> str:
    """Return the code of the first failure that an answer lists (PS3.18 10.5.3.3), with words before it, or nothing."""
    failed = answer.get(FAILED_SOP_SEQUENCE, {}).get("Value") or []
    if not failed:
        return ""
    codes = failed[0].get(FAILURE_REASON, {}).get("Value") or [None]
    return f", failure reason 0x{codes[0]:04X}" if isinstance(codes[0], int) else ", without a reason"
