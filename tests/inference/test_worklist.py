"""Processes that share a list lose no study and record none twice, whenever one of them is killed or paused."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from medvit.errors import ConfigError, OutputError
from medvit.files import mounts
from medvit.inference.batch import is_complete, process
from medvit.inference.worker import Worker
from medvit.inference.worklist import ATTEMPTS, DATABASE, Lease, Worklist
from medvit.stage import WORK
from medvit.writers import Finding, Result, Study
from tests.processes.forked import Forked, say

NAMES = [f"s-{n:02}" for n in range(20)]
STUDIES = [Study(name, ()) for name in NAMES]
STEPS = ("lease", "read", "compute", "write", "publish", "record")


def perform(study: Study, folder: Path) -> Result:
    (folder / "result.txt").write_text(study.name)
    return Result("done", outputs=("result.txt",), findings=(Finding("e-1", "liver", num_voxels=int(study.name[2:])),))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed_at(step: str, folder: Path) -> int:
    """Process two studies, and kill this process at a step of the second one."""
    worklist = Worklist(folder)

    def fatal(study: Study, place: Path) -> Result:
        if study.name == NAMES[0]:
            return perform(study, place)
        if step == "read":
            die()
        (place / "half.txt").touch()
        if step == "compute":
            die()
        result = perform(study, place)
        if step == "write":
            die()
        return result

    with worklist.working():
        worklist.offer(NAMES)
        while (lease := worklist.take()) is not None:
            is_fatal = lease.study != NAMES[0]
            if step == "lease" and is_fatal:
                die()
            result = fatal(Study(lease.study, ()), worklist.place(lease))
            if step in ("publish", "record") and is_fatal:
                _die_while_recording(worklist, lease, result, is_published=step == "record")
            worklist.record(lease, result)
    return 0


def _die_while_recording(worklist: Worklist, lease: Lease, result: Result, *, is_published: bool) -> None:
    """Do what `record` does, and end before or after the outputs have their final name."""
    with worklist._transaction():
        assert worklist._holds(lease)
        if is_published:
            worklist._publish(worklist.work / f"{lease.study}.{lease.attempt}", worklist.folder / lease.study)
        worklist._end(lease.study, result, 1.0)
        die()


def finished(folder: Path) -> None:
    """Check that each study has one result in a folder, and nothing else is left."""
    worklist = Worklist(folder)
    outcomes = worklist.outcomes()
    worklist.close()
    assert [one.study for one in outcomes.all] == NAMES
    assert outcomes.counts == {"done": len(NAMES)}
    assert [finding[4] for one in outcomes.all for finding in one.findings] == list(range(len(NAMES)))
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert files == [DATABASE, *(f"{name}/result.txt" for name in NAMES)]
    assert all((folder / name / "result.txt").read_text() == name for name in NAMES)


@pytest.mark.parametrize("step", STEPS)
def test_a_worker_killed_at_any_step_loses_nothing_and_writes_nothing_twice(tmp_path: Path, step: str) -> None:
    with Forked(killed_at, step, tmp_path) as other:
        pass
    assert other.status == -signal.SIGKILL
    worklist = Worklist(tmp_path)
    with worklist.working():
        process(worklist, STUDIES, perform)
    worklist.close()
    finished(tmp_path)


def work(folder: Path) -> int:
    worklist = Worklist(folder, beat_s=0.05)

    def slow(study: Study, place: Path) -> Result:
        with (folder.parent / "log.txt").open("a") as log:
            log.write(f"{study.name}\n")
        time.sleep(0.02)
        return perform(study, place)

    with worklist.working():
        process(worklist, STUDIES, slow)
        assert is_complete(worklist, set())
    worklist.close()
    return 0


def test_processes_share_the_studies_and_each_study_is_processed_once(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with Forked(work, tmp_path / "out") as one, Forked(work, tmp_path / "out") as two:
        pass
    assert (one.status, two.status) == (0, 0), one.errors + two.errors
    finished(tmp_path / "out")
    assert sorted((tmp_path / "log.txt").read_text().split()) == NAMES


def test_a_process_that_waits_takes_over_the_studies_of_one_that_is_killed(tmp_path: Path) -> None:
    def hang(folder: Path) -> int:
        worklist = Worklist(folder)
        with worklist.working():
            worklist.offer(NAMES)
            for _ in NAMES:
                worklist.take()
            say("ready")
            time.sleep(60)
        return 0

    with Forked(hang, tmp_path) as other:
        assert other.line() == "ready\n"
        worklist = Worklist(tmp_path)
        with worklist.working():
            process(worklist, STUDIES, perform)
            assert worklist.num_ended() == 0
            threading.Timer(0.2, other.send, [signal.SIGKILL]).start()
            assert not is_complete(worklist, set())
            process(worklist, STUDIES, perform)
            assert is_complete(worklist, set())
        worklist.close()
    finished(tmp_path)


def test_a_study_that_ended_several_processes_fails_and_the_others_do_not(tmp_path: Path) -> None:
    for attempt in range(ATTEMPTS):
        with Forked(killed_at, "compute", tmp_path) as other:
            pass
        assert other.status == -signal.SIGKILL, attempt
    worklist = Worklist(tmp_path)
    with worklist.working():
        process(worklist, STUDIES, perform)
    (failed,) = [one for one in worklist.outcomes().all if one.status == "failed"]
    assert (failed.study, failed.code) == (NAMES[1], "crashed")
    assert f"{ATTEMPTS} processes ended on it" in failed.reason
    assert worklist.outcomes().counts == {"done": len(NAMES) - 1, "failed": 1}
    worklist.close()


def test_a_worker_that_was_paused_for_longer_than_its_lease_does_not_record_what_another_has_done(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paused, other = Worklist(tmp_path, lease_s=0.1, beat_s=60.0), Worklist(tmp_path, lease_s=0.1, beat_s=0.02)
    with paused.working():
        paused.offer(NAMES)
        late = paused.take()
        assert late is not None
        place = paused.place(late)
        (place / "stale.txt").touch()
        time.sleep(0.2)
        with other.working():
            process(other, STUDIES, perform)
        assert not paused.record(late, perform(STUDIES[0], place))
    assert f"{NAMES[0]} was taken over by another process" in caplog.text
    paused.close()
    other.close()
    finished(tmp_path)


def test_a_sign_of_life_keeps_a_study_for_longer_than_the_lease(tmp_path: Path) -> None:
    one, other = Worklist(tmp_path, lease_s=0.2, beat_s=0.02), Worklist(tmp_path, lease_s=0.2)
    with one.working(), other.working():
        for worklist in (one, other):
            worklist.offer(NAMES[:1])
        lease = one.take()
        time.sleep(0.5)
        assert lease == Lease(NAMES[0], 1)
        assert other.take() is None
        assert not other.is_free(NAMES[0])
        assert one.record(lease, Result("skipped"))
    one.close()
    other.close()


@pytest.mark.parametrize(
    ("change", "beat_s", "is_lost"),
    [
        ({}, 0.0, False),
        ({}, -61.0, True),
        ({}, 5.0, True),  # after a restart of the host, its clock starts at 0 again
        ({"boot": "another"}, 0.0, True),
        ({"pid": 2**22 + 1}, 0.0, True),
        ({"started": "1"}, 0.0, True),  # another process has the number now
        ({"namespace": "pid:[1]", "pid": 2**22 + 1}, 0.0, False),  # of another container, whose processes are hidden
    ],
)
def test_a_worker_has_lost_its_studies_if_it_ended_or_gave_no_sign_of_life(
    change: dict[str, object], beat_s: float, is_lost: bool
) -> None:
    worker = replace(Worker.current(), **change)  # type: ignore[arg-type]
    assert worker.has_lost(time.monotonic() + beat_s, 60.0) is is_lost


MOUNTS = """/dev/root / ext4 rw 0 0
nas:/studies /mnt/nas nfs4 rw 0 0
//server/share /mnt/my\\040share cifs rw 0 0
host:/home /mnt/nas/ssh fuse.sshfs rw 0 0
/dev/sdb /mnt/nas/ssh/disk ext4 rw 0 0
tmpfs /tmp tmpfs rw 0 0
"""


@pytest.mark.parametrize(
    ("folder", "kind", "is_network"),
    [
        ("/data/out", "ext4", False),
        ("/mnt/nas/out", "nfs4", True),
        ("/mnt/nasty/out", "ext4", False),
        ("/mnt/my share/out", "cifs", True),
        ("/mnt/nas/ssh/out", "fuse.sshfs", True),
        ("/mnt/nas/ssh/disk/out", "ext4", False),
    ],
)
def test_the_file_system_of_a_folder_is_that_of_the_innermost_mount(
    tmp_path: Path, folder: str, kind: str, is_network: bool
) -> None:
    (tmp_path / "mounts").write_text(MOUNTS)
    found = mounts.mount_of(Path(folder), tmp_path / "mounts")
    assert found is not None
    assert (found.kind, found.is_network) == (kind, is_network)
    assert mounts.mount_of(Path(folder), tmp_path / "none") is None


def test_a_shared_list_on_a_network_file_system_is_refused_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mounts").write_text(f"/dev/root / ext4 rw 0 0\nnas:/ {tmp_path} nfs4 rw 0 0\n")
    monkeypatch.setattr("medvit.inference.worklist.mount_of", lambda path: mounts.mount_of(path, tmp_path / "mounts"))
    with pytest.raises(ConfigError, match=r"network file system \(nfs4, mounted on .*\).* give output=.* local disk"):
        Worklist(tmp_path)
    worklist = Worklist(tmp_path, is_shared=False)
    with worklist.working():
        process(worklist, STUDIES, perform)
    worklist.close()
    (tmp_path / "mounts").unlink()
    finished(tmp_path)


def test_a_damaged_list_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / DATABASE).write_bytes(b"no database" * 1000)
    with pytest.raises(OutputError, match=r"list of studies .* cannot be used \(file is not a database\)"):
        Worklist(tmp_path)


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    one, other = Worklist(tmp_path), Worklist(tmp_path)
    (tmp_path / WORK / "killed" / "s-9.1").mkdir(parents=True)
    (tmp_path / "s-8").mkdir()
    with one.working():
        (one.work / "kept").touch()
        with other.working():
            assert not (tmp_path / WORK / "killed").exists()
            assert (one.work / "kept").is_file()
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["s-8"]
    one.close()
    other.close()
