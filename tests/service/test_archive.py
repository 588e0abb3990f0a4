"""Results go back to the archive only for the same patient, once; studies also come from an archive that is asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pydicom
import pytest
import requests

from medvit.errors import ConfigError
from medvit.service.retention import Retention
from tests.service.conftest import Start, changed, config_of, send, until
from tests.sources.conftest import PASSWORD, USER

Studies = list[list[pydicom.Dataset]]
Make = Callable[..., Any]


@pytest.fixture
def archive(make_orthanc: Make, ct: Studies, tmp_path: Path) -> Any:
    """An archive with the first study."""
    for number, one in enumerate(ct[0]):
        one.save_as(tmp_path / f"archived-{number}.dcm")
    return make_orthanc().upload(sorted(tmp_path.glob("archived-*.dcm")))


def classes(archive: Any) -> list[str]:
    answer = requests.get(f"http://127.0.0.1:{archive.http_port}/instances?expand", auth=(USER, PASSWORD), timeout=30)
    return [one["MainDicomTags"].get("SOPInstanceUID", "") for one in answer.json()]


def test_a_result_is_sent_back_confirmed_and_its_images_deleted(
    start: Start, ct: Studies, archive: Any, secrets: Mapping[str, str]
) -> None:
    served = start(send=archive.web, archive={"auth": secrets}, delete_after_days=30)
    before = len(classes(archive))
    send(served.port, ct[0])
    served.ended(1)
    (job,) = until(lambda: [one for one in served.jobs() if one["delivery"] == "sent"])
    assert len(classes(archive)) == before + 1
    service = served.service
    retention = Retention(service.store, service.store.database, service.audit, days=30)
    assert retention.apply() == []
    service.store.database.write("UPDATE jobs SET delivered = delivered - 31 * 86400")
    assert retention.apply() == [job["study"]]
    assert not list((served.folder / "received").rglob("*.dcm"))
    assert send(served.port, ct[0][:1]) == [0x0000]  # known: acknowledged, and not a new study
    assert [one["state"] for one in served.studies()] == ["deleted"]
    assert '"event": "deleted"' in (served.folder / "audit.jsonl").read_text()


def test_a_result_of_a_study_that_the_archive_has_for_another_patient_is_not_sent(
    start: Start, ct: Studies, archive: Any, secrets: Mapping[str, str]
) -> None:
    served = start(send=archive.web, archive={"auth": secrets})
    before = len(classes(archive))
    send(served.port, [changed(one, PatientID="OTHER") for one in ct[0]])
    (dead,) = until(lambda: served.get("/api/dead"))
    assert (dead["what"], dead["code"]) == ("not delivered", "identity_differs")
    assert len(classes(archive)) == before


def test_a_study_that_the_archive_does_not_have_is_not_sent(
    start: Start, ct: Studies, archive: Any, secrets: Mapping[str, str]
) -> None:
    served = start(send=archive.web, archive={"auth": secrets})
    send(served.port, ct[1])
    (dead,) = until(lambda: served.get("/api/dead"))
    assert (dead["what"], dead["code"]) == ("not delivered", "study_missing")


def test_an_archive_that_is_away_is_tried_again(
    start: Start, ct: Studies, archive: Any, secrets: Mapping[str, str]
) -> None:
    archive.kill()
    served = start(send=archive.web, archive={"auth": secrets, "retries": 0, "backoff_s": 0.1, "timeout_s": 5})
    send(served.port, ct[0])
    served.ended(1)
    until(lambda: served.call("/ready").status_code == 503)
    archive.start()
    until(lambda: [one for one in served.jobs() if one["delivery"] == "sent"])
    assert served.call("/ready").status_code == 200


def test_without_send_nothing_is_sent(start: Start, ct: Studies, archive: Any) -> None:
    served = start()
    before = len(classes(archive))
    send(served.port, ct[0])
    assert served.ended(1)[0]["delivery"] == ""
    time.sleep(1.0)
    assert len(classes(archive)) == before
    assert "shadow mode" in served.call("/").text


def test_studies_of_an_archive_are_predicted_once_and_again_after_new_instances(
    start: Start, ct: Studies, make_orthanc: Make, secrets: Mapping[str, str], tmp_path: Path
) -> None:
    for number, one in enumerate(ct[0]):
        one.save_as(tmp_path / f"{number:03}.dcm")
    files = sorted(tmp_path.glob("[0-9]*.dcm"))
    archive = make_orthanc().upload(files[:-1])
    served = start(
        receive={"enabled": False}, poll={"source": archive.web, "auth": secrets, "every_s": 0.5, "days": None}
    )
    served.ended(1)
    assert served.studies()[0]["instances"] == len(files) - 1
    archive.upload(files[-1:])
    until(lambda: served.studies()[0]["instances"] == len(files))
    jobs = served.ended(2)
    time.sleep(1.5)
    assert len(served.jobs()) == len(jobs) == 2


def test_images_are_only_deleted_if_the_archive_confirms(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="give send as well"):
        config_of(tmp_path, checkpoint, delete_after_days=3)
