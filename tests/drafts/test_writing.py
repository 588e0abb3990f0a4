"""Drafts are written to new files, private ones readable by their owner only."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from medvit.drafts.draft import Draft, DraftOption
from medvit.drafts.writing import next_steps, write_drafts
from medvit.errors import OutputError

INGEST = Draft(
    "ingest", "ingest.yaml", "", (DraftOption("source", "/a"),), ("ingest", "p/ingest.yaml"), is_private=True
)
PRETRAIN = Draft("pretrain", "pretrain.yaml", "", (DraftOption("seed", 1),), ("pretrain", "p/pretrain.yaml"))


def test_each_draft_is_a_file_and_the_private_one_is_of_its_owner_alone(tmp_path: Path) -> None:
    write_drafts((INGEST, PRETRAIN), tmp_path / "new" / "p")
    texts = {path.name: path.read_text() for path in (tmp_path / "new" / "p").iterdir()}
    assert texts == {"ingest.yaml": INGEST.text(), "pretrain.yaml": PRETRAIN.text()}
    assert stat.S_IMODE((tmp_path / "new" / "p" / "ingest.yaml").stat().st_mode) == 0o600


def test_nothing_is_written_where_one_of_the_files_exists(tmp_path: Path) -> None:
    (tmp_path / "pretrain.yaml").write_text("mine")
    with pytest.raises(OutputError, match=r"has pretrain\.yaml already"):
        write_drafts((INGEST, PRETRAIN), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["pretrain.yaml"]
    assert (tmp_path / "pretrain.yaml").read_text() == "mine"


def test_the_next_steps_are_the_commands_in_their_order() -> None:
    lines = next_steps((INGEST, PRETRAIN), Path("p"))
    assert "Wrote ingest.yaml, pretrain.yaml to p." in lines
    assert lines[-2:] == ["  medvit ingest p/ingest.yaml", "  medvit pretrain p/pretrain.yaml"]
