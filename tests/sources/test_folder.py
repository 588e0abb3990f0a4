from __future__ import annotations

from pathlib import Path

import pytest

from medvit.errors import DataError
from medvit.sources.folder import files


def test_every_file_below_is_given_in_order_without_the_hidden(tmp_path: Path):
    for name in ("b/c/1", "a", "b/0", ".hidden", ".git/x", "__MACOSX/y"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert files(tmp_path) == [tmp_path / name for name in ("a", "b/0", "b/c/1")]


def test_one_file_is_a_source_of_one(tmp_path: Path):
    (tmp_path / "a.npz").touch()
    assert files(tmp_path / "a.npz") == [tmp_path / "a.npz"]


def test_a_missing_source_and_an_empty_one_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match="no folder at"):
        files(tmp_path / "none")
    with pytest.raises(DataError, match="holds no files"):
        files(tmp_path)
