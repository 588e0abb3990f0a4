"""DICOMweb client: QIDO-RS to search, WADO-RS to retrieve (PS3.18 10.6, 10.4).

Searches use dicomweb-client. Retrieval does not, because dicomweb-client keeps each instance in memory, decodes it, and
accepts a truncated body as complete. Instances are streamed into the spool byte for byte, in the transfer syntax in
which the server stores them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from medvit.errors import ConfigError, SourceError
from medvit.sources.failures import CutShortError, NotThereError
from medvit.sources.http import explained, session
from medvit.sources.intake import MAX_RESULTS, Intake, RemoteSeries, RemoteStudy, matches
from medvit.sources.multipart import boundary_of, split
from medvit.sources.options import ConnectionConfig, Query, RetrieveConfig
from medvit.sources.punctual import chunks
from medvit.sources.transfer import ServerSource

if TYPE_CHECKING:
    import requests
    from dicomweb_client.api import DICOMwebClient

PAGE = 1000
"""Number of search results requested at once; a server may return fewer."""
ANY_SYNTAX = 'multipart/related; type="application/dicom"; transfer-syntax=*'
"""Media type that requests instances in the transfer syntax in which the server stores them (PS3.18 8.7.3.5.2)."""

STUDY, SERIES, INSTANCE = "0020000D", "0020000E", "00080018"
PATIENT, DATE, STUDY_DESCRIPTION = "00100020", "00080020", "00081030"
MODALITY, SERIES_DESCRIPTION, SOP_CLASS = "00080060", "0008103E", "00080016"

QidoResult = Mapping[str, Any]


class DicomWeb:
    """Connection to a DICOMweb server."""

    def __init__(self, root: str, http: requests.Session, client: DICOMwebClient, options: ConnectionConfig) -> None:
        self._root, self._http, self._client = root, http, client
        self._timeout_s, self._group = options.timeout_s, options.GROUP

    def studies(self, patient: str, modality: str, query: Query) -> list[RemoteStudy]:
        """Return the studies that match a patient and a modality; an empty argument matches any."""
        asked = {"PatientID": patient, "ModalitiesInStudy": modality, "StudyDate": query.dates()}
        results = self.search_studies(_filters(asked), ["StudyDate", "StudyDescription"])
        studies = (
            RemoteStudy(*(first_text(one, tag) for tag in (STUDY, PATIENT, DATE, STUDY_DESCRIPTION))) for one in results
        )
        return [study for study in studies if study.uid and study.is_meant(patient, query)]

    def search_studies(self, filters: Mapping[str, str], fields: Sequence[str]) -> list[QidoResult]:
        """Return the studies that match filters, as DICOM JSON with at least the attributes `fields`."""
        return self._pages(self._client.search_for_studies, filters=filters, fields=fields)

    def instance_uids(self, study: str, series: str) -> frozenset[str]:
        """Return the UIDs of the instances of a series; empty if the server does not have the series."""
        try:
            results = self._pages(self._client.search_for_instances, study, series)
        except NotThereError:
            return frozenset()
        return frozenset(uid for one in results if (uid := first_text(one, INSTANCE)))

    def post(self, path: str, body: bytes, content_type: str, *, allowed: Collection[int]) -> tuple[int, QidoResult]:
        """Send a body to a resource of the server; return the HTTP status and the answer as DICOM JSON.

        The answer is empty if the server does not answer in JSON.

        Raises:
            CutShortError: If a retry may succeed.
            SourceError: If the server refuses with a status that is not in `allowed`.
        """
        headers = {"Content-Type": content_type, "Accept": "application/dicom+json"}
        with explained(self._root, self._group):
            url = f"{self._root}/{path}"
            with self._http.post(url, data=body, headers=headers, timeout=self._timeout_s) as response:
                if response.status_code not in allowed:
                    response.raise_for_status()
                try:
                    answer = response.json()
                except ValueError:
                    answer = {}
                return response.status_code, answer if isinstance(answer, dict) else {}

    def series(self, study: RemoteStudy, query: Query) -> list[RemoteSeries]:
        """Return the series of a study that match a query, with all their instances."""
        found: dict[str, RemoteSeries] = {}
        for modality in query.modality or ("",):
            results = self._pages(
                self._client.search_for_series,
                study.uid,
                filters=_filters({"Modality": modality}),
                fields=["Modality", "SeriesDescription"],
            )
            for one in results:
                uid, is_of = first_text(one, SERIES), first_text(one, MODALITY) or modality
                is_meant = is_of == (modality or is_of) and matches(
                    first_text(one, SERIES_DESCRIPTION), query.description
                )
                if uid and uid not in found and is_meant:
                    found[uid] = self._with_instances(study, uid)
        return list(found.values())

    def retrieve(self, series: RemoteSeries, missing: Sequence[str], intake: Intake, *, singly: bool) -> None:
        """Stream the missing instances of a series into the intake.

        With `singly`, each instance is requested separately; without it, the whole series may be requested at once.

        Raises:
            CutShortError: If an answer is cut off, or the server is temporarily out of order.
            SourceError: If the server refuses or cannot be reached.
        """
        place = f"{self._root}/studies/{quote(series.study, safe='')}/series/{quote(series.uid, safe='')}"
        if not singly and len(missing) == len(series.instances) > 1:
            try:
                self._stream(place, intake)
                return
            except NotThereError:  # a server may support instances but not whole series
                pass
        num_refused = 0
        for uid in missing:
            try:
                self._stream(f"{place}/instances/{quote(uid, safe='')}", intake)
            except NotThereError:
                num_refused += 1
        if num_refused:
            raise CutShortError("the server lists instances that it does not return (HTTP 404)")

    def _with_instances(self, study: RemoteStudy, series: str) -> RemoteSeries:
        results = self._pages(self._client.search_for_instances, study.uid, series)
        return RemoteSeries(
            study.uid,
            series,
            tuple(sorted({uid for one in results if (uid := first_text(one, INSTANCE))})),
            tuple(sorted({uid for one in results if (uid := first_text(one, SOP_CLASS))})),
        )

    def _pages(
        self,
        search: Callable[..., Sequence[QidoResult]],
        *where: str,
        filters: Mapping[str, str] | None = None,
        fields: Sequence[str] = (),
    ) -> list[QidoResult]:
        """Return all results of a search.

        If a server without paging returns the same page again, the search ends.
        """
        found: dict[str, QidoResult] = {}
        while True:
            with explained(self._root, self._group):
                page = search(
                    *where,
                    search_filters=dict(filters or {}),
                    fields=list(fields) or None,
                    limit=PAGE,
                    offset=len(found),
                )
            before = len(found)
            found |= {_key(one): one for one in page}
            if len(found) == before:
                return list(found.values())
            if len(found) > MAX_RESULTS:
                raise SourceError(
                    f"the server returns more than {MAX_RESULTS} results for one search; narrow the query"
                )

    def _stream(self, url: str, intake: Intake) -> None:
        with explained(self._root, self._group), intake.dropping_halves():
            headers = {"Accept": ANY_SYNTAX}
            with self._http.get(url, headers=headers, stream=True, timeout=self._timeout_s) as response:
                response.raise_for_status()
                content_type = response.headers.get("Content-Type", "")
                boundary = boundary_of(content_type)
                body = chunks(response, self._timeout_s)
                if boundary is not None:
                    split(body, boundary, intake)
                elif (
                    content_type.startswith("application/dicom")
                    and "json" not in content_type
                    and "xml" not in content_type
                ):
                    intake.begin()  # some servers send a single instance without multipart
                    for chunk in body:
                        intake.write(chunk)
                    intake.end()
                else:
                    raise SourceError(
                        "the answer of the server is not DICOM; check that the URL of the source is the root of its "
                        "DICOMweb service"
                    )


@contextmanager
def connect(location: str, options: RetrieveConfig) -> Iterator[DicomWeb]:
    """Connect to the DICOMweb server of a URL."""
    with connection(location, options, options.concurrency) as server:
        yield server


@contextmanager
def connection(location: str, options: ConnectionConfig, num_connections: int = 1) -> Iterator[DicomWeb]:
    """Return a context with a number of connections to the DICOMweb server of a URL.

    Raises:
        ConfigError: If the URL cannot be read, or a certificate or a secret is missing.
    """
    from dicomweb_client.api import DICOMwebClient

    root = location.removeprefix("dicomweb+").rstrip("/")
    with session(root, options, num_connections) as http:
        try:
            client = DICOMwebClient(root, session=http, timeout=options.timeout_s, permissive_uid=True)
        except ValueError:
            raise ConfigError("the URL of the server cannot be read; expected https://HOST:PORT/ROOT") from None
        client.set_http_retry_params(retry=False)  # it would retry some failures; `transfer` retries all transient ones
        yield DicomWeb(root, http, client, options)


def _filters(filters: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in filters.items() if value}


def _key(result: QidoResult) -> str:
    return "/".join(first_text(result, tag) for tag in (STUDY, SERIES, INSTANCE))


def first_text(result: QidoResult, tag: str) -> str:
    """Return the first value of an attribute in the DICOM JSON model (PS3.18 F.2); empty if it is missing."""
    values = result.get(tag, {}).get("Value") or [""]
    return str(values[0] if values[0] is not None else "").strip()


SOURCE = ServerSource("dicomweb", ("https", "http", "dicomweb+https", "dicomweb+http"), connect)
