"""Delivery of objects to an archive: check of the patient, transfer with retries, and confirmation."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from medvit.delivery import ArchiveConfig, RefusedError, ResultArchive
from medvit.delivery.identity import StudyIdentity
from medvit.delivery.journal import DELIVERED, DeliveryJournal, DeliveryState, DeliveryStep
from medvit.delivery.objects import DicomObject
from medvit.errors import UnreadableError
from medvit.sources.failures import CutShortError, UnreachableError
from medvit.sources.transfer import pause, persist

log = logging.getLogger("medvit")

POLL_S = 0.5
"""Seconds between two questions whether the archive lists an object."""

STUDY_MISSING, IDENTITY_DIFFERS, NOT_LISTED = "study_missing", "identity_differs", "not_listed"
INTERRUPTED = "interrupted"
"""Codes of the reasons why an object was not delivered."""
INTERRUPTION = "the connection was lost or the archive was busy in every attempt; it may have the object: send it again"
"""Reason of a failure, without the address of the archive, which is not recorded."""
UNSURE = frozenset(("sending", "sent", NOT_LISTED, INTERRUPTED))
"""States and codes of objects that the archive may have, although it did not list them."""


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
        """Deliver the objects of one study; an object that fails does not stop the others.

        Raises:
            SourceError: If the archive cannot be reached, or refuses access.
        """
        known: dict[str, StudyIdentity | None] = {}
        for one in objects:
            last = self.journal.last(one.name)
            is_known = last is not None and last.sha256 == one.sha256
            if last is not None and is_known and last.state in DELIVERED:
                continue
            was_sent = last is not None and is_known and not UNSURE.isdisjoint((last.state, last.code))
            try:
                self._deliver(one, known, was_sent=was_sent)
            except UnreachableError:
                raise
            except (RefusedError, UnreadableError) as error:
                self._note(one, "failed", error.code, str(error))
            except CutShortError:
                self._note(one, "failed", INTERRUPTED, INTERRUPTION)

    def _deliver(self, one: DicomObject, known: dict[str, StudyIdentity | None], *, was_sent: bool) -> None:
        """Check the patient, and send an object unless the archive has it.

        `known` are the studies that the archive was asked for; the study of the object is added. If a transfer has
        begun before (`was_sent`), the archive may list the object only after a while.

        Raises:
            RefusedError: If the archive refuses the object.
            UnreadableError: If the file changed meanwhile.
            CutShortError: If all attempts failed.
        """
        if one.study_uid not in known:
            known[one.study_uid] = persist(partial(self.archive.study, one.study_uid), self.options, self._stop)
        code, reason = _obstacle(one, known[one.study_uid])
        if code:
            self._note(one, "held", code, reason)
        elif self._is_listed(one) if was_sent else self._has(one):
            self._note(one, "confirmed" if was_sent else "present")
        elif self.only_check:
            self._note(one, "checked")
        else:
            self._send(one)

    def _send(self, one: DicomObject) -> None:
        attempt = self._transfer(one)
        self._note(one, "sent", attempt=attempt)
        if self._is_listed(one):
            self._note(one, "confirmed", attempt=attempt)
        else:
            reason = f"the archive accepted the object, but did not list it within {self.options.confirm_s:g} s"
            self._note(one, "failed", NOT_LISTED, f"{reason}; ask its administrator, then send again", attempt)

    def _transfer(self, one: DicomObject) -> int:
        """Send an object, with retries; return the number of attempts.

        Raises:
            RefusedError: If the archive refuses the object.
            UnreadableError: If the file changed meanwhile.
            CutShortError: If all attempts failed.
        """
        attempt = 1
        while True:
            self._note(one, "sending", attempt=attempt)
            try:
                self.archive.store(one)
                return attempt
            except CutShortError:
                # The archive may have stored the object before the connection was lost, and may list it later.
                if self._is_listed(one):
                    return attempt
                if attempt > self.options.retries:
                    raise
            pause(self.options, attempt, self._stop)
            attempt += 1

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


def _obstacle(one: DicomObject, found: StudyIdentity | None) -> tuple[str, str]:
    """Return the code and the reason why an object must not be sent; both are empty if it may be sent.

    `found` is the identity of its study in the archive; None if the archive does not have the study.
    """
    if found is None:
        return STUDY_MISSING, "the archive does not have the study, which may have been merged or deleted"
    different = one.identity.differences(found)
    if different:
        what = ", ".join(different)
        return IDENTITY_DIFFERS, f"attributes of the study in the archive differ ({what}); predict the study again"
    skipped = one.identity.not_compared(found)
    if skipped:
        log.debug("send: %s are not compared, because only the archive or only the result has them", ", ".join(skipped))
    return "", ""
