"""A survey counts the contents of a source, and its printed text cannot name anyone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medvit.errors import UnreadableError
from medvit.ingest.labels import LabelFrom
from medvit.ingest.scan import scan
from medvit.ingest.survey.found import Survey, survey
from medvit.ingest.survey.images import groups
from medvit.ingest.survey.names import names_nobody, suggested_modalities
from medvit.ingest.survey.screen import screen
from medvit.records import Candidate

Write = Callable[..., Path]


def shown(found: Survey) -> str:
    return "\n".join(screen(found))


def look(source: Path, *, label_from: LabelFrom = "auto", table: Path | None = None) -> Survey:
    return survey(scan(source), label_from=label_from, table=table)


def write_classes(write_png: Write, *names: str, num_images: int = 5) -> Path:
    for name in names:
        for n in range(num_images):
            path = write_png(f"{name}/{n}.png", n)
    return path.parents[1]


def test_images_are_counted_by_kind_and_modality_with_the_range_of_their_sizes(
    tmp_path: Path, write_series: Callable[..., object]
) -> None:
    write_series()
    nib.save(nib.Nifti1Image(np.zeros((8, 5, 9), np.int16), np.diag([2, 1, 1, 1])), tmp_path / "x.nii.gz")
    found = look(tmp_path)
    assert {(group.kind, group.modality, len(group.candidates)) for group in found.groups} == {
        ("volume", "CT", 1),
        ("volume", "", 1),
    }
    assert "1 volume, CT; 1 study, 1 series; 6 x 4 x 5 voxels; spacing 0.75 x 0.5 x 1 mm (R, A, S)" in shown(found)
    assert (found.num_patients.total, found.num_patients.assumed, found.num_by_id) == (2, 1, 1)


def test_sizes_of_a_group_are_given_as_ranges(write_png: Write) -> None:
    root = write_png("a.png").parent
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(root / "b.png")
    assert "2 images, modality not stated; 8-20 x 6-30 pixels; in color" in shown(look(root))


def test_irregular_series_are_refused_by_reason_and_counted(
    tmp_path: Path, write_series: Callable[..., object]
) -> None:
    write_series(places_mm=(0, 1, 2, 4, 5))
    found = look(tmp_path)
    assert not found.groups
    assert found.num_failures == 5
    assert "5 files (geometry): " in shown(found)


def test_an_image_whose_header_gives_no_size_is_refused(candidate: Callable[..., Candidate], tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    found, refused = groups([candidate(str(tmp_path / "broken.png"))])
    assert not found
    assert [one.code for one in refused] == [UnreadableError.code]


def test_folders_whose_names_are_words_of_imaging_are_classes(write_png: Write) -> None:
    found = look(write_classes(write_png, "benign", "no_tumor"))
    assert found.classes("label") == {"benign": 5, "no_tumor": 5}
    assert "benign (5), no_tumor (5)" in shown(found)


def test_folders_that_may_be_named_after_people_are_neither_labels_nor_printed(write_png: Write) -> None:
    source = write_classes(write_png, "benign", "Lindqvist")
    found = look(source)
    assert found.folders is not None
    assert not found.label_keys
    assert "Lindqvist" not in shown(found)
    asked = look(source, label_from="folder")
    assert asked.classes("label") == {"benign": 5, "Lindqvist": 5}
    assert "Lindqvist" not in shown(asked)


@pytest.mark.parametrize(
    ("name", "is_safe"),
    [("benign", True), ("glioma_tumor", True), ("grade-2", True), ("0", True), ("Smith", False), ("19630412", False)],
)
def test_names_that_name_nobody_are_made_of_words_of_imaging(name: str, is_safe: bool) -> None:
    assert names_nobody(name) is is_safe


def test_a_table_that_names_files_gives_labels(write_png: Write) -> None:
    source = write_classes(write_png, "all", num_images=6)
    lines = "".join(f"all/{n}.png,{'ab'[n % 2]},{30 + n},Person {n}\n" for n in range(6))
    (source / "t.csv").write_text(f"file,finding,age,patient name\n{lines}other.png,a,40,Person 9\n")
    found = look(source)
    assert found.table is not None
    assert (found.table.key, found.table.by, found.table.num_matched) == ("file", "file", 6)
    assert found.table.classes == {"finding": 2}  # ages are not classes, and names are never labels
    assert found.classes("finding") == {"a": 3, "b": 3}
    assert "Columns: file, finding (2 values), age, patient name" in " ".join(shown(found).split())
    assert "Person" not in shown(found)


def test_a_table_of_studies_is_joined_by_their_uid(tmp_path: Path, write_series: Callable[..., object]) -> None:
    write_series(StudyInstanceUID="1.2.3.2")
    (tmp_path / "t.csv").write_text("StudyInstanceUID,finding\n1.2.3.1,a\n1.2.3.2,b\n1.2.3.7,a\n1.2.3.8,b\n")
    found = look(tmp_path)
    assert found.table is not None
    assert (found.table.by, found.table.num_matched, found.table.num_lines) == ("study", 1, 4)
    assert "1.2.3" not in shown(found)
    assert "SECRET" not in shown(found)


def test_a_column_that_names_files_by_its_cells_is_told_to_be_renamed(write_png: Write) -> None:
    source = write_classes(write_png, "all", num_images=6)
    (source / "t.csv").write_text("image_id,finding\n" + "".join(f"{n},{'ab'[n % 2]}\n" for n in range(6)))
    found = look(source)
    assert found.table is None
    (table,) = found.tables
    assert (table.key, table.by) == ("image_id", "file")
    assert table.problem == "rename its column 'image_id' to 'file'"


@pytest.mark.parametrize(
    "text", ["Lindqvist,Anna\nOlofsson,Bo\n", "Lindqvist,0.png\nOlofsson,1.png\nBerg,2.png\nDahl,3.png\n", "a\n\0\n"]
)
def test_the_first_line_of_a_table_that_may_be_no_header_is_never_printed(write_png: Write, text: str) -> None:
    source = write_classes(write_png, "all")
    (source / "t.csv").write_text(text)
    found = look(source)
    assert found.table is None
    assert "Lindqvist" not in shown(found)
    assert "table of" in shown(found)


def test_label_maps_are_counted_with_the_name_of_their_folder_if_it_is_a_usual_one(write_png: Write) -> None:
    for n in range(3):
        write_png(f"images/{n}.png", n)
    root = write_png("labels/1.png").parents[1]
    assert "1 of 3 images have a label map in labels/" in shown(look(root))


def test_patients_are_looked_for_in_paths_but_not_assumed(write_png: Write) -> None:
    for n in range(6):
        path = write_png(f"scans/patient-{n // 2}_{n}.png", n)
    found = look(path.parents[1])
    assert found.patients is not None
    assert found.patients.num_patients == 3
    assert found.num_patients.assumed == 6


def test_words_of_paths_suggest_a_modality() -> None:
    assert suggested_modalities(["Some/T1/x.png", "chest_X-ray/y.png"]) == {"MR": "t1", "DX": "xray"}


def test_a_screen_is_one_screen(write_png: Write) -> None:
    found = look(write_classes(write_png, *(f"grade-{n}" for n in range(40)), num_images=4))
    lines = screen(found)
    assert len(lines) < 30
    assert max(map(len, lines)) <= 100
