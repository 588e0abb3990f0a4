"""An update of a dataset reads only the new files of the source."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from medvit import phantoms, readers
from medvit.dataset import quarantine
from medvit.dataset.manifest import Manifest
from medvit.errors import DataError
from medvit.ingest import file_stamps, header_cache
from medvit.ingest.file_stamps import Changes, compare
from medvit.ingest.header_cache import HeaderCache
from medvit.phantoms.large_archive import write_archive
from medvit.series import planes
from pipelines.ingest import IngestConfig, ingest

NUM_SERIES, NUM_SLICES = 5, 4


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    write_archive(folder, num_series=NUM_SERIES, num_slices=NUM_SLICES)
    (folder / "broken.dcm").write_bytes(bytes(128) + b"DICM broken")
    return folder


def made(source: Path, dataset: str, **options: object) -> Manifest:
    key = source.parent / "site.key"
    config = {"source": source, "dataset": source.parent / dataset, "key": key, "tracking": {"enabled": False}}
    return ingest(IngestConfig.parse({**config, **options}))


def contents(dataset: Path) -> dict[str, bytes]:
    """The bytes of all files except those about the run."""
    of_the_run = ("config.yaml", "lineage.json", "medvit.log")
    files = [path for path in dataset.rglob("*") if path.is_file() and path.name not in of_the_run]
    return {path.relative_to(dataset).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the DICOM files that are read, for their header or their pixels."""
    names: list[str] = []

    def noting(read: Callable[..., object]) -> Callable[..., object]:
        def noted(path: Path, *given: object, **options: object) -> object:
            names.append(path.relative_to(path.parents[2]).as_posix())
            return read(path, *given, **options)

        return noted

    for module, name in ((planes, "read_elements"), (planes, "open_elements"), (planes, "read_native")):
        monkeypatch.setattr(module, name, noting(getattr(module, name)))
    return names


