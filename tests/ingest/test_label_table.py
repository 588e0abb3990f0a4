"""A table labels images, and is refused if it is ambiguous."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from medvit.errors import DataError
from medvit.ingest.label_table import LabelTable
from medvit.records import Candidate, Patient

Make = Callable[..., Candidate]


def from_table(
    candidates: Sequence[Candidate], path: Path, *, columns: Sequence[str] = (), files: Sequence[str] = ()
) -> tuple[Candidate, ...]:
    """Return the candidates with the labels of a table; see `LabelTable`."""
    return LabelTable.read(path, columns=columns).labeled(candidates, files)


@pytest.fixture
def table(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "labels.csv"
        path.write_text(text, encoding="utf-8-sig")
        return path

    return write


Write = Callable[[str], Path]


@pytest.mark.parametrize("name", ["a/x.nii.gz", "./a/x.nii.gz", "a\\x.nii.gz", "x.nii.gz", "x", "a"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_an_image_is_found_by_path_name_stem_or_folder(
    candidate: Make, table: Write, name: str, delimiter: str
) -> None:
    images = [candidate("a/x.nii.gz"), candidate("b/y.nii.gz")]
    path = table(f"file{delimiter}grade\n{name}{delimiter}3\n")
    assert [dict(one.labels) for one in from_table(images, path)] == [{"grade": "3"}, {}]


def test_a_folder_means_all_images_in_it(candidate: Make, table: Write) -> None:
    images = [candidate("study1/ct/1.dcm", "study1/ct/2.dcm"), candidate("study1/mr/1.dcm"), candidate("study2/1.dcm")]
    labeled = from_table(images, table("file,grade\nstudy1,2\n"))
    assert [dict(one.labels) for one in labeled] == [{"grade": "2"}, {"grade": "2"}, {}]


def test_split_and_patient_are_told_apart_from_labels(candidate: Make, table: Write) -> None:
    (labeled,) = from_table([candidate("x.png")], table("file,grade,split,patient,stage\nx,3,Testing,Anna,\n"))
    assert (labeled.labels, labeled.split, labeled.patient) == ({"grade": "3"}, "test", Patient("Anna", True))


def test_unknown_files_are_told_by_line_and_never_by_name(candidate: Make, table: Write) -> None:
    path = table("file,grade\nx,1\nMiller^Anna,2\nSmith^John,3\n")
    with pytest.raises(DataError, match=r"2 of the 3 lines of .* that the source does not have \(line 3, 4\)") as error:
        from_table([candidate("x.png")], path)
    assert "Anna" not in str(error.value)


def test_a_file_of_the_source_that_is_no_image_is_passed_over(candidate: Make, table: Write) -> None:
    lines = table("file,grade\nx,1\nbroken,2\n")
    (labeled,) = from_table([candidate("x.png")], lines, files=["x.png", "a/broken.png"])
    assert labeled.labels == {"grade": "1"}
    with pytest.raises(DataError, match="that the source does not have"):
        from_table([candidate("x.png")], lines, files=["x.png"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,grade\nx,1\n", "name several images at once"),
        ("file,grade\na/x,1\n", "does not have"),
        ("file,grade\na/x.png,1\na/x.png,2\n", "contradict an earlier line"),
        ("name,grade\nx,1\n", "have no column 'file'"),
        ("", "no row below the header"),
        ("file,split\na/x.png,holdout\n", "line 2 of .* has an unknown split"),
        ("file,PatientName\na/x.png,Miller\n", "'PatientName' .* may identify patients"),
        ("file,birth date\na/x.png,1963\n", "'birth date' .* may identify patients"),
    ],
)
def test_a_table_that_is_not_clear_is_refused(candidate: Make, table: Write, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_table([candidate("a/x.png"), candidate("b/x.png")], table(text))


def test_a_column_with_another_text_on_every_line_is_taken_for_identifiers(candidate: Make, table: Write) -> None:
    images = [candidate(f"{n}.png") for n in range(30)]
    text = "file,code,weight\n" + "".join(f"{n},c{n},{n}.5\n" for n in range(30))
    with pytest.raises(DataError, match=r"'code' .* may identify patients"):
        from_table(images, table(text))
    assert from_table(images, table(text), columns=["weight"])[3].labels == {"weight": "3.5"}


def test_a_table_that_is_missing_is_told_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: No such file"):
        from_table([], tmp_path / "none.csv")


def test_a_column_lists_the_annotated_classes_and_is_no_label(candidate: Make, table: Write) -> None:
    images = [candidate("x.png"), candidate("y.png"), candidate("z.png")]
    path = table("file,grade,Organs\nx,1,liver; spleen\ny,2,liver\n")
    labeled = LabelTable.read(path, annotated="organs").labeled(images)
    assert [one.annotated for one in labeled] == [("liver", "spleen"), ("liver",), None]
    assert [dict(one.labels) for one in labeled] == [{"grade": "1"}, {"grade": "2"}, {}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,organs\nx,liver\ny, ;\n", r"1 of the 2 lines of .* are empty in the column 'organs' \(line 3\)"),
        ("file,organ\nx,liver\n", "no column 'organs'; found organ; nearest is 'organ'"),
        ("file,organs\nx,liver\nx,spleen\n", "contradict an earlier line"),
    ],
)
def test_a_column_of_annotated_classes_that_is_incomplete_is_refused(
    candidate: Make, table: Write, text: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        LabelTable.read(table(text), annotated="organs").labeled([candidate("x.png"), candidate("y.png")])
