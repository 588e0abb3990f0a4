"""Progress is a bar in a terminal, and elsewhere a line now and then."""

from __future__ import annotations

import logging
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from medvit.logs import LOG, log_to_file
from medvit.progress import BYTES, FIRST_S, LONGEST_S, MIB, Progress, with_progress


class Clock:
    """A clock that stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    return caplog


def run(progress: Progress, clock: Clock, *, steps: int, seconds: float) -> None:
    with progress:
        for _ in range(steps):
            clock.now += seconds
            progress.update()


def test_lines_tell_count_rate_and_time_left_and_the_last_one_the_whole(lines: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    progress = Progress(24, title="read", unit="study", done=4, clock=clock)
    progress.note = "loss=0.3"
    run(progress, clock, steps=20, seconds=1.0)
    assert lines.messages == [
        "read: 14 of 24 studies (58%), 1 study/s, 10 s left; loss=0.3",
        "read: 24 of 24 studies, 20 studies of them in 20 s, 1 study/s",
    ]


def test_work_of_seconds_makes_no_line(lines: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    run(Progress(20, title="read", clock=clock), clock, steps=20, seconds=FIRST_S / 21)
    run(Progress(20, title="read", is_shown=False, clock=clock), clock, steps=20, seconds=60.0)
    assert lines.messages == []


def test_a_night_makes_few_lines_with_rising_gaps(lines: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    run(Progress(36_000, title="train", unit="step", clock=clock), clock, steps=36_000, seconds=1.0)
    done = [int(message.split()[1]) for message in lines.messages]
    gaps = [after - before for before, after in pairwise(done[:-1])]
    assert gaps == sorted(gaps)
    assert max(gaps) == LONGEST_S
    assert 100 < len(done) < 200
    assert lines.messages[-1] == "train: 36000 steps in 10 h 0 min, 1 step/s"


def test_what_breaks_off_says_how_far_it_came_and_bytes_are_mebibytes(lines: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    with Progress(4 * MIB, title="unpack", unit=BYTES, clock=clock) as progress:
        clock.now += 20
        progress.update(MIB)
    assert lines.messages == [
        "unpack: 1.0 of 4.0 MiB (25%), 0.1 MiB/s, 1 min 0 s left",
        "unpack: 1.0 of 4.0 MiB in 20 s, 0.1 MiB/s",
    ]


def test_a_second_run_that_breaks_off_counts_the_items_of_the_first(lines: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    run(Progress(240, title="Training", unit="step", done=23, clock=clock), clock, steps=21, seconds=5.0)
    assert lines.messages[-1] == "Training: 44 of 240 steps, 21 steps of them in 1 min 45 s, 5 s/step"


def test_in_a_terminal_there_is_a_bar_and_the_lines_go_to_the_file_alone(
    tmp_path: Path, lines: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    clock = Clock()
    with log_to_file(tmp_path / LOG):
        run(Progress(30, title="read", unit="file", clock=clock), clock, steps=30, seconds=1.0)
    assert "read: 100%|" in capsys.readouterr().err
    assert lines.messages == []
    assert len((tmp_path / LOG).read_text(encoding="utf-8").splitlines()) == 3


def test_elsewhere_there_is_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(with_progress(iter("abc"), total=3, title="read")) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""
