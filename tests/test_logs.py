"""The log file gets every line with its date, and other handlers are unchanged."""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path

import pytest
from tqdm import tqdm

from medvit.logs import LOG, TerminalHandler, log_to_file, note
from tests.processes.forked import Forked

log = logging.getLogger("medvit")
LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [A-Z]+ (.*)")


def lines(path: Path) -> list[str]:
    return [LINE.fullmatch(line)[1] for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_file_has_every_line_with_its_date_and_others_see_what_they_saw_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), log_to_file(tmp_path / LOG):
        log.info("read %d files", 3)
        log.warning("one is odd")
        note("failed: %s", "f-1")
        logging.getLogger("a.library").error("Doe^Jane")
    log.warning("afterwards")
    assert lines(tmp_path / LOG) == ["read 3 files", "one is odd", "failed: f-1"]
    assert [record.message for record in caplog.records] == ["one is odd", "Doe^Jane", "afterwards"]


def test_a_traceback_is_not_in_the_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with log_to_file(tmp_path / LOG):
        try:
            raise ValueError("Doe^Jane")
        except ValueError:
            log.warning("a study failed", exc_info=True)
    assert "Doe^Jane" in caplog.text
    assert lines(tmp_path / LOG) == ["a study failed"]


def test_a_file_within_a_file_has_its_own_lines_and_both_are_appended_to(tmp_path: Path) -> None:
    for _ in range(2):
        with log_to_file(tmp_path / "outer", mode=0o600), log_to_file(tmp_path / "inner"):
            log.info("go")
    assert lines(tmp_path / "outer") == lines(tmp_path / "inner") == ["go", "go"]
    assert (tmp_path / "outer").stat().st_mode & 0o777 == 0o600


def warn_without_handlers(path: Path) -> None:
    with log_to_file(path):
        log.info("not shown")
        log.warning("shown")


def test_without_any_handler_warnings_are_shown_as_python_shows_them(tmp_path: Path) -> None:
    with Forked(warn_without_handlers, tmp_path / LOG) as other:
        assert other.wait() == 0
    assert other.errors == "shown\n"
    assert lines(tmp_path / LOG) == ["not shown", "shown"]


class Terminal:
    """Standard error as a terminal has it."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return True


def test_in_a_terminal_a_line_stands_above_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    record = log.makeRecord("medvit", logging.INFO, "", 0, "go", (), None)
    with tqdm(total=2, desc="read", ncols=60) as bar:
        bar.update()
        TerminalHandler().handle(record)
    last = terminal.text.rpartition("INFO go")
    assert re.search(r"\r +\r\d{4}-\d\d-\d\d \d\d:\d\d:\d\d $", last[0])  # the bar is wiped before, and drawn again
    assert last[2].startswith("\n\rread:")
