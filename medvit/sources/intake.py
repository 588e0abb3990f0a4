"""Studies and series on a server, and the intake that checks received instances and writes them into the spool."""

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
"""Largest file of an instance: 20 times the size of whole slides in use."""
MAX_RESULTS = 2_000_000
"""Maximum results of one search; a server that sends more is treated as endless."""
MAX_STRANGE = 100
"""Number of unrequested instances, beyond the size of the series, after which an answer counts as endless."""

_UID = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,99}")


@dataclass(frozen=True)
class RemoteStudy:
    """Study on a server."""

    uid: str = field(repr=False)
    patient: str = field(default="", repr=False)
    date: str = field(default="", repr=False)
    description: str = field(default="", repr=False)

    def is_meant(self, patient: str, query: Query) -> bool:
        """Return whether the study matches a query and a patient; an empty `patient` matches any.

        Servers may return more than was requested: some ignore the case of a PatientID, or a whole query key. The match
        is therefore checked again here. An attribute that the server did not return counts as a match.
        """
        if patient and self.patient not in ("", patient):
            return False
        since, until = (f"{day:%Y%m%d}" if day else "" for day in (query.since, query.until))
        if self.date and ((since and self.date < since) or (until and self.date > until)):
            return False
        return matches(self.description, query.study_description)


@dataclass(frozen=True)
class RemoteSeries:
    """Series on a server: the sorted SOP Instance UIDs of all its instances, and their SOP classes."""

    study: str = field(repr=False)
    uid: str = field(repr=False)
    instances: tuple[str, ...] = field(repr=False)
    classes: tuple[str, ...] = ()
    patients: frozenset[str] = field(default=frozenset(), repr=False)
    """PatientIDs that the server returned for the study; empty where it returned none, so that any is accepted."""


class Intake:
    """Sink that receives the missing instances of a series, checks them, and gives them file names.

    It is used as a sink of `multipart.split`. Instances that were not requested are dropped.
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
        """Reason why a received instance could not be stored: a full disk, or a limit."""
        self.objection = ""
        """Reason why an instance with a requested UID was rejected."""
        self._num_strange = 0

    def begin(self) -> None:
        """Begin a new instance."""
        self._open = self._spool.part()
        self._part = self._open.__enter__()

    def write(self, content: bytes) -> None:
        """Append bytes to the file of the current instance.

        Raises:
            StoppedError: If the transfer was stopped in the meantime.
        """
        if self._stop.is_set():
            raise StoppedError
        assert self._part is not None, "begin comes first"
        self._part.write(content)
        if self._part.num_bytes > MAX_INSTANCE_GIB * GIB:
            raise SourceError(
                f"the server sends an instance of more than {MAX_INSTANCE_GIB} GiB, larger than any image"
            )

    def end(self) -> None:
        """Complete the current instance.

        Raises:
            CutShortError: If the instance is not a DICOM file, or if too many unrequested instances were sent.
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
                raise CutShortError("the server keeps sending instances that were not requested")
        self.drop()

    def _objection(self, header: SentHeader) -> str:
        """Return an error text if a received instance is of another study, series or patient than requested.

        The instance has the UID of a requested instance. The text is empty if study, series and patient are correct.
        """
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
        return f"the server sent an instance of another {' and '.join(wrong)} under the UID of a requested one"

    def store(self, content: bytes) -> int:
        """Store a complete instance from C-STORE; return the status to answer with (PS3.4 B.2.3)."""
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
        """Discard the current instance, if there is one."""
        if self._open is not None:
            self._open.__exit__(None, None, None)
            self._open = self._part = None

    @contextmanager
    def dropping_halves(self) -> Iterator[Intake]:
        """Return a context that discards the current instance at its end if the instance is incomplete."""
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
    """Return the identifiers of a received file.

    Raises:
        CutShortError: If the file is not DICOM.
    """
    import pydicom

    part.flush()
    tags = ["SpecificCharacterSet", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID"]
    try:
        found = pydicom.dcmread(part.path, specific_tags=list(tags), stop_before_pixels=True)
        return SentHeader(str(found.SOPInstanceUID), *(str(found.get(tag) or "").strip() for tag in tags[2:]))
    except Exception as error:  # any bytes from a server; pydicom's messages quote them
        raise CutShortError(
            f"the server sent something that is not a DICOM instance ({type(error).__name__})"
        ) from None


def file_name(series: RemoteSeries, instance: str) -> PurePosixPath:
    """Return the path of an instance in the spool: `STUDY/SERIES/INSTANCE.dcm`."""
    return PurePosixPath(_component(series.study), _component(series.uid), f"{_component(instance)}.dcm")


def matches(text: str, pattern: str) -> bool:
    """Return whether a text matches a pattern with * and ?, ignoring case.

    An empty pattern matches any text (PS3.4 C.2.2.2.4).
    """
    return not pattern or fnmatch.fnmatchcase(text.casefold(), pattern.casefold().replace("[", "[[]"))


def _component(uid: str) -> str:
    """Return a UID as a file name; a UID that could act as a path is hashed."""
    return uid if _UID.fullmatch(uid) else hashlib.sha256(uid.encode()).hexdigest()
