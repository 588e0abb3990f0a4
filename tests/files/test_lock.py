"""A lock keeps out other processes and its own, and is free as soon as its holder has ended, however it ended."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from medvit.files.lock import LockedError, take, wait_for
from tests.processes.forked import Forked, say


def hold(path: Path) -> None:
    lock = take(path, "medvit ingest")
    if os.fork() == 0:
        time.sleep(60)  # a worker that lives on when its parent was killed
    say("ready")
    time.sleep(60)
    del lock


def holder(path: Path) -> Forked:
    other = Forked(hold, path)
    assert other.line() == "ready\n"
    return other


def test_another_process_is_kept_out_until_it_is_killed(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    other = holder(path)
    try:
        with pytest.raises(LockedError, match=f"medvit ingest of process {other.pid} on "):
            take(path, "mine")
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
        lock = wait_for(path, "mine", timeout_s=10)  # though a child of it, which was forked, lives on
        lock.release(path)
        assert not path.exists()
    finally:
        os.killpg(other.pid, signal.SIGKILL)


def test_one_process_takes_a_lock_once(tmp_path: Path) -> None:
    lock = take(tmp_path / ".lock", "first")
    with pytest.raises(LockedError, match="first of process"):
        take(tmp_path / ".lock", "second")
    lock.release(tmp_path / ".lock")
    take(tmp_path / ".lock", "third").release(tmp_path / ".lock")


def test_a_lock_moves_with_its_folder_and_leaves_the_next_one_alone(tmp_path: Path) -> None:
    before, after = tmp_path / "out.partial", tmp_path / "out"
    before.mkdir()
    lock = take(before / ".lock", "first")
    before.rename(after)
    before.mkdir()
    other = take(before / ".lock", "second")
    lock.release(before / ".lock", after / ".lock")
    assert not (after / ".lock").exists()
    assert (before / ".lock").exists()
    other.release(before / ".lock")


def test_waiting_for_a_lock_ends(tmp_path: Path) -> None:
    lock = take(tmp_path / ".lock", "first")
    began = time.monotonic()
    with pytest.raises(LockedError):
        wait_for(tmp_path / ".lock", "second", timeout_s=0.2)
    assert time.monotonic() - began < 5
    lock.release(tmp_path / ".lock")
