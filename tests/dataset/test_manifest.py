"""A manifest comes back as it was written, and its hash names its content."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from medvit.dataset import quarantine
from medvit.dataset.manifest import FILE_NAME, Facts, Manifest
from medvit.errors import DataError
from medvit.records import Row

FACTS = Facts(
    name="phantoms", license="CC0", classes={"label": ("no", "yes")}, mask_classes=("background", "liver", "spleen")
)


def row(number: int, **changes: object) -> Row:
    plain = Row(
        image_id=f"i-{number:02d}",
        patient_id=f"p-{number:02d}",
        study_id="s-00",
        series_id="e-00",
        modality="CT",
        kind="volume",
        dataset="phantoms",
        split="train",
        shape=(1, 4, 5, 6),
        dtype="int16",
        sha256="ab" * 32,
    )
    return replace(plain, **changes)


FULL = row(
    2,
    labels={"label": "yes", "age": "40"},
    mask="cd" * 32,
    spacing_mm=(0.7, 0.7, 2.5),
    affine=tuple(float(n) for n in range(16)),
    mpp=0.25,
    slope=0.1,
    intercept=-1024.0,
    unit="HU",
    split="test",
)
FIRST_SCHEMA = FULL
FULL = replace(
    FULL,
    flags=("tiny",),
    perceptual_hash="ab" * 32,
    file_sha256="ef" * 32,
    patient_is_assumed=True,
    attributes={"sex": "F", "kvp": "120"},
    annotated=("liver",),
)


def test_writing_and_reading_keeps_every_field(tmp_path: Path) -> None:
    written = Manifest((row(1), FULL), FACTS, tmp_path)
    written.write()
    read = Manifest.read(tmp_path)
    assert read.rows == written.rows
    assert read.facts == FACTS
    assert read.hash == written.hash


def test_an_empty_manifest_is_a_manifest(tmp_path: Path) -> None:
    Manifest((), FACTS, tmp_path).write()
    assert len(Manifest.read(tmp_path)) == 0


def test_the_order_of_rows_and_the_folder_do_not_change_the_hash(tmp_path: Path) -> None:
    one, other = Manifest((row(1), FULL), FACTS, tmp_path), Manifest((FULL, row(1)), FACTS, tmp_path / "elsewhere")
    assert one.hash == other.hash


def test_the_order_of_rows_does_not_change_the_file(tmp_path: Path) -> None:
    for name, rows in (("a", (row(1), FULL)), ("b", (FULL, row(1)))):
        (tmp_path / name).mkdir()
        Manifest(rows, FACTS, tmp_path / name).write()
    assert (tmp_path / "a" / FILE_NAME).read_bytes() == (tmp_path / "b" / FILE_NAME).read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        {"split": "val"},
        {"sha256": "00"},
        {"labels": {"label": "no"}},
        {"slope": 2.0},
        {"flags": ()},
        {"annotated": ("liver",)},
        {"annotated": ()},
    ],
)
def test_any_change_of_a_row_changes_the_hash(tmp_path: Path, change: dict[str, object]) -> None:
    assert Manifest((row(1),), FACTS, tmp_path).hash != Manifest((row(1, **change),), FACTS, tmp_path).hash


def test_that_a_patient_is_assumed_is_of_the_hash_and_that_one_is_named_is_not(tmp_path: Path) -> None:
    unset, named, assumed = (
        Manifest((row(1, patient_is_assumed=value),), FACTS, tmp_path).hash for value in (None, False, True)
    )
    assert unset == named != assumed, "a dataset of an earlier schema keeps its hash"


def test_a_change_of_the_facts_changes_the_hash(tmp_path: Path) -> None:
    assert Manifest((), FACTS, tmp_path).hash != Manifest((), replace(FACTS, license=""), tmp_path).hash


def test_notes_are_kept_and_are_not_of_the_hash(tmp_path: Path) -> None:
    noted = replace(FACTS, notes=("the copy lacks something",))
    Manifest((), noted, tmp_path).write()
    read = Manifest.read(tmp_path)
    assert read.facts == noted
    assert read.hash == Manifest((), FACTS, tmp_path).hash


def test_a_split_holds_its_rows_only(tmp_path: Path) -> None:
    assert Manifest((row(1), FULL), FACTS, tmp_path).split("test").rows == (FULL,)


def test_an_empty_split_says_what_was_found(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no rows in the split 'val' \(found \{'train': 1, 'test': 1\}\)"):
        Manifest((row(1), FULL), FACTS, tmp_path).split("val")


def test_a_folder_without_manifest_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="medvit ingest"):
        Manifest.read(tmp_path / "absent")


def test_a_damaged_manifest_is_told(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"PAR1 and then nothing")
    with pytest.raises(DataError, match="damaged"):
        Manifest.read(tmp_path)


def test_a_manifest_of_a_newer_schema_is_refused(tmp_path: Path) -> None:
    Manifest((row(1),), FACTS, tmp_path).write()
    table = pq.read_table(tmp_path / FILE_NAME)
    pq.write_table(table.replace_schema_metadata({"medvit_schema": "99", "medvit_facts": "{}"}), tmp_path / FILE_NAME)
    with pytest.raises(DataError, match="schema version 99"):
        Manifest.read(tmp_path)


def test_a_parquet_file_of_someone_else_is_refused(tmp_path: Path) -> None:
    Manifest((row(1),), FACTS, tmp_path).write()
    table = pq.read_table(tmp_path / FILE_NAME)
    pq.write_table(table.replace_schema_metadata(None), tmp_path / FILE_NAME)
    with pytest.raises(DataError, match="schema version 0"):
        Manifest.read(tmp_path)


def test_a_manifest_of_the_first_schema_is_read_and_keeps_its_hash(tmp_path: Path) -> None:
    written = Manifest((row(1), FIRST_SCHEMA), FACTS, tmp_path)
    written.write()
    table = pq.read_table(tmp_path / FILE_NAME)
    older = table.drop_columns(["part", "flags", "perceptual_hash", "file_sha256", "attributes"])
    metadata = dict(table.schema.metadata) | {b"medvit_schema": b"1"}
    pq.write_table(older.replace_schema_metadata(metadata), tmp_path / FILE_NAME)
    read = Manifest.read(tmp_path)
    assert read.rows == written.rows
    assert read.hash == "efebf24bf387983f1e3130503b99ee80b38921a6485e82c8a4afdb59d6be6565"


def test_flagged_images_can_be_left_out(tmp_path: Path) -> None:
    rows = (row(1, flags=()), row(2, flags=("blank", "tiny")), row(3, flags=("tiny",)))
    manifest = Manifest(rows, FACTS, tmp_path)
    assert manifest.without_flags(()) is manifest
    assert manifest.without_flags(["blank"]).rows == (rows[0], rows[2])
    assert manifest.without_flags(["blank", "tiny"]).rows == rows[:1]


def test_flags_that_nobody_looked_for_cannot_be_left_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 of 2 images were not checked for flags"):
        Manifest((row(1), row(2, flags=())), FACTS, tmp_path).without_flags(["blank"])


def test_leaving_out_every_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="all 1 images have a flag"):
        Manifest((row(1, flags=("tiny",)),), FACTS, tmp_path).without_flags(["tiny"])


def test_writing_leaves_no_partial_file(tmp_path: Path) -> None:
    Manifest((row(1),), FACTS, tmp_path).write()
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_a_dataset_folder_may_move(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    written = Manifest((row(1),), FACTS, tmp_path / "a")
    written.write()
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert Manifest.read(tmp_path / "b").hash == written.hash


def test_rows_are_written_in_groups_and_come_back_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medvit.dataset.manifest.ROWS_A_GROUP", 10)
    rows = tuple(row(number) for number in reversed(range(25)))
    Manifest(rows, Facts("x"), tmp_path).write()
    assert pq.ParquetFile(tmp_path / FILE_NAME).num_row_groups == 3
    assert [one.image_id for one in Manifest.read(tmp_path)] == [f"i-{number:02d}" for number in range(25)]
    assert Facts.of_dataset(tmp_path) == Facts("x")


def test_a_dataset_without_a_positive_class_keeps_its_hash_and_one_with_it_remembers_it(tmp_path: Path) -> None:
    plain = Manifest((FULL,), FACTS, tmp_path)
    labeled = replace(plain, facts=replace(FACTS, positive={"label": "yes"}))
    labeled.write()
    assert Facts.of_dataset(tmp_path).positive == {"label": "yes"}
    assert labeled.hash != plain.hash
    stored = {key: value for key, value in asdict(FACTS).items() if key not in ("positive", "notes")}
    stored["licence"] = stored.pop("license")
    lines = json.dumps(stored, sort_keys=True)
    plain.write()
    metadata = pq.read_schema(tmp_path / FILE_NAME).metadata
    assert metadata[b"medvit_facts"].decode() == lines


def test_a_dataset_tells_images_patients_splits_labels_and_what_was_refused_by_reason(tmp_path: Path) -> None:
    slide = row(4, kind="slide", study_id="s-01", patient_is_assumed=True, labels={"label": "no"})
    manifest = Manifest((row(1, labels={"label": "no"}), FULL, slide), FACTS, tmp_path)
    manifest.write()
    gaps = [quarantine.Quarantined(f"f-{n}", "geometry", f"gap {gap}", 30) for n, gap in enumerate((1, 1, 2))]
    quarantine.write([*gaps, quarantine.Quarantined("f-9", "unreadable", "damaged", 1)], tmp_path)
    assert manifest.summary().text(tmp_path).splitlines() == [
        "  images    1 slide, 2 volumes",
        "  studies   2",
        "  patients  3 (2 assumed)",
        "  splits    train 2, val 0, test 1",
        "  labels    age: 40 (1)",
        "            label: no (2), yes (1)",
        "            label maps of 1 image: background, liver, spleen",
        "  refused   90 files, geometry: gap 1 (and 1 other reason)",
        "            1 file, unreadable: damaged",
        f"  folder    {tmp_path}",
        "  open      quarantine.parquet (what was refused)",
        "            manifest.parquet (a row for each image)",
    ]


def write_as_before_values(manifest: Manifest) -> None:
    """Write a manifest as versions did that stored `values` in the configuration alone."""
    manifest.write()
    path = manifest.folder / FILE_NAME
    table = pq.read_table(path)
    metadata = table.schema.metadata
    facts = json.loads(metadata[b"medvit_facts"])
    del facts["values"]
    pq.write_table(table.replace_schema_metadata({**metadata, b"medvit_facts": json.dumps(facts)}), path)


@pytest.mark.parametrize("tree", [{"values": {"pet": "SUVbw"}}, {"taking": {"values": {"pet": "SUVbw"}}}])
def test_values_of_a_dataset_of_earlier_versions_are_those_of_its_configuration(
    tmp_path: Path, tree: dict[str, object]
) -> None:
    manifest = Manifest((FULL,), FACTS, tmp_path)
    write_as_before_values(manifest)
    assert Manifest.read(tmp_path).facts.values == {}
    (tmp_path / "config.yaml").write_text(json.dumps(tree), encoding="utf-8")
    assert Manifest.read(tmp_path).facts.values == {"pet": "SUVbw"}
    assert Manifest.read(tmp_path).hash == manifest.hash


def test_a_manifest_says_its_values_even_if_there_are_none(tmp_path: Path) -> None:
    Manifest((FULL,), FACTS, tmp_path).write()
    (tmp_path / "config.yaml").write_text("not: [YAML", encoding="utf-8")  # is not read
    assert Manifest.read(tmp_path).facts.values == {}
