"""DICOM server client (PS3.4 C): C-FIND to search; C-MOVE with a receiver on this machine, or C-GET, to retrieve.

The URL is `pacs://AET@HOST:PORT`, or `pacs+tls://...` for an encrypted connection (PS3.15 B), where AET is the
application entity title of the server.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from pydantic import TypeAdapter, ValidationError

from medvit.errors import ConfigError, SourceError
from medvit.sources.associations import PENDING, Peer, associated, checked
from medvit.sources.failures import CutShortError
from medvit.sources.intake import MAX_RESULTS, Intake, RemoteSeries, RemoteStudy, matches
from medvit.sources.options import Aet, ConnectionConfig, Query, RetrieveConfig
from medvit.sources.receiver import Receiver
from medvit.sources.transfer import ServerSource

if TYPE_CHECKING:
    from pydicom import Dataset
    from pynetdicom.presentation import PresentationContext

FIND = "1.2.840.10008.5.1.4.1.2.2.1"
MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
GET = "1.2.840.10008.5.1.4.1.2.2.3"
"""UIDs of the Study Root information models of C-FIND, C-MOVE and C-GET (PS3.4 C.6.2)."""
CANNOT_SEND = (0xA702, 0xA801, 0xC000)
"""Statuses of C-MOVE to a title that the server does not know or cannot reach (PS3.4 C.4.2.1.5)."""
VERIFICATION = "1.2.840.10008.1.1"
"""SOP class that every DICOM server accepts (PS3.4 A)."""
OTHER_METHOD = "; try another retrieve.pacs.method"
"""Advice if the server does not offer C-MOVE or C-GET."""
SINGLE = 50
"""Maximum number of instances named in one request; some servers refuse more."""
DEFAULT_PORT = 104
MAX_CONTEXTS = 127
"""Presentation contexts of one association in addition to the one for the query (PS3.8 9.3.2.2)."""

COMPRESSED = (
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.81",
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.57",
    "1.2.840.10008.1.2.5",
    "1.2.840.10008.1.2.4.201",
    "1.2.840.10008.1.2.4.202",
    "1.2.840.10008.1.2.4.203",
)
"""Compressed transfer syntaxes of images (PS3.5 A.4), most common first."""


class Pacs:
    """Associations with a DICOM server, one per request."""

    def __init__(self, peer: Peer, options: RetrieveConfig, receiver: Receiver | None) -> None:
        self._peer, self._options, self._receiver = peer, options, receiver

    def studies(self, patient: str, modality: str, query: Query) -> list[RemoteStudy]:
        """Return the studies that match a patient and a modality; an empty argument matches any."""
        results = find(
            self._peer,
            "STUDY",
            StudyInstanceUID="",
            PatientID=patient,
            ModalitiesInStudy=modality,
            StudyDate=query.dates(),
            StudyDescription="",
        )
        keywords = ("StudyInstanceUID", "PatientID", "StudyDate", "StudyDescription")
        studies = (RemoteStudy(*(_text(result, keyword) for keyword in keywords)) for result in results)
        return [study for study in studies if study.uid and study.is_meant(patient, query)]

    def series(self, study: RemoteStudy, query: Query) -> list[RemoteSeries]:
        """Return the series of a study that match a query, with all their instances."""
        results = find(
            self._peer, "SERIES", StudyInstanceUID=study.uid, SeriesInstanceUID="", Modality="", SeriesDescription=""
        )
        return [
            self._with_instances(study, _text(result, "SeriesInstanceUID"))
            for result in results
            if (not query.modality or _text(result, "Modality") in query.modality)
            and matches(_text(result, "SeriesDescription"), query.description)
        ]

    def retrieve(self, series: RemoteSeries, missing: Sequence[str], intake: Intake, *, singly: bool) -> None:
        """Request the missing instances of a series from the server, which sends them to the intake.

        With `singly`, each instance is requested separately.

        Raises:
            CutShortError: If the connection is lost, or some instances were not received.
            SourceError: If the server refuses.
        """
        requests = [{"SeriesInstanceUID": series.uid}]
        if singly or len(missing) < len(series.instances):
            groups = [missing[start : start + SINGLE] for start in range(0, len(missing), SINGLE)]
            requests = [{"SeriesInstanceUID": series.uid, "SOPInstanceUID": "\\".join(group)} for group in groups]
        for request in requests:
            level = "IMAGE" if "SOPInstanceUID" in request else "SERIES"
            asked = _dataset(level, StudyInstanceUID=series.study, **request)
            if self._receiver is None:
                self._get(asked, series, intake)
            else:
                self._move(asked, series, intake, self._receiver)

    def _with_instances(self, study: RemoteStudy, series: str) -> RemoteSeries:
        results = find(
            self._peer, "IMAGE", StudyInstanceUID=study.uid, SeriesInstanceUID=series, SOPInstanceUID="", SOPClassUID=""
        )
        return RemoteSeries(
            study.uid,
            series,
            tuple(sorted({uid for result in results if (uid := _text(result, "SOPInstanceUID"))})),
            tuple(sorted({uid for result in results if (uid := _text(result, "SOPClassUID"))})),
        )

    def _move(self, asked: Dataset, series: RemoteSeries, intake: Intake, receiver: Receiver) -> None:
        with (
            receiver.expecting(series, intake),
            associated(self._peer, [_context(MOVE)], advice=OTHER_METHOD) as association,
        ):
            for status, _ in association.send_c_move(asked, self._options.pacs.aet, MOVE):
                code = checked(status, self._peer, "C-MOVE", allowed=CANNOT_SEND)
                if code in CANNOT_SEND:
                    raise CutShortError(
                        f"{self._peer} cannot send to the title {self._options.pacs.aet} of this machine (status "
                        f"0x{code:04X}); have the title registered there with the address of this machine and port "
                        f"{receiver.port}, or set retrieve.pacs"
                    )

    def _get(self, asked: Dataset, series: RemoteSeries, intake: Intake) -> None:
        from pynetdicom import build_role, evt

        contexts = _storage_contexts(series.classes)
        classes = dict.fromkeys(context.abstract_syntax for context in contexts)
        roles = [build_role(uid, scp_role=True) for uid in classes]
        lock = threading.Lock()

        def store(event: Any) -> int:
            with lock:
                return intake.store(event.encoded_dataset())

        handlers = [(evt.EVT_C_STORE, store)]
        with associated(self._peer, [_context(GET), *contexts], roles, handlers, advice=OTHER_METHOD) as association:
            for status, _ in association.send_c_get(asked, GET):
                checked(status, self._peer, "C-GET")


@contextmanager
def connect(location: str, options: RetrieveConfig) -> Iterator[Pacs]:
    """Connect to the DICOM server of a URL, with a receiver."""
    peer = peer_of(location, options)
    peer.check()
    with ExitStack() as stack:
        receiver = None
        if options.pacs.method == "move":
            receiver = stack.enter_context(Receiver.listening(peer, options))
        yield Pacs(peer, options, receiver)


def peer_of(location: str, options: ConnectionConfig) -> Peer:
    """Return the DICOM server that a URL names, with its title, host and port.

    Raises:
        ConfigError: If the URL has no title, or a certificate cannot be read.
    """
    parts = urlsplit(location)
    try:
        aet = TypeAdapter(Aet).validate_python(unquote(parts.username or ""))
    except ValidationError:
        raise ConfigError(
            "the URL has no application entity title (1 to 16 characters); expected pacs://AET@HOST:PORT"
        ) from None
    assert parts.hostname is not None, "checked when the config was parsed"
    is_encrypted = parts.scheme.lower().endswith("+tls")
    return Peer(aet, parts.hostname, parts.port or DEFAULT_PORT, options, is_encrypted=is_encrypted)


def find(peer: Peer, level: str, **keys: str) -> list[Dataset]:
    """Return what a server finds at a level (STUDY, SERIES, IMAGE) for the keys of a query (C-FIND).

    Raises:
        CutShortError: If the server closes the connection.
        SourceError: If the server refuses, or returns too many results.
    """
    found: list[Dataset] = []
    with associated(peer, [_context(FIND)]) as association:
        for status, result in association.send_c_find(_dataset(level, **keys), FIND):
            if not status and not found:
                options = peer.options
                raise CutShortError(
                    f"{peer} closes the connection on a request, which often means that it does not know the title "
                    f"{options.pacs.aet} of this machine; check {options.GROUP}.pacs.aet with its administrator"
                )
            if checked(status, peer, "a search") in PENDING and result is not None:
                found.append(result)
                if len(found) > MAX_RESULTS:
                    raise SourceError(f"{peer} returns more than {MAX_RESULTS} results for one search")
    return found


def echo(peer: Peer) -> None:
    """Check that a server answers (C-ECHO).

    Raises:
        SourceError: If it cannot be reached, or does not accept this machine.
    """
    with associated(peer, [_context(VERIFICATION)]) as association:
        checked(association.send_c_echo(), peer, "C-ECHO")


def _context(model: str) -> PresentationContext:
    from pynetdicom import build_context

    return build_context(model)


def _storage_contexts(classes: Sequence[str]) -> list[PresentationContext]:
    """Return presentation contexts for the SOP classes of a series.

    If `classes` is empty, because the server did not return them, the contexts are for all image classes.

    Each class has one context for uncompressed syntaxes, one for each compressed image syntax, and one for all other
    syntaxes, such as video. A server accepts one syntax per context. It sends instances stored in that syntax as they
    are, and may compress other instances again.
    """
    from pynetdicom import ALL_TRANSFER_SYNTAXES, DEFAULT_TRANSFER_SYNTAXES, StoragePresentationContexts, build_context

    if not classes:
        usual = [context.abstract_syntax for context in StoragePresentationContexts]
        return [build_context(uid, ALL_TRANSFER_SYNTAXES) for uid in usual[:MAX_CONTEXTS]]
    rest = [syntax for syntax in ALL_TRANSFER_SYNTAXES if syntax not in (*DEFAULT_TRANSFER_SYNTAXES, *COMPRESSED)]
    offers = [DEFAULT_TRANSFER_SYNTAXES, rest, *([syntax] for syntax in COMPRESSED)]
    return [build_context(uid, syntaxes) for syntaxes in offers for uid in classes][:MAX_CONTEXTS]


def _dataset(level: str, **keys: str) -> Dataset:
    from pydicom import Dataset

    asked = Dataset()
    if not all(text.isascii() for text in keys.values()):
        asked.SpecificCharacterSet = "ISO_IR 192"
    asked.QueryRetrieveLevel = level
    for keyword, text in keys.items():
        setattr(asked, keyword, text)
    return asked


def _text(result: Dataset, keyword: str) -> str:
    return str(result.get(keyword) or "").strip()


SOURCE = ServerSource("pacs", ("pacs", "pacs+tls"), connect)
