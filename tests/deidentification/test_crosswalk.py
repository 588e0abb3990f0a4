"""The crosswalk is readable only by its owner, and grows."""

from __future__ import annotations

import logging
import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medvit.deidentification import crosswalk
from medvit.errors import OutputError
from pipelines.ingest import IngestConfig, ingest


def test_the_way_back_lies_beside_the_key_for_the_owner_alone(tmp_path: Path) -> None:
    path = crosswalk.write(tmp_path / "site.key", "x", [("p-1", "Anna")])
    assert path == tmp_path / "site.key.crosswalk" / "x.csv"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [p.name for p in path.parent.iterdir()] == ["x.csv"]


def test_writing_again_forgets_nobody_and_repeats_nothing(tmp_path: Path) -> None:
    crosswalk.write(tmp_path / "site.key", "x", [("p-1", "Anna")])
    path = crosswalk.write(tmp_path / "site.key", "x", [("p-1", "Anna"), ("p-2", 'a "quoted",\nname')])
    assert path.read_text(encoding="utf-8").splitlines()[:2] == ["pseudonym,original", "p-1,Anna"]
    crosswalk.write(tmp_path / "site.key", "x", [])
    assert path.read_text(encoding="utf-8").count("quoted") == 1


def test_a_place_that_cannot_be_written_is_told_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "site.key.crosswalk").write_text("in the way")
    with pytest.raises(OutputError, match=r"the crosswalk .* cannot be written"):
        crosswalk.write(tmp_path / "site.key", "x", [("p-1", "Anna")])


def test_an_ingest_says_where_the_way_back_of_what_it_left_out_lies(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "source").mkdir()
    Image.fromarray(np.arange(4096, dtype=np.uint8).reshape(64, 64)).save(tmp_path / "source" / "a.png")
    (tmp_path / "source" / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    places = {"source": tmp_path / "source", "dataset": tmp_path / "out", "key": tmp_path / "site.key"}
    with caplog.at_level(logging.INFO):
        ingest(IngestConfig.parse({**places, "tracking": {"enabled": False}}))
    assert f"{tmp_path / 'site.key.crosswalk' / 'out.csv'} maps the pseudonyms to files" in caplog.text
