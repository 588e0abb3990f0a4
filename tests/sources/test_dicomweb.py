"""A dataset made from a DICOMweb server is the one made from the same files; refusals are sentences without secrets."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from medvit.dataset.manifest import Manifest
from medvit.errors import ConfigError, DataError, SourceError
from medvit.sources import RetrieveConfig, fetch, fetch_studies
from pipelines.ingest import IngestConfig, ingest

Tree = Mapping[str, Any]


def ingested(source: str | Path, dataset: Path, retrieve: Tree | None = None, **options: object) -> Manifest:
    tree = {"source": source, "dataset": dataset, "name": "test", "key": dataset.parent / "site.key"}
    off = {"tracking": {"enabled": False}, "retrieve": {"backoff_s": 0.01, **(retrieve or {})}}
    return ingest(IngestConfig.parse({**tree, **off, **options}))


def fetched(source: str, work: Path, **retrieve: object) -> list[str]:
    """Names of the files that were fetched."""
    local = fetch(source, RetrieveConfig.parse({"backoff_s": 0.01, **retrieve}), work=work)
    names = [path.relative_to(local.root).as_posix() for path in local.files]
    assert all(path.is_file() for path in local.files)
    local.discard()
    return names


def names_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.dcm"))


def test_a_dataset_from_a_server_is_the_one_from_the_folder(orthanc: Any, secrets: Tree, studies: Path, tmp_path: Path):
    expected = ingested(studies, tmp_path / "folder")
    manifest = ingested(orthanc.web, tmp_path / "web", {"auth": secrets})
    assert len(manifest) > 1
    assert manifest.hash == expected.hash
    assert (tmp_path / "web/manifest.parquet").read_bytes() == (tmp_path / "folder/manifest.parquet").read_bytes()


def test_what_a_server_gives_again_is_unchanged(
    orthanc: Any, secrets: Tree, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    first = ingested(orthanc.web, tmp_path / "first", {"auth": secrets})
    with caplog.at_level(logging.INFO):
        second = ingested(orthanc.web, tmp_path / "second", {"auth": secrets}, update=tmp_path / "first")
    assert "0 added, 0 changed, 0 removed" in caplog.text
    assert second.hash == first.hash


def test_nothing_that_was_fetched_stays_and_no_secret_is_written(
    orthanc: Any, secrets: Tree, studies: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.DEBUG):
        ingested(orthanc.web, tmp_path / "web", {"auth": secrets})
    files = [path for path in (tmp_path / "web").rglob("*") if path.is_file()]
    written = b"".join(path.read_bytes() for path in files) + caplog.text.encode() + "".join(map(str, files)).encode()
    assert b"s3cret" not in written
    assert b"ARCHIVE_PASSWORD" in (tmp_path / "web/config.yaml").read_bytes()
    identifiers = {part.removesuffix(".dcm") for name in names_in(studies) for part in name.split("/")}
    assert not [uid for uid in identifiers | {"PHANTOM-0-000", "Phantom^"} if uid.encode() in written]
    assert not list((tmp_path / "web").glob(".spool"))
    assert not list((tmp_path / "web").rglob("*.dcm"))


@pytest.mark.parametrize(
    ("query", "num_series"),
    [
        ({}, 5),
        ({"modality": ["DX"]}, 1),
        ({"modality": ["CT"]}, 4),
        ({"modality": ["CT", "DX"]}, 5),
        ({"since": "2021-01-01"}, 2),
        ({"until": "20210101"}, 3),
        ({"since": "2020-01-01", "until": "2020-01-01"}, 3),
        ({"description": "abdomen*"}, 2),
        ({"study_description": "*follow-up"}, 2),
        ({"modality": ["CT"], "description": "*PORTAL*", "since": "2021-01-01"}, 1),
    ],
)
def test_a_query_takes_the_series_it_means(
    orthanc: Any, secrets: Tree, tmp_path: Path, query: Tree, num_series: int
) -> None:
    names = fetched(orthanc.web, tmp_path, query=query, auth=secrets)
    assert len({name.rpartition("/")[0] for name in names}) == num_series


def test_a_list_of_patients_takes_theirs_alone(orthanc: Any, secrets: Tree, tmp_path: Path) -> None:
    (tmp_path / "patients.txt").write_text("PHANTOM-0-001\n\nnobody\n")
    names = fetched(orthanc.web, tmp_path, query={"patients": tmp_path / "patients.txt"}, auth=secrets)
    assert len({name.partition("/")[0] for name in names}) == 1


def test_a_patient_whose_identifier_differs_in_case_is_another(orthanc: Any, secrets: Tree, tmp_path: Path) -> None:
    (tmp_path / "patients.txt").write_text("phantom-0-001")
    with pytest.raises(DataError, match="no series"):
        fetched(orthanc.web, tmp_path, query={"patients": tmp_path / "patients.txt"}, auth=secrets)


def test_a_query_that_means_nothing_says_so(orthanc: Any, secrets: Tree, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no series that match the query"):
        fetched(orthanc.web, tmp_path, query={"modality": ["PT"]}, auth=secrets)


def test_studies_come_one_at_a_time_and_those_done_not_at_all(
    orthanc: Any, secrets: Tree, studies: Path, tmp_path: Path
) -> None:
    done = min(path.name for path in studies.iterdir())
    options = RetrieveConfig.parse({"auth": secrets})
    seen: list[str] = []
    for local in fetch_studies(orthanc.web, options, work=tmp_path, is_done=lambda uid: uid == done):
        (study,) = {path.relative_to(local.root).parts[0] for path in local.files}
        seen.append(study)
        local.discard()
        assert not list(tmp_path.rglob("*.dcm"))
    assert seen == sorted(path.name for path in studies.iterdir() if path.name != done)


def test_a_spool_that_is_kept_serves_the_next_time(
    orthanc: Any, secrets: Tree, studies: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"auth": secrets, "spool": tmp_path / "cache", "keep": True}
    names = fetched(orthanc.web, tmp_path / "a", **options)
    assert names == names_in(studies)
    (folder,) = (tmp_path / "cache").iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    with caplog.at_level(logging.INFO, "medvit"):
        assert fetched(orthanc.web, tmp_path / "b", **options) == names
    assert f"{len(names)} of {len(names)} instances are already here" in caplog.text


def test_a_wrong_password_is_told_without_it(orthanc: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCHIVE_USER", "reader")
    monkeypatch.setenv("ARCHIVE_PASSWORD", "wr0ng")
    auth = {"user_env": "ARCHIVE_USER", "password_env": "ARCHIVE_PASSWORD"}
    with pytest.raises(SourceError, match="refuses our credentials") as caught:
        ingested(orthanc.web, tmp_path / "web", {"auth": auth})
    assert "wr0ng" not in str(caught.value)
    assert not (tmp_path / "web.partial").exists(), "what failed before it began leaves nothing"


def test_a_secret_that_is_not_in_the_environment_is_asked_for(orthanc: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"variable NOT_SET.* is not set"):
        fetched(orthanc.web, tmp_path, auth={"token_env": "NOT_SET"})


def test_a_server_that_does_not_run_or_exist_is_told(tmp_path: Path, unused_port: int) -> None:
    with pytest.raises(SourceError, match=f"127.0.0.1:{unused_port} cannot be reached"):
        fetched(f"http://127.0.0.1:{unused_port}/dicom-web", tmp_path, retries=1)
    with pytest.raises(SourceError, match="cannot be resolved"):
        fetched("https://archive.invalid/dicom-web", tmp_path)


def test_a_wrong_address_on_a_right_server_is_told(orthanc: Any, secrets: Tree, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="the root of its DICOMweb service"):
        fetched(f"http://127.0.0.1:{orthanc.http_port}/elsewhere", tmp_path, auth=secrets)
