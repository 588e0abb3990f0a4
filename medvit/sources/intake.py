"""What a server holds, and the door through which its instances come into the spool."""

from __future__ import annotations

import fnmatch
import hashlib
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import NamedTuple

from medvit.errors import SourceError
from medvit.sources.failures import CutShortError, StoppedError
from medvit.sources.options import Query
from medvit.sources.spool import GIB, Spool, SpooledFile

SUCCESS, OUT_OF_RESOURCES, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xC000

MAX_INSTANCE_GIB = 64
"""Largest file of an instance: a whole slide at 20 times the size of those in use."""
MAX_RESULTS = 2_000_000
"""Results of one search; a server that goes on has no end."""
MAX_STRANGE = 100
"""Instances that nobody asked for, above the number of those of the series, until an answer counts as endless."""

_UID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,99}")


@dataclass(frozen=True)
class RemoteStudy:
    """A study of a server."""

    uid: str = field(repr=False)
    patient: str = field(default="", repr=False)
    date: str = field(default="", repr=False)
    description: str = field(default="", repr=False)

    def is_meant(self, patient: str, query: Query) -> bool:
        """Whether a query for a patient, or for any where that is empty, means it, as far as the server has said.

        Servers differ in what they match themselves: some ignore the case of a PatientID, or a key altogether.
        """
        if patient and self.patient not in ("", patient):
            return False
        since, until = (f"{day:%Y%m%d}" if day else "" for day in (query.since, query.until))
        if self.date and ((since and self.date < since) or (until and self.date > until)):
            return False
        return matches(self.description, query.study_description)


@dataclass(frozen=True)
class RemoteSeries:
    """A series of a server: SOP Instance UIDs of all its instances, sorted, and their SOP classes."""

    study: str = field(repr=False)
    uid: str = field(repr=False)
    instances: tuple[str, ...] = field(repr=False)
    classes: tuple[str, ...] = ()
    patients: frozenset[str] = field(default=frozenset(), repr=False)
    """PatientIDs that the server gave for the study; empty where it gave none, so that any is taken."""


class Intake:
    """Takes the missing instances of a series, checks that each is one, and names it.

    A sink of `multipart.split`. What was not asked for is dropped.
    """

    def __init__(
        self,
        spool: Spool,
        series: RemoteSeries,
        missing: Sequence[str],
        stop: threading.Event,
        arrived: Callable[[int], object],
    ) -> None:
        self._spool, self._series, self._missing = spool, series, set(missing)
        self._stop, self._arrived = stop, arrived
        self._open: AbstractContextManager[SpooledFile] | None = None
        self._part: SpooledFile | None = None
        self.failure: Exception | None = None
        """Why an instance could not be kept that a server has sent: a full disk, or a limit."""
        self.objection = ""
        """What was wrong with an instance that came under the UID of one that was asked for, and was not kept."""
        self._num_strange = 0

    def begin(self) -> None:
        """An instance begins."""
        self._open = self._spool.part()
        self._part = self._open.__enter__()

    def write(self, content: bytes) -> None:
        """More of its file.

        Raises:
            StoppedError: If all stop meanwhile.
        """
        if self._stop.is_set():
            raise StoppedError
        assert self._part is not None, "begin comes first"
        self._part.write(content)
        if self._part.num_bytes > MAX_INSTANCE_GIB * GIB:
            raise SourceError(f"the server sends an instance of more than {MAX_INSTANCE_GIB} GiB, as no image has")

    def end(self) -> None:
        """It is whole.

        Raises:
            CutShortError: If it is no DICOM file, or too many came that were not asked for.
        """
        assert self._part is not None, "begin comes first"
        header = header_of(self._part)
        if header.instance in self._missing:
            objection = self._objection(header)
            self.objection = self.objection or objection
            if not objection:
                self._part.keep(file_name(self._series, header.instance))
                self._missing.discard(header.instance)
                self._arrived(1)
        elif header.instance not in self._series.instances:
            self._num_strange += 1
            if self._num_strange > MAX_STRANGE + len(self._series.instances):
                raise CutShortError("the server sends instances without end that were not asked for")
        self.drop()

    def _objection(self, header: SentHeader) -> str:
        """Why an instance under the UID of one that was asked for is not that one; empty where it is."""
        wrong = [
            what
            for what, found, expected in (
                ("study", header.study, {self._series.study}),
                ("series", header.series, {self._series.uid}),
                ("patient", header.patient, self._series.patients or {header.patient}),
            )
            if found not in expected
        ]
        if not wrong:
            return ""
        return f"the server sent an instance of another {' and '.join(wrong)} under the UID of one that was asked for"

    def store(self, content: bytes) -> int:
        """Takes a whole instance as C-STORE gives it; the status to answer with (PS3.4 B.2.3)."""
        try:
            with self.dropping_halves():
                self.begin()
                self.write(content)
                self.end()
        except CutShortError:
            return CANNOT_UNDERSTAND
        except (StoppedError, SourceError, OSError) as error:
            self.failure = self.failure or error
            return OUT_OF_RESOURCES
        return SUCCESS

    def drop(self) -> None:
        """Forgets the instance that was begun, if any."""
        if self._open is not None:
            self._open.__exit__(None, None, None)
            self._open = self._part = None

    @contextmanager
    def dropping_halves(self) -> Iterator[Intake]:
        """Forgets at the end what was begun and is not whole."""
        try:
            yield self
        finally:
            self.drop()


class SentHeader(NamedTuple):
    """Identifiers of an instance that a server has sent."""

    instance: str
    series: str
    study: str
    patient: str


def header_of(part: SpooledFile) -> SentHeader:
    """The identifiers of the file that was written.

    Raises:
        CutShortError: If it is not a DICOM file.
    """
    import pydicom

    part.flush()
    tags = ["SpecificCharacterSet", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID"]
    try:
        found = pydicom.dcmread(part.path, specific_tags=list(tags), stop_before_pixels=True)
        return SentHeader(str(found.SOPInstanceUID), *(str(found.get(tag) or "").strip() for tag in tags[2:]))
    except Exception as error:  # whatever a server sends; pydicom's texts quote it
        raise CutShortError(f"the server sent something that is no DICOM instance ({type(error).__name__})") from None


def file_name(series: RemoteSeries, instance: str) -> PurePosixPath:
    """Where an instance lies in the spool: `STUDY/SERIES/INSTANCE.dcm`."""
    return PurePosixPath(_component(series.study), _component(series.uid), f"{_component(instance)}.dcm")


def matches(text: str, pattern: str) -> bool:
    """Whether a text is what a pattern with * and ? means, in any case; an empty one means any (PS3.4 C.2.2.2.4)."""
    return not pattern or fnmatch.fnmatchcase(text.casefold(), pattern.casefold().replace("[", "[[]"))


def _component(uid: str) -> str:
    """A UID as the name of a file; what a server calls a UID and could be a path is hashed."""
    return uid if _UID.fullmatch(uid) else hashlib.sha256(uid.encode()).hexdigest()
