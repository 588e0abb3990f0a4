"""A study is predicted once for each model and set of images; nothing that waits is unseen."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pydicom
import pytest

from medvit.errors import ConfigError
from medvit.phantoms import write_radiograph_studies
from medvit.service.audit_trail import AuditTrail, is_intact
from medvit.service.database import Database
from medvit.service.queue import ATTEMPTS, JobQueue
from medvit.service.running import running
from medvit.writers import Result
from tests.models.untrained import write_checkpoint
from tests.service.conftest import Start, config_of, send, until

Studies = list[list[pydicom.Dataset]]


def queue_with_study(folder: Path) -> JobQueue:
    """Return a queue with one complete study."""
    queue = JobQueue(Database(folder), AuditTrail(folder), is_sending=False)
    columns = "name, uid, owner, identity, state, began, changed"
    queue.database.write(f"INSERT INTO studies ({columns}) VALUES ('s', '1', '', '', 'complete', 0, 0)")
    return queue


def test_late_instances_reopen_the_study_and_supersede_its_result(start: Start, ct: Studies) -> None:
    served = start()
    late = ct[0][-1]
    send(served.port, ct[0][:-1])
    (first,) = served.ended(1)
    send(served.port, [late])
    jobs = served.ended(2)
    assert [(job["id"] == first["id"], job["superseded"]) for job in jobs] == [(False, 0), (True, 1)]
    assert served.studies()[0]["instances"] == len(ct[0])
    assert served.get("/api/state")["predictions"] == {"done": 1}


def test_a_study_without_a_series_for_the_model_is_skipped_with_the_reason(start: Start, tmp_path: Path) -> None:
    served = start()
    folder = tmp_path / "dx"
    write_radiograph_studies(folder, 1)
    send(served.port, [pydicom.dcmread(path) for path in sorted(folder.rglob("*.dcm"))])
    (job,) = served.ended(1)
    assert (job["status"], job["code"]) == ("skipped", "no_series")
    assert "the model takes CT as volume" in job["reason"]


def test_a_rule_chooses_the_series_of_one_of_several_models(start: Start, ct: Studies, tmp_path: Path) -> None:
    both = [write_checkpoint(tmp_path / "a"), write_checkpoint(tmp_path / "b", seed=1)]
    served = start(checkpoint=both, rules={"b": {"description": "no such series"}})
    send(served.port, ct[0])
    jobs = served.ended(2)
    assert {job["model"]: job["status"] for job in jobs} == {"a": "done", "b": "skipped"}


def test_a_rule_for_an_unknown_model_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    config = config_of(tmp_path, checkpoint, rules={"spleen": {"modality": "CT"}})
    with pytest.raises(ConfigError, match="rules has spleen; the models are liver"), running(config):
        pass


def test_the_model_in_force_changes_only_when_it_is_reloaded_and_comes_back(
    start: Start, ct: Studies, tmp_path: Path
) -> None:
    first, second = write_checkpoint(tmp_path / "first"), write_checkpoint(tmp_path / "second", seed=1)
    link = tmp_path / "current"
    link.symlink_to(first)
    served = start(checkpoint=link)
    (pinned,) = served.get("/api/state")["models"]
    link.unlink()
    link.symlink_to(second)
    send(served.port, ct[0])
    (job,) = served.ended(1)
    assert (job["status"], job["model_sha256"]) == ("done", pinned["sha256"])
    (reloaded,) = served.call("/api/models/reload", "post").json()
    assert reloaded["sha256"] != pinned["sha256"]
    send(served.port, ct[1])
    assert [one["model_sha256"] for one in served.ended(2)] == [pinned["sha256"], reloaded["sha256"]]
    assert served.call("/api/models/rollback", "post").json() == [pinned]


def test_a_checkpoint_that_changes_on_disk_is_not_used(start: Start, ct: Studies, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    served = start(checkpoint=folder)
    shutil.rmtree(folder)
    write_checkpoint(folder, seed=1)
    send(served.port, ct[0])
    assert until(lambda: served.call("/ready").status_code == 503)
    assert "has changed since it was pinned" in served.call("/").text
    assert [job["status"] for job in served.jobs()] != ["done"]


def test_expected_instances_decide_completeness(start: Start, ct: Studies) -> None:
    served = start(complete={"quiet_s": 0.3, "give_up_s": 2.0})
    expected = {"study": str(ct[0][0].StudyInstanceUID), "instances": len(ct[0])}
    assert served.call("/api/expect", "post", json=expected).status_code == 200
    send(served.port, ct[0][:-1])
    time.sleep(1.0)
    assert not served.jobs()
    send(served.port, ct[0][-1:])
    served.ended(1)
    wanted = {"study": str(ct[1][0].StudyInstanceUID), "instances": 99}
    served.call("/api/expect", "post", json=wanted)
    send(served.port, ct[1])
    (dead,) = until(lambda: served.get("/api/dead"))
    assert dead["code"] == "incomplete"
    assert dead["reason"] == f"{len(ct[1])} of 99 expected instances came"


def test_a_study_on_which_workers_end_three_times_is_set_aside(tmp_path: Path) -> None:
    queue = queue_with_study(tmp_path)
    queue.offer("s", "images", {"liver": "hash"})
    for attempt in range(1, ATTEMPTS + 1):
        job = queue.take({"liver": "hash"})
        assert job is not None
        assert job.attempt == attempt
        queue.recover()  # as after a kill of the whole service
    assert queue.take({"liver": "hash"}) is None
    (row,) = queue.database.rows("SELECT status, code FROM jobs")
    assert tuple(row) == ("failed", "crashed")
    assert queue.retry("s") == 1
    assert queue.take({"liver": "hash"}) is not None


def test_an_attempt_that_ended_in_an_orderly_way_does_not_count(tmp_path: Path) -> None:
    queue = queue_with_study(tmp_path)
    queue.offer("s", "images", {"liver": "hash"})
    for _ in range(2 * ATTEMPTS):
        job = queue.take({"liver": "hash"})
        assert job is not None
        queue.give_back(job, is_counted=False)
    queue.offer("s", "images", {"liver": "hash"})
    job = queue.take({"liver": "hash"})
    assert job is not None
    queue.record(job, Result("done"), 1.0, has_objects=True)
    queue.offer("s", "images", {"liver": "hash"})
    assert queue.take({"liver": "hash"}) is None


def test_a_second_service_on_the_same_folder_is_refused(start: Start, tmp_path: Path, checkpoint: Path) -> None:
    start()
    with pytest.raises(ConfigError, match="uses the folder"), running(config_of(tmp_path, checkpoint)):
        pass


def test_a_change_of_the_audit_trail_is_noticed(tmp_path: Path) -> None:
    trail = AuditTrail(tmp_path)
    for study in ("s-1", "s-2", "s-3"):
        trail.add("received", study)
    path = tmp_path / "audit.jsonl"
    assert is_intact(path)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"s-2", b"s-4"))
    assert not is_intact(path)
    path.write_bytes(b"".join(line for line in whole.splitlines(keepends=True) if b"s-2" not in line))
    assert not is_intact(path)
    path.write_bytes(whole + b'{"half')  # killed while it wrote
    AuditTrail(tmp_path).add("received", "s-5")
    assert is_intact(path)
