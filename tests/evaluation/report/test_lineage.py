"""Lineage of a report: names and hashes, and the checks of training patients."""

from __future__ import annotations

from pathlib import Path

from medvit.artifacts import Lineage
from medvit.dataset.manifest import Facts, Manifest
from medvit.evaluation.caveats import near_duplicates_check, training_patients_check
from medvit.evaluation.report.lineage import _inputs_of
from medvit.leakage.seen_patients import write_training_patients
from medvit.records import Row


def rows(*patients: str) -> tuple[Row, ...]:
    return tuple(
        Row(f"i-{one}", one, "s", "e", "US", "image", "d", "test", (1, 8, 8), "int16", "0") for one in patients
    )


def test_inputs_have_names_without_the_folders_above_them(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("dataset: /home/anna/busi\ncheckpoint: /home/anna/dinov2-small\n")
    Lineage("finetune", "c", {"dataset": "d" * 64, "checkpoint": "e" * 64}).write(tmp_path)
    lines = _inputs_of(tmp_path)
    assert [line[:3] for line in lines] == [
        ["training dataset", "busi", "d" * 64],
        ["initial weights", "dinov2-small", "e" * 64],
    ]
    assert "anna" not in str(lines)


def test_a_model_from_random_weights_says_so_and_one_without_records_too(tmp_path: Path) -> None:
    assert _inputs_of(tmp_path)[0][1:3] == ["not recorded", "not recorded"]
    (tmp_path / "config.yaml").write_text("dataset: a\ncheckpoint: null\nbackbone: {weights: null}\n")
    assert _inputs_of(tmp_path)[1][:2] == ["initial weights", "random"]


def test_training_patients_are_counted_and_never_named(tmp_path: Path) -> None:
    measured = Manifest(rows("p1", "p2", "p3"), Facts("d"), tmp_path)
    assert "records no training patients" in training_patients_check(measured, tmp_path)
    write_training_patients(tmp_path, rows("p1", "p9"))
    found = training_patients_check(measured, tmp_path)
    assert found.startswith("1 of 3 patients are among the training patients")
    assert "records 2 pseudonyms" in found
    assert "p1" not in found


def test_a_search_without_result_is_reported_with_its_limits() -> None:
    assert near_duplicates_check([], is_same=True, split="test").startswith("No evaluated image has a copy")
    assert "another dataset" in near_duplicates_check([], is_same=False, split="test")
    doubt = "3 of 9 evaluated images have copies or near duplicates in the train split; the metrics may be too good"
    assert near_duplicates_check([doubt], is_same=True, split="test").startswith("3 of 9 evaluated images")
