"""Delivery of objects to an archive: check of the patient, transfer with retries, and confirmation."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from medvit.delivery import ArchiveConfig, RefusedError, ResultArchive
from medvit.delivery.journal import DELIVERED, DeliveryJournal, DeliveryState, DeliveryStep
from medvit.delivery.objects import DicomObject
from medvit.sources.failures import CutShortError, UnreachableError
from medvit.sources.transfer import pause, persist

log = logging.getLogger("medvit")

POLL_S = 0.5
"""Seconds between two questions whether the archive lists an object."""

STUDY_MISSING, IDENTITY_DIFFERS, NOT_LISTED = "study_missing", "identity_differs", "not_listed"
"""Codes of the reasons why an object was not delivered."""


@dataclass(frozen=True)
class Delivery:
    """Delivery of objects to an archive, recorded in a journal."""

    archive: ResultArchive
    options: ArchiveConfig
    journal: DeliveryJournal
    only_check: bool = False
    """Whether patients are checked and nothing is sent."""
    _stop: threading.Event = field(default_factory=threading.Event, repr=False)

    def deliver(self, objects: Sequence[DicomObject]) -> None:
        """Deliver the objects of one study; an object that is refused does not stop the others.

        Raises:
            SourceError: If the archive cannot be reached, or refuses access.
        """
        for one in objects:
            last = self.journal.last(one.name)
            is_known = last is not None and last.sha256 == one.sha256
            if last is not None and is_known and last.state in DELIVERED:
                continue
            code, reason = self._obstacle(one)
            if code:
                self._note(one, "held", code, reason)
            elif self._has(one):
                was_sent = last is not None and is_known and last.state in ("sending", "sent", "failed")
                self._note(one, "confirmed" if was_sent else "present")
            elif self.only_check:
                self._note(one, "checked")
            else:
                self._send(one)

    def _obstacle(self, one: DicomObject) -> tuple[str, str]:
        """Return the code and the reason why an object must not be sent; both are empty if it may be sent."""
        found = persist(partial(self.archive.study, one.study_uid), self.options, self._stop)
        if found is None:
            return STUDY_MISSING, "the archive does not have the study, which may have been merged or deleted"
        different = one.identity.differences(found)
        if different:
            what = ", ".join(different)
            return IDENTITY_DIFFERS, f"attributes of the study in the archive differ ({what}); predict the study again"
        skipped = one.identity.not_compared(found)
        if skipped:
            log.debug("send: the archive does not return %s, so it is not compared", ", ".join(skipped))
        return "", ""

    def _send(self, one: DicomObject) -> None:
        try:
            self._transfer(one)
        except UnreachableError:
            raise
        except (RefusedError, CutShortError) as error:
            self._note(one, "failed", error.code, str(error))
            return
        self._note(one, "sent")
        if self._is_listed(one):
            self._note(one, "confirmed")
        else:
            reason = f"the archive accepted the object, but did not list it within {self.options.confirm_s:g} s"
            self._note(one, "failed", NOT_LISTED, f"{reason}; ask its administrator, then send again")

    def _transfer(self, one: DicomObject) -> None:
        """Send an object, with retries.

        Raises:
            RefusedError: If the archive refuses the object.
            CutShortError: If all attempts failed.
        """
        for attempt in range(1, self.options.retries + 2):
            self._note(one, "sending", attempt=attempt)
            try:
                self.archive.store(one)
                return
            except CutShortError:
                # The archive may have stored the object before the connection was lost.
                if self._has(one):
                    return
                if attempt > self.options.retries:
                    raise
            pause(self.options, attempt, self._stop)

    def _is_listed(self, one: DicomObject) -> bool:
        deadline = time.monotonic() + self.options.confirm_s
        while not self._has(one):
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_S)
        return True

    def _has(self, one: DicomObject) -> bool:
        return persist(partial(self.archive.has, one), self.options, self._stop)

    def _note(self, one: DicomObject, state: DeliveryState, code: str = "", reason: str = "", attempt: int = 0) -> None:
        self.journal.add(DeliveryStep(one.name, one.sha256, state, code, reason, attempt))
