"""Drift of a dataset: no alarm between halves, an alarm with exit status 3 for a changed scanner, and its page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medvit.errors import ConfigError
from pipelines.__main__ import main
from pipelines.results.drift import drift
from tests.drift.test_permutations import cohort


@pytest.fixture
def months(tmp_path: Path) -> tuple[Path, Path]:
    """Embeddings of two months; in the second one, all images are of a new scanner."""
    may, june = cohort(100, 0), cohort(100, 1)
    images = tuple(replace(one, attributes={**one.attributes, "model": "new"}) for one in june.images)
    folders = tmp_path / "may", tmp_path / "june"
    for folder, table in zip(folders, (may, replace(june, images=images)), strict=True):
        folder.mkdir()
        table.write(folder)
    return folders


def test_a_new_scanner_alarms_with_exit_status_3(
    months: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"a={months[0]}", f"b={months[1]}", f"output={tmp_path / 'found'}", "tracking.enabled=false"]
    assert main(["drift", *words]) == 3
    shown = capsys.readouterr()
    assert "model = new" in shown.out
    assert "variables differ" in shown.err
    tree = json.loads((tmp_path / "found" / "drift.json").read_text())
    assert tree["is_alarm"]
    assert {one["name"] for one in tree["shifts"] if one["is_alarm"]} <= {
        f"model = {x}" for x in ("A", "B", "C", "new")
    }
    assert "variables differ" in (tmp_path / "found" / "drift.html").read_text()


def test_equal_months_do_not_alarm_and_distances_are_reported(months: tuple[Path, Path], tmp_path: Path) -> None:
    table = cohort(200, 3)
    splits = np.array(["train", "val"])[np.arange(200) % 2]
    images = tuple(replace(one, split=str(split)) for one, split in zip(table.images, splits, strict=True))
    (tmp_path / "a").mkdir()
    replace(table, images=images).write(tmp_path / "a")
    (tmp_path / "b").mkdir()
    far = cohort(100, 4)
    replace(far, vectors=far.vectors * 3).write(tmp_path / "b")
    same = drift(a=tmp_path / "a", b=months[0], output=tmp_path / "same").result
    assert not same.alarms
    assert same.outside is not None
    assert same.outside.share < 0.15
    assert abs(same.outside.auroc - 0.5) < 0.1
    other = drift(a=tmp_path / "a", b=tmp_path / "b", output=tmp_path / "other").result
    assert other.outside is not None
    assert other.outside.auroc > 0.95
    assert any("spread" in one.name for one in other.alarms)


def test_two_parts_of_one_folder_are_compared(months: tuple[Path, Path], tmp_path: Path) -> None:
    one = drift(a=months[0], b=months[0], where_a={"sex": "F"}, where_b={"sex": "M"}, output=tmp_path / "found").result
    assert {shift.name for shift in one.alarms} == {"sex = F", "sex = M"}


def test_one_folder_of_scores_is_refused(months: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="scores has 1 folders; expected two"):
        drift(a=months[0], b=months[1], scores=[tmp_path], output=tmp_path / "found")
