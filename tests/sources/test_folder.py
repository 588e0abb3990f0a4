from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from medvit import readers
from medvit.errors import DataError
from medvit.ingest.scan import scan
from medvit.sources.folder import files, local


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
    with pytest.raises(DataError, match="contains no files"):
        files(tmp_path)


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A folder with one file, and with paths that are not regular files."""
    source = tmp_path / "source"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.png").write_bytes(b"x")
    (source / "b").mkdir(parents=True)
    (source / "a.txt").write_text("text")
    os.mkfifo(source / "b" / "pipe")
    (source / "circle").symlink_to(source / "circle")
    (source / "folder").symlink_to(tmp_path / "elsewhere")
    (source / "linked.png").symlink_to(tmp_path / "elsewhere" / "x.png")
    (source / "lost").symlink_to(tmp_path / "gone")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(source / "socket"))
    return source


def test_what_is_no_regular_file_is_refused_with_what_it_is_and_never_waited_for(odd: Path):
    found = local(odd)
    assert [file.name for file in found.files] == ["a.txt", "linked.png"]
    reasons = {refusal.files[0].name: refusal.reason.split(";")[0] for refusal in found.refusals}
    assert reasons == {
        "pipe": "a named pipe",
        "circle": "a broken link",
        "folder": "a link to a folder, which is not followed",
        "lost": "a broken link",
        "socket": "a socket",
    }


def test_a_scan_tells_of_each_of_them(odd: Path):
    assert {refusal.files[0].name for refusal in scan(odd).refusals} == {
        "a.txt",
        "pipe",
        "circle",
        "folder",
        "linked.png",
        "lost",
        "socket",
    }


def test_a_pipe_as_the_source_or_as_a_file_to_look_at_is_refused_at_once(odd: Path):
    with pytest.raises(DataError, match=r"pipe is a named pipe; give source=PATH"):
        local(odd / "b" / "pipe")
    seen = readers.scan_file(odd / "b" / "pipe")
    assert seen.refusal is not None
    assert seen.refusal.reason == "the file cannot be opened: Not a regular file"


def test_a_folder_of_nothing_but_links_says_so(odd: Path, tmp_path: Path):
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "folder").symlink_to(odd)
    assert [refusal.reason.split(",")[0] for refusal in local(tmp_path / "links").refusals] == ["a link to a folder"]
