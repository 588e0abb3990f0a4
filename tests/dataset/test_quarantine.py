"""The list of refused files survives writing and reading."""

from __future__ import annotations

from pathlib import Path

from medvit.dataset import quarantine
from medvit.dataset.quarantine import Quarantined


def test_the_list_comes_back_sorted_and_may_be_empty(tmp_path: Path) -> None:
    entries = (Quarantined("f-2", "unreadable", "it is cut short", 1), Quarantined("f-1", "geometry", "a gap", 20))
    quarantine.write(entries, tmp_path)
    assert quarantine.read(tmp_path) == tuple(sorted(entries))
    quarantine.write((), tmp_path)
    assert quarantine.read(tmp_path) == ()
    assert [path.name for path in tmp_path.iterdir()] == [quarantine.FILE_NAME]


def test_an_entry_reads_as_a_line() -> None:
    assert str(Quarantined("f-1", "geometry", "a gap", 20)) == "f-1 (20 files): geometry: a gap"
    assert str(Quarantined("f-1", "unreadable", "it is cut", 1)) == "f-1 (1 file): unreadable: it is cut"
