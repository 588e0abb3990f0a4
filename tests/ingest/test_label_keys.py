"""Lines of a table find their images by file, study, series, accession number or patient, and are checked first."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from openpyxl import Workbook
from pydicom import dcmread

import pipelines.ingest as stage
from medvit import phantoms
from medvit.deidentification.identifiers import is_personal
from medvit.errors import ConfigError, DataError
from medvit.ingest.label_cells import MISSING
from medvit.ingest.label_keys import COLUMNS, LabelBy, find_columns, nearest
from medvit.ingest.label_table import LabelTable
from medvit.ingest.scan import scan
from medvit.ingest.splits import SplitConfig, assign
from medvit.records import Candidate, Identity
from pipelines.ingest import IngestConfig

Make = Callable[..., Candidate]


def identified(one: Candidate, patient: str, study: str, series: str) -> Candidate:
    item = replace(one.item, identity=Identity(patient, study, series))
    return replace(one, item=item, patient=replace(one.patient, id=patient))


@pytest.fixture
def images(candidate: Make) -> list[Candidate]:
    """Two patients with two studies of two series each."""
    return [
        identified(candidate(f"{p}/{s}/{n}.dcm"), f"00{p}", f"1.{p}.{s}", f"1.{p}.{s}.{n}")
        for p in (1, 2)
        for s in (1, 2)
        for n in (1, 2)
    ]


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "labels.csv"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("by", "column", "name", "count"),
    [
        ("patient", "PatientID", "001", 4),
        ("patient", "patient_id", "001", 4),
        ("study", "StudyInstanceUID", "1.1.2", 2),
        ("study", "Study UID", "1.1.2", 2),
        ("series", "SERIESINSTANCEUID", "1.1.2.1", 1),
        ("file", "File", "1/2", 2),
    ],
)
def test_a_line_labels_what_it_names(
    tmp_path: Path, images: list[Candidate], by: LabelBy, column: str, name: str, count: int
) -> None:
    path = table(tmp_path, f"AccessionNumber;{column};Grade\nA1;{name};3\n")
    labeled = LabelTable.read(path, by=by).labeled(images)
    assert [dict(one.labels) for one in labeled if one.labels] == [{"Grade": "3"}] * count


def test_identifiers_are_never_labels_and_label_columns_are_found_in_any_case(
    tmp_path: Path, images: list[Candidate]
) -> None:
    path = table(tmp_path, "PatientID,StudyInstanceUID,AccessionNumber,BI RADS,Split\n001,1.1.1,A,4,Testing\n")
    (first, *_) = LabelTable.read(path, by="study", columns=["bi_rads"]).labeled(images)
    assert (dict(first.labels), first.split, first.patient) == ({"bi_rads": "4"}, "test", images[0].patient)


@pytest.mark.parametrize(
    ("by", "text", "message"),
    [
        (
            "study",
            "Study_Inst_UID,grade\n1.1.1,2\n",
            "no column 'StudyInstanceUID' .* nearest is 'Study_Inst_UID': rename it",
        ),
        ("file", "PatientID,grade\n001,2\n", "no column 'file' .* labeling.by=patient takes its column 'PatientID'"),
        ("study", "Study,study uid,grade\n1,2,3\n", "several columns for labeling.by=study: Study, study uid"),
        ("patient", "PatientID,grade\n,2\n", "are empty in the column 'PatientID'"),
    ],
)
def test_a_table_without_the_column_is_refused_before_there_is_an_image(
    tmp_path: Path, by: LabelBy, text: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        LabelTable.read(table(tmp_path, text), by=by)


def test_a_label_column_that_is_not_there_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no column 'diagnose'.* nearest is 'Diagnosis'"):
        LabelTable.read(table(tmp_path, "file,Diagnosis\nx,1\n"), columns=["diagnose"])


def test_lines_without_an_image_are_refused_or_reported(
    tmp_path: Path, images: list[Candidate], caplog: pytest.LogCaptureFixture
) -> None:
    path = table(tmp_path, "PatientID,grade\n001,2\n2,3\n77,1\n")
    read = LabelTable.read(path, by="patient")
    expected = r"2 of the 3 lines .* \(line 3, 4\).*; 1 of them would if letter case and leading zeros did not count"
    with pytest.raises(DataError, match=expected):
        read.labeled(images)
    with caplog.at_level(logging.INFO, "medvit"):
        labeled = read.labeled(images, unmatched="warn")
    assert sum(bool(one.labels) for one in labeled) == 4
    assert "2 rows of the label table match no image in the source (line 3, 4)" in caplog.text
    assert "4 of 8 images have no row in the label table" in caplog.text


def test_an_accession_number_is_read_of_the_files(tmp_path: Path) -> None:
    phantoms.write_radiograph_studies(tmp_path / "dx", 2)
    for number, file in enumerate(sorted((tmp_path / "dx").rglob("*.dcm"))):
        dataset = dcmread(file)
        dataset.AccessionNumber = f"ACC{number}"
        dataset.save_as(file)
    path = table(tmp_path, "Accession Number,grade\nACC1,2\n")
    found = sorted(scan(tmp_path / "dx").candidates, key=lambda one: one.paths)
    labeled = LabelTable.read(path, by="accession").labeled(found)
    assert [dict(one.labels) for one in labeled] == [{}, {"grade": "2"}]


def test_a_table_of_which_no_line_names_an_image_is_refused_in_any_case(
    tmp_path: Path, images: list[Candidate]
) -> None:
    path = table(tmp_path, "PatientID,grade\n77,1\n")
    with pytest.raises(DataError, match=r"1 of the 1 lines .* name a PatientID that the source does not have"):
        LabelTable.read(path, by="patient").labeled(images, unmatched="warn")


def test_a_study_of_two_patients_is_no_study(tmp_path: Path, images: list[Candidate]) -> None:
    shared = [replace(one, item=replace(one.item, identity=replace(one.item.identity, study="1"))) for one in images]
    with pytest.raises(DataError, match="name several patients at once"):
        LabelTable.read(table(tmp_path, "StudyInstanceUID,grade\n1,1\n"), by="study").labeled(shared)


def sheet(path: Path, *rows: tuple[Any, ...]) -> Path:
    book = Workbook()
    for row in rows:
        book.active.append(row)
    book.save(path)
    return path


def test_an_excel_file_is_read_as_the_same_table_in_csv(tmp_path: Path, images: list[Candidate]) -> None:
    rows = [
        ("PatientID", "grade", "done", "day", "size"),
        ("001", 1.0, True, date(2020, 1, 2), 2.5),
        ("002", 2, False, None, 3),
    ]
    path = sheet(tmp_path / "labels.xlsx", *rows)
    text = "PatientID,grade,done,day,size\n001,1,TRUE,2020-01-02,2.5\n002,2,FALSE,,3\n"
    columns = ["grade", "done", "day", "size"]
    found = [
        LabelTable.read(one, by="patient", columns=columns).labeled(images) for one in (path, table(tmp_path, text))
    ]
    assert found[0] == found[1]
    assert found[0][0].labels == {"grade": "1", "done": "TRUE", "day": "2020-01-02", "size": "2.5"}


def test_an_excel_file_of_two_sheets_or_merged_cells_is_refused(tmp_path: Path) -> None:
    book = Workbook()
    for title in "ab":
        page = book.create_sheet(title)
        page.append(("file", "grade"))
        page.append(("x", 1))
    book.save(tmp_path / "two.xlsx")
    with pytest.raises(DataError, match="2 sheets with content; expected one"):
        LabelTable.read(tmp_path / "two.xlsx")
    del book["a"]
    book["b"].append(("y", None))
    book["b"].merge_cells("B2:B3")
    book.save(tmp_path / "merged.xlsx")
    with pytest.raises(DataError, match="merged cells at B2:B3"):
        LabelTable.read(tmp_path / "merged.xlsx")
    (tmp_path / "cut.xlsx").write_bytes((tmp_path / "two.xlsx").read_bytes()[:900])
    with pytest.raises(DataError, match="cannot be read as an Excel file"):
        LabelTable.read(tmp_path / "cut.xlsx")


def test_the_table_is_checked_before_anything_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetched(*_: object, **__: object) -> None:
        raise AssertionError("fetched before the table was read")

    monkeypatch.setattr(stage, "fetch", fetched)
    options = {"source": "https://pacs.example/root", "dataset": tmp_path / "ds", "key": tmp_path / "site.key"}
    options |= {
        "labeling": {"table": table(tmp_path, "file,grade\nx,None\ny,1\nz,2\n")},
        "tracking": {"enabled": False},
    }
    with pytest.raises(DataError, match="which may be a class or a missing value"):
        stage.ingest(IngestConfig.parse(options))


def test_a_whole_cohort_goes_into_test(candidate: Make) -> None:
    config = SplitConfig.parse({"test": "1"})
    assert (config.test, config.val) == (1, 0)
    images = [candidate("train/a.png", split="train"), candidate("b.png"), candidate("c.png", split="test")]
    assert {one.split for one in assign(images, config).candidates} == {"test"}
    with pytest.raises(ConfigError, match="patients remain for training"):
        SplitConfig.parse({"test": 1, "val": 0.1})


@pytest.mark.parametrize(
    "columns", [["Patient ID"], ["patient-id", "x"], ["PATIENTID"], ["PatientID", "patient"], ["patient"]]
)
def test_columns_are_found_however_they_are_spelled(columns: list[str]) -> None:
    assert find_columns(columns, COLUMNS["patient"]) == columns[:1]
    assert nearest(["x", "Pat ID"], COLUMNS["patient"]) == "Pat ID"


@pytest.mark.parametrize("column", sorted({name for names in COLUMNS.values() for name in names} - {"study", "series"}))
def test_a_column_that_identifies_is_called_personal_in_any_letter_case(column: str) -> None:
    assert is_personal(column)
    assert is_personal(column.upper())


def test_the_advice_on_missing_texts_is_taken_as_it_is_written(tmp_path: Path) -> None:
    path = table(tmp_path, "file,grade\nx,None\ny,1\nz,2\n")
    with pytest.raises(DataError, match="may be a class or a missing value") as refused:
        LabelTable.read(path)
    (advice,) = re.findall(r"labeling\.missing=\[.*?\]", str(refused.value))
    options = [f"source={tmp_path}", f"dataset={tmp_path.parent / 'out'}", advice, "labeling.mask_ignore=255"]
    config = IngestConfig.load(None, options).labeling
    assert config.missing == (*MISSING, "None")
    assert config.mask_ignore == (255,)
    assert [line.cells["grade"] for line in LabelTable.read(path, missing=config.missing).lines] == ["", "1", "2"]
