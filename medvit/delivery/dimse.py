"""Archive with DICOM messages: C-FIND to ask, C-STORE to store (PS3.4 B, C)."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

from medvit.delivery import ArchiveConfig, RefusedError
from medvit.delivery.identity import KEYWORDS, StudyIdentity
from medvit.delivery.objects import DicomObject
from medvit.sources.associations import Peer, associated, checked
from medvit.sources.failures import CutShortError, NotOfferedError
from medvit.sources.pacs import VERIFICATION, find, peer_of

WARNINGS = (0xB000, 0xB006, 0xB007)
"""Statuses of C-STORE with which an object was stored (PS3.4 B.2.3)."""
REFUSALS = (0x0110, 0x0117, 0x0122, 0x0124, 0x0210, 0x0211, 0x0212)
"""Failures of C-STORE that a retry does not change (PS3.7 9.1.1.1.9)."""


class DimseArchive:
    """Archive with DICOM messages; one association per request."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def study(self, uid: str) -> StudyIdentity | None:
        """Return the identity of a study in the archive; None if the archive has no such study."""
        found = find(self._peer, "STUDY", StudyInstanceUID=uid, **dict.fromkeys(KEYWORDS, ""))
        own = [result for result in found if str(result.get("StudyInstanceUID")) == uid]
        return StudyIdentity.common([StudyIdentity({key: str(one.get(key) or "") for key in KEYWORDS}) for one in own])

    def has(self, one: DicomObject) -> bool:
        """Return whether the archive has an object."""
        keys = {"StudyInstanceUID": one.study_uid, "SeriesInstanceUID": one.series_uid}
        found = find(self._peer, "IMAGE", **keys, SOPInstanceUID=one.instance_uid)
        return any(str(result.get("SOPInstanceUID")) == one.instance_uid for result in found)

    def store(self, one: DicomObject) -> None:
        """Send an object, in the transfer syntax in which it is on disk."""
        import pydicom
        from pynetdicom import build_context

        dataset = pydicom.dcmread(io.BytesIO(one.content()))

        # An association without any accepted context would be aborted, as if the archive did not answer.
        contexts = [build_context(one.sop_class, one.transfer_syntax), build_context(VERIFICATION)]
        try:
            with associated(self._peer, contexts) as association:
                status = association.send_c_store(dataset)
        except NotOfferedError:
            raise RefusedError("the archive does not accept this kind of object in its transfer syntax") from None
        except RuntimeError:  # the association ended before the request
            raise CutShortError("the archive ended the connection") from None
        if status and _is_final(int(status.Status)):
            raise RefusedError(f"the archive refuses the object (status 0x{int(status.Status):04X})")
        checked(status, self._peer, "C-STORE", allowed=WARNINGS)


@contextmanager
def connect(location: str, options: ArchiveConfig) -> Iterator[DimseArchive]:
    """Return a context with a connection to the archive of a URL."""
    peer = peer_of(location, options)
    peer.check()
    yield DimseArchive(peer)


def _is_final(code: int) -> bool:
    return code in REFUSALS or 0xA900 <= code <= 0xA9FF or 0xC000 <= code <= 0xCFFF
