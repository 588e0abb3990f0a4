"""Cells of a table are not bent: equal texts are equal, missing ones are missing, and the rest is refused."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medvit.errors import DataError
from medvit.ingest.label_cells import AMBIGUOUS, MISSING, composed, look_alikes, read_grid, whole
from medvit.ingest.label_table import LabelTable
from medvit.records import Candidate

Make = Callable[..., Candidate]
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Cf", "Zl", "Zp")), min_size=1, max_size=8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "labels.csv"


def grades(path: Path, cells: list[str], candidate: Make, missing: list[str] | None = None) -> list[str]:
    """The grades that a table gives images, in their order; nothing where one has none."""
    path.write_text("file;grade\n" + "".join(f"{n}.png;{cell}\n" for n, cell in enumerate(cells)), encoding="utf-8")
    images = [candidate(f"{n}.png") for n in range(len(cells))]
    labeled = LabelTable.read(path, missing=missing).labeled(images)
    return [one.labels.get("grade", "") for one in labeled]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cells=st.lists(st.lists(WORDS, min_size=3, max_size=3), min_size=1, max_size=5), delimiter=st.sampled_from(",;\t")
)
def test_what_is_quoted_comes_back_whole(path: Path, cells: list[list[str]], delimiter: str) -> None:
    lines = [
        delimiter.join(("a", "b", "c")),
        *(delimiter.join('"' + c.replace('"', '""') + '"' for c in row) for row in cells),
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = [[line.cells[key] for key in "abc"] for line in read_grid(path).lines]
    assert found == [[composed(cell) for cell in row] for row in cells if any(map(composed, row))]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "file,grade\nx,carcinoma, in situ\ny,benign\n",
            r"1 of the 2 lines of .* more cells than the header \(line 2\)",
        ),
        ("file,grade,grade\nx,1,2\n", "two columns named 'grade'"),
        ("file,Ödem,Ödem\nx,1,2\n".replace("Ö", "O\u0308", 1), "two columns named 'Ödem'"),
        ("file,grade\n,2\nx,1\n", r"1 of the 2 lines of .* are empty in the column 'file' \(line 2\)"),
        ('file,grade\nx,"1\ny,2\n', "quotes do not match"),
        ("file,split\nx,holdout\n", "line 2 of .* has an unknown split"),
    ],
)
def test_a_table_that_would_be_cut_is_refused_before_there_is_an_image(path: Path, text: str, message: str) -> None:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        LabelTable.read(path)


@pytest.mark.parametrize(
    "text", ["file,grade,\nx,1,\n,,\n\n", "sep=;\nfile;grade\nx;1\n", 'file;"a,b,c";grade\nx;2;1\n']
)
def test_empty_cells_at_the_end_and_the_line_that_names_the_delimiter_are_no_content(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    (line,) = read_grid(path).lines
    assert (line.cells["file"], line.cells["grade"]) == ("x", "1")


@pytest.mark.parametrize("word", [*sorted(MISSING), "NaN", "N/A", "null", ""])
def test_a_missing_value_is_no_class(path: Path, candidate: Make, caplog: pytest.LogCaptureFixture, word: str) -> None:
    with caplog.at_level(logging.WARNING, "medvit"):
        assert grades(path, ["0", word, "1"], candidate) == ["0", "", "1"]
    assert not word or f"1 cells of column grade are read as missing values ({word})" in caplog.text


@pytest.mark.parametrize("word", ["None", *sorted(AMBIGUOUS)])
def test_what_may_be_a_class_or_missing_is_refused_until_somebody_says(path: Path, candidate: Make, word: str) -> None:
    cells = ["0", word, "1"]
    with pytest.raises(DataError, match=r"which may be a class or a missing value; give labeling\.missing=\["):
        grades(path, cells, candidate)
    assert grades(path, cells, candidate, missing=[word]) == ["0", "", "1"]
    assert grades(path, cells, candidate, missing=["NA"]) == cells


def test_none_beside_one_other_word_is_a_class(path: Path, candidate: Make) -> None:
    assert grades(path, ["none", "tumor"], candidate) == ["none", "tumor"]


def test_a_patient_called_na_is_nobody(path: Path, candidate: Make) -> None:
    path.write_text("file,patient\nx,NA\ny,NA\n", encoding="utf-8")
    images = [candidate("x.png"), candidate("y.png")]
    assert [one.patient for one in LabelTable.read(path).labeled(images)] == [one.patient for one in images]


@given(st.integers(-(10**6), 10**6), st.integers(1, 3))
def test_a_whole_number_is_the_same_with_zeros_behind_its_point(number: int, num_zeros: int) -> None:
    assert whole(f"{number}.{'0' * num_zeros}") == whole(str(number)) == str(number)


@given(st.text(max_size=20))
def test_composed_and_decomposed_texts_are_equal(text: str) -> None:
    assert composed(unicodedata.normalize("NFD", text)) == composed(text)


def test_one_class_or_patient_written_in_several_ways_is_warned_of(
    path: Path, candidate: Make, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_text("file,grade,patient\nx,Benign,Meyer7\ny,benign,MEYER7\nz,2.50,8.0\nw,2.5,8\n", encoding="utf-8")
    images = [candidate(f"{name}.png") for name in "xyzw"]
    with caplog.at_level(logging.WARNING, "medvit"):
        labeled = LabelTable.read(path).labeled(images)
    assert "the classes 'Benign', 'benign' of grade differ only in letter case" in caplog.text
    assert "2 rows of the label table name patients that differ only in letter case" in caplog.text
    assert "(line 2, 3)" in caplog.text
    assert "Meyer" not in caplog.text
    assert labeled[2].patient == labeled[3].patient


def test_lost_zeros_are_alike_and_other_numbers_are_not() -> None:
    assert look_alikes(["007", "7", "70", "0.7", "0.70", "7.5"]) == [("007", "7"), ("0.7", "0.70")]


def test_a_decomposed_file_name_is_found_by_its_composed_one(path: Path, candidate: Make) -> None:
    image = candidate(unicodedata.normalize("NFD", "Ödem/Übersicht.png"))
    path.write_text("file,grade\nÖdem/Übersicht.png,1\n", encoding="utf-8")
    assert LabelTable.read(path).labeled([image])[0].labels == {"grade": "1"}
