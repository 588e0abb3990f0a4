"""Options that a dataset was made with, of this and of earlier versions."""

from __future__ import annotations

from pathlib import Path

import pytest

from medvit.dataset.made_with import MadeWith
from medvit.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("scanning: {patient_from: (a+)}", "(a+)"),
        ("patient_from: (a+)", "(a+)"),
        ("scanning: {patient_from: null}", None),
        ("scanning: null", None),
        ("name: x", None),
    ],
)
def test_an_option_is_found_in_its_group_or_flat(tmp_path: Path, text: str, expected: str | None) -> None:
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    assert MadeWith.read(tmp_path).option("scanning.patient_from") == expected


def test_a_group_that_is_not_there_is_empty(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("tracking: {enabled: false}", encoding="utf-8")
    assert MadeWith.read(tmp_path).group("tracking") == {"enabled": False}
    assert MadeWith.read(tmp_path).group("deidentify") == {}


def test_a_folder_without_options_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no configuration file"):
        MadeWith.read(tmp_path)
