"""A dataset made over DICOM is the one made from the same files; refusals are sentences."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless
from pynetdicom import AE
from pynetdicom.sop_class import CTImageStorage

from medvit.errors import ConfigError, SourceError
from medvit.sources import RetrieveConfig, fetch
from medvit.sources.associations import Peer
from medvit.sources.receiver import NOT_ASKED_FOR, Receiver
from pipelines.ingest import IngestConfig, ingest


def fetched(server: Any, work: Path, pacs: Mapping[str, object] | None = None, **options: object) -> dict[str, bytes]:
    reach = {"port": server.receiver_port, **(pacs or {})}
    tree = {"backoff_s": 0.01, "timeout_s": 10.0, "pacs": reach, **options}
    local = fetch(server.pacs, RetrieveConfig.parse(tree), work=work)
    return {path.relative_to(local.root).as_posix(): path.read_bytes() for path in local.files}


@pytest.mark.parametrize("method", ["move", "get"])
def test_a_dataset_over_dicom_is_the_one_from_the_folder(
    orthanc: Any, studies: Path, tmp_path: Path, method: str
) -> None:
    made = []
    for source in (orthanc.pacs, studies):
        tree = {"source": source, "dataset": tmp_path / str(len(made)), "name": "test", "key": tmp_path / "site.key"}
        retrieve = {"pacs": {"port": orthanc.receiver_port, "method": method}}
        made.append(ingest(IngestConfig.parse({**tree, "tracking": {"enabled": False}, "retrieve": retrieve})).hash)
    assert made[0] == made[1]
    assert not list((tmp_path / "0").rglob("*.dcm"))


@pytest.mark.parametrize(
    ("query", "num_series"),
    [
        ({"modality": ["DX"]}, 1),
        ({"modality": ["CT"], "description": "abdomen*"}, 2),
        ({"since": "2021-01-01"}, 2),
        ({"study_description": "*follow-up"}, 2),
    ],
)
def test_a_query_takes_the_series_it_means(orthanc: Any, tmp_path: Path, query: Any, num_series: int) -> None:
    names = fetched(orthanc, tmp_path, query=query)
    assert len({name.rpartition("/")[0] for name in names}) == num_series


def test_a_series_that_lost_a_slice_on_the_way_gets_it_singly(orthanc: Any, tmp_path: Path) -> None:
    query = {"modality": ["CT"], "description": "abdomen*", "since": "2021-01-01"}
    whole = fetched(orthanc, tmp_path, query=query)
    lost = sorted((tmp_path / ".spool").rglob("*.dcm"))[5]
    others = {path: path.stat().st_ino for path in (tmp_path / ".spool").rglob("*.dcm") if path != lost}
    lost.unlink()
    assert fetched(orthanc, tmp_path, query=query) == whole
    assert {path: path.stat().st_ino for path in others} == others


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, RLELossless])
def test_c_get_brings_what_the_server_holds_compressed(
    make_orthanc: Callable[..., Any], studies: Path, tmp_path: Path, syntax: str
) -> None:
    series = max((file.parent for file in studies.rglob("*.dcm")), key=lambda folder: len(list(folder.iterdir())))
    for number, file in enumerate(sorted(series.iterdir())[:3]):
        dataset = dcmread(file)
        if number:  # beside one that is not
            dataset.compress(syntax, generate_instance_uid=False)
        dataset.save_as(tmp_path / f"{number}.dcm")
    server = make_orthanc().upload(sorted(tmp_path.glob("*.dcm")))
    there = fetched(server, tmp_path / "work", {"method": "get"})
    assert len(there) == 3
    assert sum(dcmread(BytesIO(content)).file_meta.TransferSyntaxUID == syntax for content in there.values()) == 2


def test_a_title_that_the_server_does_not_know_is_told(orthanc: Any, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not know the title STRANGER"):
        fetched(orthanc, tmp_path, {"aet": "STRANGER"})


def test_a_title_to_which_the_server_cannot_send_is_told(
    make_orthanc: Callable[..., Any], studies: Path, tmp_path: Path
):
    server = make_orthanc(DicomAlwaysAllowFind=True, DicomAlwaysAllowMove=True, DicomModalities={})
    server.upload(sorted(studies.rglob("*.dcm"))[:1])
    with pytest.raises(SourceError, match=f"have the title registered there .* port {server.receiver_port}"):
        fetched(server, tmp_path, retries=0)


def test_a_server_by_another_title_is_told(orthanc: Any, tmp_path: Path) -> None:
    options = RetrieveConfig.parse({"pacs": {"port": orthanc.receiver_port}})
    with pytest.raises(SourceError, match="has a different title itself"):
        fetch(f"pacs://OTHER@127.0.0.1:{orthanc.dicom_port}", options, work=tmp_path)


def test_a_server_that_does_not_run_or_exist_or_speak_dicom_is_told(tmp_path: Path, unused_port: int) -> None:
    quick = RetrieveConfig.parse({"retries": 0, "timeout_s": 1.0, "pacs": {"port": 0}})
    with pytest.raises(SourceError, match="cannot be reached"):
        fetch(f"pacs://ARCHIVE@127.0.0.1:{unused_port}", quick, work=tmp_path)
    with pytest.raises(SourceError, match="cannot be resolved"):
        fetch("pacs://ARCHIVE@archive.invalid", quick, work=tmp_path)
    with pytest.raises(ConfigError, match="pacs://AET@HOST:PORT"):
        fetch("pacs://127.0.0.1:104", quick, work=tmp_path)
    with (
        socket.create_server(("127.0.0.1", 0)) as mute,
        pytest.raises(SourceError, match="check that it is a DICOM server"),
    ):
        fetch(f"pacs://ARCHIVE@127.0.0.1:{mute.getsockname()[1]}", quick, work=tmp_path)


def test_a_port_that_is_taken_is_told(orthanc: Any, tmp_path: Path) -> None:
    sentence = r"cannot listen on port.*retrieve\.pacs\.port"
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError, match=sentence):
        fetched(orthanc, tmp_path, {"port": taken.getsockname()[1]})


def test_a_stranger_who_sends_something_is_refused(orthanc: Any, studies: Path) -> None:
    options = RetrieveConfig.parse({"pacs": {"port": 0}})
    peer = Peer("ARCHIVE", "127.0.0.1", orthanc.dicom_port, options)
    with Receiver.listening(peer, options) as receiver:
        stranger = AE()
        stranger.add_requested_context(CTImageStorage)
        association = stranger.associate("127.0.0.1", receiver.port, ae_title="MEDVIT")
        slices = max((list(series.iterdir()) for series in studies.glob("*/*")), key=len)
        status = association.send_c_store(slices[0])
        association.release()
        assert status.Status == NOT_ASKED_FOR
        elsewhere = stranger.associate("127.0.0.1", receiver.port, ae_title="ANOTHER")
        assert elsewhere.is_rejected


def test_a_connection_over_tls_wants_a_trusted_certificate(
    make_orthanc: Callable[..., Any], certificates: Any, studies: Path, tmp_path: Path
) -> None:
    server = make_orthanc(
        DicomTlsEnabled=True,
        DicomTlsCertificate=str(certificates.cert),
        DicomTlsPrivateKey=str(certificates.key),
        DicomTlsTrustedCertificates=str(certificates.ca),
    ).upload(sorted(studies.rglob("*.dcm"))[:2])
    location = server.pacs.replace("pacs://", "pacs+tls://")
    tls = {"ca": certificates.ca, "cert": certificates.cert, "key": certificates.key}
    tree = {"timeout_s": 10.0, "retries": 0, "pacs": {"method": "get"}}
    with pytest.raises(SourceError, match=r"not trusted.*retrieve\.tls\.ca"):
        fetch(location, RetrieveConfig.parse(tree), work=tmp_path)
    assert len(fetch(location, RetrieveConfig.parse({**tree, "tls": tls}), work=tmp_path).files) == 2
