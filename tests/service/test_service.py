"""A study that is sent is received, predicted when it is complete, and shown; the service names no patient."""

from __future__ import annotations

import shutil
from pathlib import Path

import pydicom
import pytest
from requests import get

from medvit.service.audit_trail import is_intact
from tests.service.conftest import Start, send

CHROMIUM = shutil.which("chromium")


def test_a_study_that_is_sent_is_predicted_and_shown(
    start: Start, ct: list[list[pydicom.Dataset]], caplog: pytest.LogCaptureFixture
) -> None:
    served = start()
    with caplog.at_level("DEBUG"):
        assert set(send(served.port, ct[0])) == {0x0000}
        (job,) = served.ended(1)
    assert (job["status"], job["code"], job["model"]) == ("done", "", "liver")
    (study,) = served.studies()
    assert (study["state"], study["instances"]) == ("complete", len(ct[0]))
    folder = served.folder / "results" / study["study"] / f"liver-{job['id']}"
    made = pydicom.dcmread(folder / study["study"] / "segmentation.dcm")
    assert (made.PatientID, made.StudyInstanceUID) == (ct[0][0].PatientID, ct[0][0].StudyInstanceUID)
    page, metrics = served.call("/").text, served.call("/metrics").text
    assert study["study"] in page
    assert "liver: done" in page
    assert 'medvit_serve_predictions{status="done"} 1.0' in metrics
    audit, log = served.folder / "audit.jsonl", (served.folder / "medvit.log").read_text()
    first = ct[0][0]
    secrets = [str(first[k].value) for k in ("PatientID", "PatientName", "StudyInstanceUID", "SOPInstanceUID")]
    shown = [page, metrics, audit.read_text(), log, caplog.text, served.call("/api/studies").text]
    assert not [secret for secret in secrets for text in shown if secret in text]
    assert is_intact(audit)
    modes = {path.stat().st_mode & 0o077 for path in (served.folder, *served.folder.rglob("*"))}
    assert modes == {0}


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_browser_asks_for_the_token_and_shows_the_page(start: Start) -> None:
    from playwright.sync_api import sync_playwright

    served = start()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = browser.new_context(http_credentials={"username": "doctor", "password": served.token})
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{served.service.web_port}/")
        assert page.title() == "medvit serve"
        browser.close()


def test_only_health_and_readiness_are_open_without_the_token(start: Start, tmp_path: Path) -> None:
    served = start()
    root = f"http://127.0.0.1:{served.service.web_port}"
    assert [get(root + path, timeout=9).status_code for path in ("/health", "/ready")] == [200, 200]
    closed = ("/", "/metrics", "/api/studies", "/api/state", "/docs", "/openapi.json", f"/?token={served.token}")
    assert {get(root + path, timeout=9).status_code for path in closed} == {401}
    assert get(root + "/", auth=("doctor", served.token), timeout=9).status_code == 200
    assert get(root + "/", auth=("doctor", served.token + "x"), timeout=9).status_code == 401
    basic = served.call("/api/models/reload", "post", headers={}, auth=("doctor", served.token))
    assert basic.status_code == 401
    assert served.call("/api/models/reload", "post").status_code == 200
    assert served.token not in (served.folder / "medvit.log").read_text()
