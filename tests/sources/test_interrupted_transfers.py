"""Disturbed transfers: they give the same files, or fail with one sentence and then give the same files."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from medvit.errors import ConfigError, SourceError
from medvit.sources import RetrieveConfig, fetch
from pipelines.ingest import IngestConfig, ingest
from tests.processes.forked import forked_command

pytestmark = pytest.mark.usefixtures("token")


@pytest.fixture
def faults(make_faults: Callable[..., Any]) -> Any:
    return make_faults()


def options(**others: object) -> dict[str, object]:
    return {"auth": {"token_env": "ARCHIVE_TOKEN"}, "backoff_s": 0.01, "timeout_s": 10.0, **others}


def contents(faults: Any, work: Path, **others: object) -> dict[str, bytes]:
    local = fetch(faults.url, RetrieveConfig.parse(options(**others)), work=work)
    return {path.relative_to(local.root).as_posix(): path.read_bytes() for path in local.files}


@pytest.mark.parametrize("fault", ["half", "drop", "busy", "silent"])
def test_what_breaks_off_is_fetched_again_and_whole(faults: Any, tmp_path: Path, fault: str) -> None:
    expected = contents(faults, tmp_path / "smooth")
    # Each silence is waited for until the timeout.
    every, timeout_s = (12, 0.5) if fault == "silent" else (3, 10.0)
    faults.plan = lambda number, path: fault if number % every == 1 else ""
    faults.num_retrievals = 0
    assert contents(faults, tmp_path / "rough", timeout_s=timeout_s) == expected


def test_what_came_before_a_break_is_not_fetched_again(faults: Any, tmp_path: Path) -> None:
    faults.plan = lambda number, path: "" if "/instances/" in path else "half"
    contents(faults, tmp_path, query={"description": "abdomen*"})
    whole = [path for path in faults.requested if "/instances/" not in path]
    single = [path for path in faults.requested if "/instances/" in path]
    assert len(whole) == 2
    assert 24 < len(single) < 40, "about half of the 64 slices"
    assert max(faults.requested.values()) == 1


def test_a_server_that_never_sends_all_ends_in_a_sentence_and_resume_in_the_same_files(
    faults: Any, studies: Path, tmp_path: Path
) -> None:
    faults.plan = lambda number, path: "drop"
    with pytest.raises(SourceError, match=r"instances of \d of 5 series were not received.*resume=true") as caught:
        contents(faults, tmp_path, retries=1)
    assert not any(part in str(caught.value) for path in studies.rglob("*.dcm") for part in (path.stem, "t0ken"))
    faults.plan = lambda number, path: ""
    assert sorted(contents(faults, tmp_path)) == sorted(
        path.relative_to(studies).as_posix() for path in studies.rglob("*.dcm")
    )


def test_an_incomplete_series_may_be_left_out_whole_and_is_reported(faults: Any, studies: Path, tmp_path: Path) -> None:
    lost = max(studies.glob("*/*"), key=lambda folder: len(list(folder.iterdir())))
    gone = {f"/{lost.name}", f"/{min(lost.iterdir()).stem}"}
    faults.plan = lambda number, path: "gone" if path.endswith(tuple(gone)) else ""
    local = fetch(
        faults.url,
        RetrieveConfig.parse(options(concurrency=1, retries=0, incomplete="quarantine")),
        work=tmp_path,
    )
    (refusal,) = local.refusals
    assert refusal.code == "incomplete"
    assert "instances were not received" in refusal.reason
    assert "1 of 32" in refusal.reason
    assert {path.parent.name for path in refusal.files} == {lost.name}
    assert lost.name not in {path.parent.name for path in local.files}
    assert len({path.parent for path in local.files}) == 4


def test_a_page_to_log_in_is_no_image_and_says_so(faults: Any, tmp_path: Path) -> None:
    faults.plan = lambda number, path: "html"
    with pytest.raises(SourceError, match="answer of the server is not DICOM"):
        contents(faults, tmp_path)


def test_without_the_token_nothing_is_given(faults: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCHIVE_TOKEN", "expired")
    with pytest.raises(SourceError, match="refuses our credentials"):
        contents(faults, tmp_path)


def test_a_certificate_of_an_own_authority_is_trusted_once_it_is_given(
    make_faults: Callable[..., Any], certificates: Any, tmp_path: Path
) -> None:
    faults = make_faults(certificate=certificates.both)
    with pytest.raises(SourceError, match=r"untrusted.*retrieve\.tls\.ca"):
        contents(faults, tmp_path)
    assert contents(faults, tmp_path, tls={"ca": certificates.ca}, query={"modality": ["DX"]})
    with pytest.raises(ConfigError, match=r"retrieve\.tls\.ca cannot be read"):
        contents(faults, tmp_path, tls={"ca": tmp_path / "none.pem"})


def test_a_server_killed_midway_costs_a_resume_and_nothing_else(
    make_orthanc: Callable[..., Any], make_faults: Callable[..., Any], studies: Path, tmp_path: Path
) -> None:
    server = make_orthanc().upload(sorted(studies.rglob("*.dcm")))
    faults = make_faults(server)
    faults.plan = lambda number, path: "drop" if number == 2 else ""
    faults.on_half = server.kill

    def config(source: str | Path, name: str, **others: object) -> IngestConfig:
        tree = {"source": source, "dataset": tmp_path / name, "name": "test", "key": tmp_path / "site.key"}
        retrieve = options(concurrency=1, retries=1)
        return IngestConfig.parse({**tree, "tracking": {"enabled": False}, "retrieve": retrieve, **others})

    with pytest.raises(SourceError):
        ingest(config(faults.url, "web"))
    spooled = list((tmp_path / "web.partial").rglob("*.dcm"))
    assert 0 < len(spooled) < len(list(studies.rglob("*.dcm")))
    server.start()
    manifest = ingest(config(faults.url, "web", resume=True))
    assert manifest.hash == ingest(config(studies, "folder")).hash
    assert not list((tmp_path / "web").rglob("*.dcm"))


def test_a_fetch_that_is_killed_goes_on_where_it_was(
    make_faults: Callable[..., Any], studies: Path, tmp_path: Path
) -> None:
    faults = make_faults()
    faults.plan = lambda number, path: "silent" if number > 2 else ""
    words = [f"source={faults.url}", f"dataset={tmp_path / 'web'}", f"key={tmp_path / 'site.key'}", "name=test"]
    words += ["tracking.enabled=false", "retrieve.auth.token_env=ARCHIVE_TOKEN", "retrieve.concurrency=1"]
    with forked_command("ingest", *words) as process:
        deadline = time.monotonic() + 60
        while faults.num_retrievals < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send(signal.SIGKILL)
    assert process.status == -signal.SIGKILL
    here = {path.stem for path in (tmp_path / "web.partial").rglob("*.dcm")}
    assert here
    faults.plan = lambda number, path: ""
    faults.requested.clear()
    shared = {"name": "test", "key": tmp_path / "site.key", "tracking": {"enabled": False}}
    tree = {"source": faults.url, "dataset": tmp_path / "web", "retrieve": options(), "resume": True}
    manifest = ingest(IngestConfig.parse({**tree, **shared}))
    assert not [path for path in faults.requested if path.rpartition("/")[2] in here]
    expected = ingest(IngestConfig.parse({"source": studies, "dataset": tmp_path / "folder", **shared}))
    assert manifest.hash == expected.hash
