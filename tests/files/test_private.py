"""Private files are written atomically, and remains of a killed process are removed."""

from __future__ import annotations

import os
import time
from pathlib import Path

from medvit.files.atomic import STALE_S
from medvit.files.private import write_private


def test_what_a_kill_left_of_a_private_file_is_removed_when_it_is_written_again(tmp_path: Path) -> None:
    killed, at_work, mine = (tmp_path / name for name in (".site.csv.4711", ".site.csv.4712", ".site.csv.bak"))
    for path in (killed, at_work, mine):
        path.write_text("a name", encoding="utf-8")
    long_ago = time.time() - 2 * STALE_S
    for path in (killed, mine):
        os.utime(path, (long_ago, long_ago))
    write_private(tmp_path / "site.csv", [b"whole"])
    assert sorted(path.name for path in tmp_path.iterdir()) == [".site.csv.4712", ".site.csv.bak", "site.csv"]
