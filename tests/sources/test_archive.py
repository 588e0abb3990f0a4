from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from medvit.errors import ConfigError, DataError, SourceError
from medvit.phantoms import write_ct_studies
from medvit.sources import Local, RetrieveConfig, archive, clear, fetch
from pipelines.ingest import IngestConfig, ingest

FILES = {"b/2.dcm": b"two", "a/1": b"one", "a/.hidden": b"x", "__MACOSX/a/1": b"x"}
TAR_MODES = {"x.tar": "w", "x.tar.gz": "w:gz", "x.TGZ": "w:gz", "x.tar.bz2": "w:bz2", "x.tar.xz": "w:xz"}

Packer = Callable[[Path, Mapping[str, bytes]], Path]


def zipped(path: Path, files: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as made:
        for name, content in files.items():
            made.writestr(name, content)
    return path


def tarred(path: Path, files: Mapping[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as made:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            made.addfile(info, io.BytesIO(content))
    return path


def unpacked(path: Path, work: Path, **options: object) -> Local:
    return fetch(str(path), RetrieveConfig.parse(options), work=work)


def contents(local: Local) -> dict[str, bytes]:
    return {path.relative_to(local.root).as_posix(): path.read_bytes() for path in local.files}


@pytest.mark.parametrize("name", ["x.zip", *TAR_MODES])
def test_the_files_come_out_sorted_without_the_hidden(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    made = zipped(path, FILES) if name == "x.zip" else tarred(path, FILES, TAR_MODES[name])
    local = unpacked(made, tmp_path / "work")
    assert list(contents(local).items()) == [("a/1", b"one"), ("b/2.dcm", b"two")]
    assert local.refusals == ()
    local.discard()
    assert list((tmp_path / "work").iterdir()) == []


def test_a_dataset_from_an_archive_is_the_one_from_the_folder(tmp_path: Path) -> None:
    write_ct_studies(tmp_path / "source", 1)
    files = {
        p.relative_to(tmp_path / "source").as_posix(): p.read_bytes() for p in (tmp_path / "source").rglob("*.dcm")
    }
    sources = {
        "folder": tmp_path / "source",
        "zip": zipped(tmp_path / "x.zip", files),
        "tar": tarred(tmp_path / "x.tgz", files, "w:gz"),
    }
    made = set()
    for name, source in sources.items():
        tree = {"source": source, "dataset": tmp_path / name, "name": "test", "key": tmp_path / "key"}
        made.add(ingest(IngestConfig.parse({**tree, "tracking": {"enabled": False}})).hash)
        assert not list((tmp_path / name).rglob("*.dcm"))
    assert len(made) == 1


def test_of_an_archive_that_was_cut_short_nothing_is_left_behind(tmp_path: Path) -> None:
    whole = tarred(tmp_path / "x.tar", {f"{n}": os.urandom(4000) for n in range(20)}).read_bytes()
    (tmp_path / "x.tar").write_bytes(whole[:40_000])
    with pytest.raises(SourceError, match="damaged or truncated"):
        unpacked(tmp_path / "x.tar", tmp_path / "work")
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize("earlier", ["another state of the archive", "another source"])
def test_what_an_earlier_run_fetched_never_reaches_the_dataset(
    tmp_path: Path, earlier: str, caplog: pytest.LogCaptureFixture
) -> None:
    write_ct_studies(tmp_path / "source", 1)
    files = {p.name: p.read_bytes() for p in (tmp_path / "source").rglob("*.dcm")}
    tree = {"dataset": tmp_path / "made", "name": "test", "key": tmp_path / "key", "tracking": {"enabled": False}}
    partial = tmp_path / "made.partial"
    unpacked(zipped(tmp_path / "x.zip", files), partial)  # as after a killed run
    assert list(partial.rglob("*.dcm"))
    archive_now = zipped(tmp_path / "x.zip", {**files, "more.txt": b"more"})
    source = archive_now if earlier == "another state of the archive" else tmp_path / "source"
    manifest = ingest(IngestConfig.parse({**tree, "source": source, "resume": True}))
    assert manifest.rows
    assert not [path for path in (tmp_path / "made").rglob("*") if path.suffix in (".dcm", ".txt")]
    assert not (tmp_path / "made" / ".spool").exists()


@pytest.mark.parametrize("spool", ["made.partial/kept", "made/kept", "made"])
def test_a_spool_in_the_output_is_refused_at_once(tmp_path: Path, spool: str) -> None:
    archive = zipped(tmp_path / "x.zip", {"a.png": b"x"})
    tree = {"source": archive, "dataset": tmp_path / "made", "key": tmp_path / "key", "tracking": {"enabled": False}}
    with pytest.raises(ConfigError, match=r"retrieve\.spool is inside the output"):
        ingest(IngestConfig.parse({**tree, "retrieve": {"spool": tmp_path / spool, "keep": True}}))
    assert not list(tmp_path.glob("made*"))


@pytest.mark.parametrize("is_link", [False, True])
def test_what_is_called_as_the_spool_and_is_none_goes_without_what_it_leads_to(tmp_path: Path, is_link: bool) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "x").touch()
    spool = tmp_path / ".spool"
    spool.symlink_to(tmp_path / "precious") if is_link else spool.touch()
    clear(tmp_path)
    assert not spool.is_symlink()
    assert not spool.exists()
    assert (tmp_path / "precious" / "x").exists()


def test_a_run_that_goes_on_with_another_source_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_ct_studies(tmp_path / "source", 1)
    broken = tmp_path / "x.zip"
    broken.write_bytes(b"no archive")
    tree = {"dataset": tmp_path / "made", "key": tmp_path / "key", "tracking": {"enabled": False}}
    (tmp_path / "made.partial").mkdir()
    (tmp_path / "made.partial" / "kept").touch()  # else there is nothing to resume
    with pytest.raises(SourceError):
        ingest(IngestConfig.parse({**tree, "source": broken, "resume": True}))
    ingest(IngestConfig.parse({**tree, "source": tmp_path / "source", "resume": True}))
    assert "the source differs from that of the unfinished run" in caplog.text


@pytest.mark.parametrize("name", ["../out", "/etc/out", "a/../../out", "..\\out", "C:\\out", "a/" + "n" * 300])
def test_a_name_that_leads_out_is_refused_and_nothing_is_written_there(tmp_path: Path, name: str) -> None:
    for make, path in ((zipped, tmp_path / "x.zip"), (tarred, tmp_path / "x.tar")):
        local = unpacked(make(path, {name: b"bad", "good": b"good"}), tmp_path / "work" / path.suffix)
        assert contents(local) == {"good": b"good"}
        (refusal,) = local.refusals
        assert "leads out" in refusal.reason
        assert "out" not in str(refusal.files[0].relative_to(local.root))
    assert not list(tmp_path.rglob("out"))


def test_links_and_devices_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as made:
        for name, kind in (("sym", tarfile.SYMTYPE), ("hard", tarfile.LNKTYPE), ("fifo", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            made.addfile(info)
    local = unpacked(tmp_path / "x.tar", tmp_path / "tar")
    assert sorted(refusal.reason.split()[3] for refusal in local.refusals) == ["device", "link", "link"]
    link = zipfile.ZipInfo("sym")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as made_zip:
        made_zip.writestr(link, "/etc/passwd")
    local = unpacked(tmp_path / "x.zip", tmp_path / "zip")
    assert local.files == ()
    assert "link" in local.refusals[0].reason


def test_an_archive_within_an_archive_or_a_folder_is_refused_with_a_reason(tmp_path: Path) -> None:
    inner = zipped(tmp_path / "inner.zip", {"1.dcm": b"x"}).read_bytes()
    local = unpacked(zipped(tmp_path / "x.zip", {"study.zip": inner, "b": b"b"}), tmp_path / "work")
    assert list(contents(local)) == ["b"]
    assert "archive inside of an archive" in local.refusals[0].reason
    (tmp_path / "folder").mkdir()
    zipped(tmp_path / "folder/study.zip", {"1.dcm": b"x"})
    (tmp_path / "folder/b").touch()
    local = fetch(str(tmp_path / "folder"), RetrieveConfig(), work=tmp_path)
    assert [path.name for path in local.files] == ["b"]
    assert "archive inside the source" in local.refusals[0].reason


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz"])
def test_a_bomb_is_refused_before_it_fills_the_disk(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "RATIO_BYTES", 2**20)
    bomb = {"first": bytes(1000), "zeros": bytes(2**23)}
    made = zipped(tmp_path / name, bomb) if name == "x.zip" else tarred(tmp_path / name, bomb, "w:gz")
    with pytest.raises(SourceError, match="more than 250 times its size"):
        unpacked(made, tmp_path / "work")
    assert list((tmp_path / "work").iterdir()) == []


def test_more_than_the_limit_is_not_unpacked(tmp_path: Path) -> None:
    made = zipped(tmp_path / "x.zip", {"noise": os.urandom(5000)})
    with pytest.raises(SourceError, match=r"retrieve\.max_gib"):
        unpacked(made, tmp_path / "work", max_gib=1e-6)


def test_what_an_interrupted_run_unpacked_is_not_unpacked_again(tmp_path: Path) -> None:
    made = tarred(tmp_path / "x.tar", {"1": bytes(50_000), "2": bytes(50_000)})
    with pytest.raises(SourceError, match=r"retrieve\.max_gib"):
        unpacked(made, tmp_path / "work", max_gib=70_000 / 2**30)
    (first,) = (tmp_path / "work").rglob("1")
    inode = first.stat().st_ino
    assert len(unpacked(made, tmp_path / "work").files) == 2
    assert first.stat().st_ino == inode


def test_one_damaged_file_costs_no_other(tmp_path: Path) -> None:
    made = zipped(tmp_path / "x.zip", {"1": b"damaged" * 9, "2": b"good"}, zipfile.ZIP_STORED)
    made.write_bytes(made.read_bytes().replace(b"damaged", b"DAMAGED", 1))
    local = unpacked(made, tmp_path / "work")
    assert contents(local) == {"2": b"good"}
    assert local.refusals[0].code == "unreadable"


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04 no zip", gzip.compress(b"no tar", mtime=0), b"\x1f\x8bbroken"],
    ids=["empty", "no zip", "no tar", "broken gzip"],
)
def test_what_is_no_archive_is_told(tmp_path: Path, content: bytes) -> None:
    for name in ("x.zip", "x.tar.gz"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises((SourceError, DataError), match="the archive"):
            unpacked(tmp_path / name, tmp_path / "work")


def test_an_empty_archive_and_one_of_an_unknown_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="contains no files"):
        unpacked(zipped(tmp_path / "x.zip", {}), tmp_path / "work")
    (tmp_path / "x.7z").touch()
    with pytest.raises(DataError, match="of an unsupported kind"):
        unpacked(tmp_path / "x.7z", tmp_path / "work")


def test_an_encrypted_file_is_refused(tmp_path: Path) -> None:
    made = zipped(tmp_path / "x.zip", {"1": b"secret", "2": b"open"}, zipfile.ZIP_STORED)
    content = bytearray(made.read_bytes())
    content[6] |= 1  # general purpose flag of the first local header
    content[content.index(b"PK\x01\x02") + 8] |= 1  # and of its entry in the directory
    made.write_bytes(content)
    local = unpacked(made, tmp_path / "work")
    assert contents(local) == {"2": b"open"}
    assert "encrypted" in local.refusals[0].reason


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a"), ("a/b/c", "a")])
@pytest.mark.parametrize("pack", [zipped, tarred])
def test_a_file_called_as_a_folder_costs_no_other(tmp_path: Path, names: tuple[str, str], pack: Packer) -> None:
    path = pack(tmp_path / "x.zip", {names[0]: b"first", names[1]: b"second", "z": b"other"})
    local = unpacked(path, tmp_path / "work")
    assert contents(local) == {names[0]: b"first", "z": b"other"}
    assert ["a file and a folder of one name" in one.reason for one in local.refusals] == [True]
