"""A closed output pipe, as in `medvit ... | head`, does not change how a command ends."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from pipelines.__main__ import main
from tests.processes.forked import Forked


def talk_to_nobody(words: tuple[str, ...], places: tuple[int, ...]) -> int:
    for place in places:
        reading, writing = os.pipe()
        os.close(reading)
        os.dup2(writing, place)
    return main(list(words))


@pytest.mark.parametrize(
    ("words", "status"),
    [(("--help",), 0), (("ingest", "--help"), 0), (("card", "a=nowhere", "output=made"), 1), (("pretain",), 2)],
)
@pytest.mark.parametrize("places", [(1,), (1, 2)])
def test_output_that_nobody_reads_changes_no_exit_status(
    tmp_path: Path, words: tuple[str, ...], status: int, places: tuple[int, ...]
) -> None:
    words = words if "a=nowhere" not in words else (*words, "tracking.enabled=false")
    with Forked(talk_to_nobody, words, places, folder=tmp_path) as other:
        assert other.wait() == status
    assert "Traceback" not in other.errors
    assert "BrokenPipe" not in other.errors


def test_output_with_a_reader_arrives(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("medvit ")
    assert sys.stdout is before
