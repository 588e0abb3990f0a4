from __future__ import annotations

from pathlib import Path

import pytest

from medvit.errors import ConfigError
from medvit.inference.state import state_of
from medvit.inference.worklist import Worklist
from medvit.writers import Result


def test_the_state_of_a_batch_counts_its_studies_and_names_who_works_on_which_and_changes_nothing(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "out.partial"
    folder.mkdir()
    worklist = Worklist(folder)
    results = {
        "done": Result("done"),
        "failed": Result("failed", "geometry", "slices are missing"),
        "skipped": Result("skipped", "no_series", "no CT"),
    }
    with worklist.working():
        worklist.offer([f"s-{n}" for n in range(6)])
        for status in ("done", "failed", "failed", "skipped"):
            lease = worklist.take()
            assert lease is not None
            worklist.place(lease)
            worklist.record(lease, results[status])
        worklist.take()
        names = sorted(path.name for path in folder.iterdir())
        first, *lines = state_of(tmp_path / "out").text().splitlines()
        assert first == f"{folder}: 1 done, 1 skipped, 2 failed, 1 running, 1 waiting"
        assert lines[0] == "running:"
        assert lines[1].startswith("  s-4 since 2")
        assert lines[1].endswith(f", attempt 1, {worklist.worker.name}")
        assert lines[2:] == ["failed:", "  2 geometry: slices are missing"]
        assert sorted(path.name for path in folder.iterdir()) == names
    worklist.close()
    assert state_of(tmp_path / "out").num_waiting == 2


def test_a_folder_without_a_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no batch in .*out: it has no list of studies"):
        state_of(tmp_path / "out")
