from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from medvit.errors import ConfigError, SourceError
from medvit.sources.spool import Spool
from tests.processes.forked import Forked, heard, say

NAME = PurePosixPath("study/series/1.dcm")


def opened(parent: Path, *facts: object, is_kept: bool = False, max_gib: float = 1.0) -> Spool:
    return Spool.open(parent, facts or ("source",), is_kept=is_kept, max_gib=max_gib)


def put(spool: Spool, name: PurePosixPath = NAME, content: bytes = b"content") -> None:
    with spool.part() as part:
        part.write(content)
        part.keep(name)


def test_a_file_is_there_once_it_is_whole_and_in_a_later_run(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    with spool.part() as part:
        part.write(b"half")
        assert not spool.has(NAME)
    assert not spool.has(NAME)
    put(spool)
    assert spool.has(NAME)
    spool.close()
    again = opened(tmp_path)
    assert again.has(NAME)
    assert again.path(NAME).read_bytes() == b"content"


def test_a_file_fetched_again_is_unchanged_and_another_one_is_not(tmp_path: Path) -> None:
    times = set[float]()
    for number, content in enumerate([b"content", b"content", b"contend"]):
        spool = opened(tmp_path / str(number))
        put(spool, content=content)
        times.add(spool.path(NAME).stat().st_mtime)
    assert len(times) == 2


def test_a_file_that_lost_its_end_counts_as_missing(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    put(spool)
    spool.path(NAME).write_bytes(b"con")
    assert not spool.has(NAME)


def test_a_book_cut_off_by_a_crash_loses_its_last_line_only(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    put(spool)
    put(spool, PurePosixPath("2.dcm"))
    spool.close()
    (book,) = tmp_path.glob("*/whole.jsonl")
    book.write_bytes(book.read_bytes()[:-4])
    again = opened(tmp_path)
    assert again.has(NAME)
    assert not again.has(PurePosixPath("2.dcm"))
    put(again, PurePosixPath("3.dcm"))
    again.close()
    assert opened(tmp_path).has(PurePosixPath("3.dcm"))


def test_only_the_owner_may_look_into_it(tmp_path: Path) -> None:
    opened(tmp_path / "cache")
    (folder,) = (tmp_path / "cache").iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700


def test_what_is_discarded_is_gone_and_what_is_kept_stays(tmp_path: Path) -> None:
    spool, kept = opened(tmp_path / "a"), opened(tmp_path / "b", is_kept=True)
    for one in (spool, kept):
        put(one)
        one.discard()
    assert not (tmp_path / "a").exists()
    assert kept.path(NAME).is_file()


def test_one_that_holds_nothing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(SourceError), opened(tmp_path / "spool").closed_on_failure():
        raise SourceError("no server")
    assert not (tmp_path / "spool").exists()


def test_sources_do_not_mix(tmp_path: Path) -> None:
    put(opened(tmp_path, "one"))
    assert not opened(tmp_path, "two").has(NAME)


def test_more_bytes_than_allowed_are_refused(tmp_path: Path) -> None:
    spool = opened(tmp_path, max_gib=1e-6)
    with pytest.raises(SourceError, match=r"more than 1e-06 GiB.*retrieve\.max_gib"):
        put(spool, content=bytes(2000))
    assert not spool.has(NAME)


def hold(folder: Path) -> None:
    spool = opened(folder)
    say("open")
    heard()
    del spool


def test_a_second_process_is_refused_the_same_spool(tmp_path: Path) -> None:
    with Forked(hold, tmp_path) as other:
        assert other.line() == "open\n"
        with pytest.raises(ConfigError, match="another run"):
            opened(tmp_path)
        other.tell("")
    opened(tmp_path)
