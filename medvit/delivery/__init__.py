"""Delivery of results to an archive: checks of the patient, transfer by STOW-RS or C-STORE, and confirmation.

An object is sent only if the archive has its study with the same patient, and never twice: the archive is asked for the
object before and after the transfer. A journal on disk records every step before it is taken, so that an interrupted
delivery can be continued.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

from medvit.config import Amount
from medvit.delivery.identity import StudyIdentity
from medvit.delivery.objects import DicomObject
from medvit.errors import MedvitError
from medvit.sources.options import ConnectionConfig


class ArchiveConfig(ConnectionConfig):
    """Connection to the archive that receives results."""

    GROUP: ClassVar[str] = "archive"

    confirm_s: Amount = 30.0
    """Seconds to wait until the archive lists an object that it has accepted."""


class RefusedError(MedvitError):
    """Object that an archive refuses for good; other objects are not affected."""

    code = "refused"


class ResultArchive(Protocol):
    """Connection to an archive."""

    def study(self, uid: str) -> StudyIdentity | None:
        """Return the identity of a study in the archive; None if the archive has no such study.

        Raises:
            SourceError: If the archive cannot be reached or refuses.
        """

    def has(self, one: DicomObject) -> bool:
        """Return whether the archive has an object.

        Raises:
            SourceError: If the archive cannot be reached or refuses.
        """

    def store(self, one: DicomObject) -> None:
        """Send an object, as it is on disk.

        Raises:
            RefusedError: If the archive refuses this object.
            CutShortError: If the transfer failed, but may succeed when repeated.
            SourceError: If the archive cannot be reached or refuses everything.
        """