def test_an_unchanged_source_makes_the_same_dataset_and_no_file_is_read(
    source: Path, opened: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    first = made(source, "first")
    opened.clear()
    caplog.set_level(logging.INFO, "medvit")
    second = made(source, "second", update=source.parent / "first")
    assert opened == []
    assert second.hash == first.hash
    assert contents(source.parent / "second") == contents(source.parent / "first")
    assert "0 added, 0 changed, 0 removed, 21 unchanged" in caplog.text


def test_stored_pixels_are_shared_and_outlive_the_earlier_dataset(source: Path) -> None:
    first = made(source, "first")
    second = made(source, "second", update=source.parent / "first")
    row = first.rows[0]
    assert first.store.path(row.sha256).samefile(second.store.path(row.sha256))
    first.store.path(row.sha256).unlink()
    assert second.store.get(row.sha256).shape == row.shape


def test_what_was_added_changed_and_removed_is_found(
    source: Path, tmp_path: Path, opened: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    made(source, "first")
    series = sorted(path for path in source.glob("0000/*") if path.is_dir())
    for file in series[0].iterdir():  # a patient is withdrawn
        file.unlink()
    changed = sorted(series[1].iterdir())[2]
    content = bytearray(changed.read_bytes())
    content[-1] ^= 1
    changed.write_bytes(content)
    write_archive(tmp_path / "more", num_series=NUM_SERIES + 1, num_slices=NUM_SLICES)
    (tmp_path / "more/0000/000005").rename(source / "0000/000005")

    opened.clear()
    caplog.set_level(logging.INFO, "medvit")
    updated = made(source, "second", name="first", update=source.parent / "first")

    assert "4 added, 1 changed, 4 removed, 16 unchanged" in caplog.text
    assert {Path(name).parent.name for name in opened} == {series[1].name, "000005"}
    times = {number: sum(name.endswith(f"000001/000{number}.dcm") for name in opened) for number in (1, 2)}
    assert times == {1: 1, 2: 2}, "of the changed series all pixels are read, but the header of the changed file alone"
    assert updated.hash == made(source, "afresh", name="first").hash
    assert len(updated) == NUM_SERIES


def test_a_file_with_another_header_under_the_same_size_and_time_has_changed(source: Path) -> None:
    made(source, "first")
    file = min(source.rglob("*.dcm"))
    status = file.stat()
    file.write_bytes(file.read_bytes().replace(b"PHANTOM-0", b"PHANTOM-9"))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file_stamps.stamp(file)[:2] == (status.st_size, status.st_mtime_ns)
    assert (
        made(source, "second", name="first", update=source.parent / "first").hash
        != Manifest.read(source.parent / "first").hash
    )


def test_other_options_of_reading_are_not_taken_from_before(tmp_path: Path) -> None:
    source = tmp_path / "source"
    phantoms.write_ct_pairs(source, 2)
    made(source, "first", scanning={"modality": "CT"})
    second = made(source, "second", name="first", scanning={"modality": "MR"}, update=tmp_path / "first")
    assert {row.modality for row in second} == {"MR"}


def test_the_card_is_made_anew_when_it_has_more_to_tell(source: Path, tmp_path: Path) -> None:
    made(source, "first")
    prose = tmp_path / "prose.md"
    prose.write_text("---\nname: first\nlicence: CC0\n---\n\nWritten by a person.\n")
    made(source, "second", name="first", update=tmp_path / "first", facts={"card": prose})
    assert "Written by a person." in (tmp_path / "second" / "card.md").read_text()
    assert "Written by a person." not in (tmp_path / "first" / "card.md").read_text()
    (source / "notes.txt").write_text("no image")
    made(source, "third", name="first", update=tmp_path / "second", facts={"card": prose})
    third, afresh = ((tmp_path / name / "card.md").read_text() for name in ("third", "second"))
    assert third != afresh, "one more file is left out"


def test_refusals_are_remembered_with_their_reasons(source: Path, opened: list[str]) -> None:
    made(source, "first")
    opened.clear()
    made(source, "second", update=source.parent / "first")
    first, second = (quarantine.read(source.parent / name) for name in ("first", "second"))
    assert opened == []
    assert first == second
    assert len(first) == 1


def test_a_lost_or_damaged_memory_costs_only_time(source: Path) -> None:
    first = made(source, "first")
    path = tmp_memory(source)
    path.write_bytes(path.read_bytes()[:-40].replace(b"rows", b"rowz"))
    assert made(source, "second", update=source.parent / "first").hash == first.hash
    path.unlink()
    assert made(source, "third", name="first", update=source.parent / "first").hash == first.hash


def tmp_memory(source: Path) -> Path:
    (path,) = (source.parent / "site.key.headers").iterdir()
    return path


def test_headers_lie_beside_the_key_for_nobody_else_to_read(source: Path) -> None:
    made(source, "first")
    path = tmp_memory(source)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert b"PHANTOM-00000001" in path.read_bytes()
    everything = b"".join(contents(source.parent / "first").values())
    assert b"PHANTOM-" not in everything
    assert b"000001" not in (source.parent / "first" / file_stamps.FILE_NAME).read_bytes()


def test_headers_that_shall_not_be_kept_are_removed_and_their_lack_costs_only_time(
    source: Path, opened: list[str]
) -> None:
    first = made(source, "first")
    path = tmp_memory(source)
    assert made(source, "second", name="first", keep_headers=False).hash == first.hash
    assert not path.exists()
    opened.clear()
    assert made(source, "third", update=source.parent / "first", keep_headers=False).hash == first.hash
    assert NUM_SERIES * NUM_SLICES <= len(opened) < 2 * NUM_SERIES * NUM_SLICES, "headers are read anew, pixels are not"
    assert not path.exists()


def test_a_dataset_to_update_must_be_one(source: Path) -> None:
    with pytest.raises(DataError, match="is not a dataset"):
        made(source, "second", update=source.parent / "nothing")


def test_changes_are_counted() -> None:
    assert compare({"a": "1", "b": "1", "c": "1"}, {"b": "1", "c": "2", "d": "1"}) == Changes(1, 1, 1, 1)


def test_nothing_is_recalled_of_a_state_never_seen() -> None:
    assert HeaderCache({}).recall(Path("x"), "0" * header_cache.STATE_BYTES) is None


def test_a_room_whose_version_rises_is_not_trusted(
    source: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made(source, "first")
    opened.clear()
    monkeypatch.setattr(readers, "VERSION", readers.VERSION + 1)
    file_stamps.version_of.cache_clear()
    made(source, "second", update=source.parent / "first")
    file_stamps.version_of.cache_clear()
    assert len(opened) >= NUM_SERIES * NUM_SLICES


def test_paths_that_are_not_utf8_are_taken_and_remembered(source: Path) -> None:
    plain = made(source, "plain")
    odd = Path(os.fsdecode(os.fsencode(source / "caf") + b"\xe9"))
    next(path for path in sorted(source.iterdir()) if path.is_dir()).rename(odd)
    first = made(source, "first")
    assert sorted(row.sha256 for row in first) == sorted(row.sha256 for row in plain)
    again = made(source, "again", name="first", update=source.parent / "first")
    assert again.hash == first.hash
    kept = header_cache.lines(source.parent / "site.key", "first")
    (dicom,) = sorted(odd.rglob("*.dcm"))[:1]
    state = next(state for state, line in kept.items() if line)
    assert HeaderCache(kept).recall(dicom, state) is not None
