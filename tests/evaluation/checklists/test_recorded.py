"""Options of artifacts as text: no paths, no unset options."""

from __future__ import annotations

from pathlib import Path

from medvit.evaluation.checklists.recorded import MAX_LENGTH, described, options_of


def test_paths_are_reduced_to_their_last_part_and_unset_options_are_omitted() -> None:
    tree = {"lr": 0.1, "weights": "/home/anna/dinov2", "none": None, "empty": [], "inner": {"a": 1, "b": ""}, "zero": 0}
    assert described(tree) == "lr 0.1, weights dinov2, inner.a 1, zero 0"
    assert described(tree, ["weights", "inner"]) == "lr 0.1, zero 0"
    assert described(None) == ""


def test_long_values_are_cut() -> None:
    assert len(described({"a": list(range(200))})) < MAX_LENGTH + 10


def test_an_artifact_without_a_configuration_records_nothing(tmp_path: Path) -> None:
    assert options_of(tmp_path) == {}
