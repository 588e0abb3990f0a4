"""Findings of an audit in a spoiled dataset: they give the place and never the value."""

from __future__ import annotations

import gzip
import json
import shutil
import sqlite3
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as Picture
from PIL.PngImagePlugin import PngInfo
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate

from medvit import phantoms
from medvit.audit.matcher import Matcher
from medvit.audit.needles import IdentifyingValues, Needle, collect_needles
from medvit.audit.search import search_file
from medvit.deidentification.identifiers import IdentifyingValue, values
from medvit.dicom.acquisition import quantities
from medvit.logs import LOG
from pipelines.__main__ import SOME_ITEMS_FAILED, main
from tests.plugins.tracking_template import MakeStore

NAME, NUMBER, PLACE, FOREIGN = "Zebedeeson", "QX7731904", "Granthamshire", "Müllerström"
PARTED = "47-11/88"
DAY, PHONE, UID = "19630412", "5550173342", "1.2.826.0.1.3680043.9.7731.4.1.55501733"
WORDS = (NAME, NUMBER, PLACE, FOREIGN, PARTED, DAY, PHONE, UID)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of four images of one patient."""
    folder = tmp_path_factory.mktemp("source") / "export"
    phantoms.write_ct_studies(folder, 1)
    for file in folder.rglob("*.dcm"):
        dataset = dcmread(file)
        if dataset.InstanceNumber > 3:
            file.unlink()
            continue
        dataset.PatientName, dataset.PatientID, dataset.PatientTelephoneNumbers = f"{NAME}^Ann", NUMBER, PHONE
        dataset.StudyDate, dataset.PatientBirthDate, dataset.StudyInstanceUID = DAY, DAY, UID
        dataset.AccessionNumber, dataset.StudyTime = PARTED, "113933"
        dataset.PerformedProcedureStepID = f"{DAY}.113933"  # of the day and the time, which is kept
        dataset.DeviceSerialNumber, dataset.SeriesTime = "60064731", "101112.500000"  # which a copy keeps
        dataset.ProtocolName, dataset.RepetitionTime = "Ax Quokka Flair(10500 TR)", 10500
        dataset.InstitutionName, dataset.ReferringPhysicianName = PLACE, f"{FOREIGN}^Eve"
        dataset.save_as(file)
        file.rename(file.with_name(f"CT.60064731.101112.{dataset.InstanceNumber}.dcm"))
    return folder


@pytest.fixture(scope="module")
def made(source: Path, make_store: MakeStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the dataset, its DICOM copy, the MLflow store and the site's key."""
    folder = tmp_path_factory.mktemp("made")
    words = [f"dataset={folder / 'dataset'}", f"key={folder / 'site.key'}", f"deidentify={folder / 'copy'}"]
    assert main(["ingest", f"source={source}", f"tracking.uri={make_store(folder)}", *words]) == 0
    return folder


def new_output(made: Path) -> str:
    """A folder next to the audited ones."""
    return f"output={tempfile.mkdtemp(dir=made.parent)}"


def audit(made: Path, source: Path, *words: str) -> int:
    """Runs the audit of a folder like `made`; its exit status."""
    places = [f"dataset={made / 'dataset'}", f"source={source}", f"key={made / 'site.key'}"]
    places += [f"tracking.uri=sqlite:///{made}/mlflow.db", new_output(made)]
    copy = [] if any(word.startswith("copy_to") for word in words) else [f"copy_to={made / 'copy'}"]
    return main(["audit", *places, *copy, *words])


def test_the_time_of_a_log_line_is_no_date_of_a_study_and_what_follows_it_may_be(tmp_path: Path) -> None:
    matcher = Matcher([Needle("2026-01-31", "(0008,0020) StudyDate", is_date=True)])
    log = tmp_path / LOG
    log.write_text("2026-01-31 12:00:00 INFO go\n", encoding="utf-8")
    assert not list(search_file(log, "the dataset", matcher))
    log.write_text("2026-01-31 12:00:00 INFO taken on 2026-01-31\n", encoding="utf-8")
    assert len(list(search_file(log, "the dataset", matcher))) == 1


def test_what_an_ingest_leaves_is_clean(made: Path, source: Path) -> None:
    assert audit(made, source) == 0


def test_a_number_of_a_patient_is_looked_for_though_it_is_a_repetition_time(tmp_path: Path) -> None:
    image = Dataset()
    image.PatientID, image.ProtocolName, image.RepetitionTime = "10500", "Flair(12500 TR)", 12500
    image.file_meta = FileMetaDataset()
    found = IdentifyingValues(tuple(values(image)), shown=frozenset(quantities(image).values()) | {"10500"})
    needles = collect_needles([tmp_path / "a.dcm"], tmp_path, [found], num_files=1).by_text
    assert "10500" in needles
    assert "12500" not in needles


@pytest.mark.parametrize(
    "number",
    ["MRN-4711-88", "12-34-56-78", "123 456 789", "1234/19", "4711-88", "03.12.48-123", "KH 12 34 56", "2019-0042"],
)
def test_a_number_in_parts_is_looked_for_whole_and_joined(tmp_path: Path, number: str) -> None:
    image = Dataset()
    image.PatientID, image.file_meta = number, FileMetaDataset()
    matcher = Matcher(
        collect_needles([], tmp_path, [IdentifyingValues(tuple(values(image)))], num_files=1).by_text.values()
    )
    joined = "".join(filter(str.isalnum, number))
    assert matcher.in_text(f"of {number}, twice")
    assert matcher.in_text(f"of {joined}, twice")
    assert not matcher.in_text("of 4711 or 12, 34 or 56 mm")


@pytest.mark.parametrize(("text", "is_told"), [("-624\\-661.82658862211", False), ("-624\\-661.82658862\\1", True)])
def test_a_number_is_found_as_a_whole(text: str, is_told: bool) -> None:
    matcher = Matcher([Needle("-661.82658862", "a private element")])
    assert bool(matcher.in_text(text)) is is_told
    assert bool(matcher.in_bytes(text.encode())) is is_told


@pytest.fixture
def copy_of(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "made")
    return tmp_path / "made"


def spoil_manifest(made: Path) -> None:
    path = made / "dataset" / "manifest.parquet"
    table = pq.read_table(path)
    column = pa.array([f"p-{NUMBER}"] * len(table), pa.string())
    pq.write_table(table.set_column(table.schema.get_field_index("study_id"), "study_id", column), path)


def spoil_database(made: Path) -> None:
    with sqlite3.connect(made / "mlflow.db") as connection:
        connection.execute("INSERT INTO experiments (name, lifecycle_stage) VALUES (?, 'active')", (f"of {NAME}",))
    connection.close()


def spoil_copy(made: Path) -> None:
    file = next((made / "copy").rglob("*.dcm"))
    dataset = dcmread(file)
    dataset.ProcedureCodeSequence = [Dataset()]
    dataset.ProcedureCodeSequence[0].CodeMeaning = f"Seen for {NAME}"
    dataset.save_as(file)


def spoil_date(made: Path) -> None:
    for file in (made / "copy").rglob("*.dcm"):
        dataset = dcmread(file)
        dataset.SeriesDate = DAY
        dataset.save_as(file)


def spoil_preamble(made: Path) -> None:
    file = next((made / "copy").rglob("*.dcm"))
    file.write_bytes(UID.encode().ljust(128, b"\0") + file.read_bytes()[128:])


def spoil_name(made: Path) -> None:
    file = next((made / "copy").rglob("*.dcm"))
    file.rename(file.with_name(f"{NAME.lower()}.dcm"))


def spoil_escaped(made: Path) -> None:
    (made / "dataset" / "extra.json").write_text(json.dumps({"who": FOREIGN}))


def spoil_card(made: Path) -> None:
    (made / "dataset" / "card.md").write_text(f"Order {PARTED} of March")


def spoil_private(made: Path) -> None:
    file = next((made / "copy").rglob("*.dcm"))
    dataset = dcmread(file)
    dataset.private_block(0x0011, "MADE UP", create=True).add_new(1, "LO", PARTED)
    dataset.save_as(file)


def spoil_by_chance(made: Path) -> None:
    (made / "mlartifacts" / "note.md").write_text("of another dataset: Quokka")


def spoil_packed(made: Path) -> None:
    (made / "mlartifacts" / "log.gz").write_bytes(gzip.compress(f"read 12.04.1963 of {PHONE}".encode()))


def spoil_pixels(made: Path) -> None:
    file = next((made / "copy").rglob("*.dcm"))
    dataset, comment = dcmread(file), f"patient {NUMBER} born".encode()
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.50"
    stream = b"\xff\xd8\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + b"\xff\xd9"
    dataset.PixelData = encapsulate([stream])
    dataset.save_as(file)


def spoil_wide(made: Path) -> None:
    (made / "dataset" / "note.txt").write_text(f"of {NAME}", encoding="utf-16")


def spoil_picture(made: Path) -> None:
    notes = PngInfo()
    notes.add_text("Comment", f"of {NAME}", zip=True)
    Picture.fromarray(np.zeros((8, 8), np.uint8)).save(made / "dataset" / "plot.png", pnginfo=notes)


def spoil_pdf(made: Path) -> None:
    (made / "dataset" / "report.pdf").write_bytes(b"%PDF-1.7")


def spoil_parquet(made: Path) -> None:
    (made / "dataset" / "more.parquet").write_bytes(b"PAR1")


@pytest.mark.parametrize(
    ("spoil", "place"),
    [
        (spoil_pixels, "a comment in its pixels: a value of (0010,0020) PatientID"),
        (spoil_wide, "the dataset, note.txt, line 1: a value of (0010,0010) PatientName"),
        (spoil_picture, "the dataset, plot.png, beside its pixels: a value of (0010,0010) PatientName"),
        (spoil_pdf, "the dataset, report.pdf: could not be searched: the texts of a PDF are compressed"),
        (spoil_parquet, "the dataset, more.parquet: could not be searched: the file cannot be decoded"),
        (spoil_manifest, "the dataset, manifest.parquet, column study_id: a value of (0010,0020) PatientID"),
        (spoil_database, "table experiments, column name: a value of (0010,0010) PatientName"),
        (spoil_copy, "CodeMeaning: a value of"),
        (spoil_date, "(0008,0021) SeriesDate: a value of a date of the same patient"),
        (spoil_preamble, "its bytes: a value of"),
        (spoil_name, "its name: a value of"),
        (spoil_escaped, "the dataset, extra.json, line 1: a value of (0008,0090) ReferringPhysicianName"),
        (spoil_card, "the dataset, card.md, line 1: a value of (0008,0050) AccessionNumber"),
        (spoil_private, "(0011,1001) private: a value of (0008,0050) AccessionNumber"),
        (spoil_packed, "MLflow artifacts, log.gz, line 1: a value of"),
        (spoil_by_chance, "note.md, line 1: a value of (0018,1030) ProtocolName, which may be a coincidence"),
    ],
)
def test_what_was_left_behind_is_found_and_told_by_its_place(
    copy_of: Path, source: Path, spoil, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(copy_of)
    assert audit(copy_of, source) == SOME_ITEMS_FAILED
    out, err = capsys.readouterr()
    assert place in out
    assert err.endswith("places identify patients or could not be searched\n")  # which are printed once
    assert not any(word.casefold() in (out + err).casefold() for word in WORDS)


@pytest.fixture(scope="module")
def of_pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A volume and a picture that name people in their headers alone, and the dataset made of them."""
    folder = tmp_path_factory.mktemp("pictures")
    source = folder / "source"
    source.mkdir()
    image = nib.Nifti1Image(np.arange(512, dtype=np.int16).reshape(8, 8, 8), np.eye(4))
    image.header["descrip"] = f"Scan of {NAME}".encode()
    nib.save(image, source / "1.nii.gz")
    exif = Picture.Exif()
    exif[0x013B], exif[0x0132] = PLACE, f"{DAY[:4]}:{DAY[4:6]}:{DAY[6:]} 10:11:12"
    Picture.fromarray(np.arange(4096, dtype=np.uint8).reshape(64, 64)).save(source / "2.jpg", exif=exif)
    words = [f"dataset={folder / 'dataset'}", f"key={folder / 'site.key'}", "tracking.enabled=false"]
    assert main(["ingest", f"source={source}", *words]) == 0
    return source, folder


def audit_of_pictures(source: Path, folder: Path) -> int:
    words = [f"dataset={folder / 'dataset'}", f"key={folder / 'site.key'}", "tracking.enabled=false"]
    return main(["audit", f"source={source}", *words, new_output(folder)])


def test_what_headers_of_volumes_and_pictures_say_is_kept_nowhere(of_pictures: tuple[Path, Path]) -> None:
    assert audit_of_pictures(*of_pictures) == 0


@pytest.mark.parametrize(
    ("text", "element"), [(NAME, "NIfTI descrip"), (PLACE, "EXIF 0x013b"), ("1963-04-12", "0x0132")]
)
def test_what_headers_of_volumes_and_pictures_say_is_found_where_it_is_left_behind(
    of_pictures: tuple[Path, Path], tmp_path: Path, text: str, element: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source, folder = of_pictures
    shutil.copytree(folder, tmp_path / "made")
    (tmp_path / "made" / "dataset" / "note.txt").write_text(f"seen: {text}")
    assert audit_of_pictures(source, tmp_path / "made") == SOME_ITEMS_FAILED
    out = capsys.readouterr().out
    assert "note.txt, line 1: a value of" in out
    assert element in out
    assert text not in out


def test_the_files_of_an_archive_are_looked_into(
    copy_of: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = shutil.make_archive(str(tmp_path / "export"), "zip", source)
    spoil_manifest(copy_of)
    assert audit(copy_of, Path(packed)) == SOME_ITEMS_FAILED
    assert "column study_id: a value of (0010,0020) PatientID" in capsys.readouterr().out


def test_without_the_key_the_dates_of_a_copy_are_said_to_be_unsearched(
    made: Path, source: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = [f"dataset={made / 'dataset'}", f"source={source}", f"key={made / 'none'}", "tracking.enabled=false"]
    assert main(["audit", *words, f"copy_to={made / 'copy'}", new_output(made)]) == 0
    assert "dates in a DICOM copy are not searched" in caplog.text


def test_a_copy_that_is_gone_is_told(made: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit(made, source, "copy_to=nowhere") == 1
    assert "no DICOM copy at nowhere" in capsys.readouterr().err


def test_a_source_of_other_patients_is_told(
    made: Path, source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    audit(made, source)
    assert "none of the" not in caplog.text
    phantoms.write_ct_studies(tmp_path / "others", 1)
    audit(made, tmp_path / "others")
    assert "none of the 1 patients that the source names by PatientID is in the dataset" in caplog.text


def test_letters_and_digits_of_a_short_number_are_not_found_in_a_hash() -> None:
    matcher = Matcher([Needle("e96234", "(0008,0050) AccessionNumber")])
    assert matcher.in_text("of E96234.")
    assert not matcher.in_text("i-04be96234af1")


@pytest.mark.parametrize(("name", "is_found"), [("export", False), ("export 2", False), ("site", True)])
def test_a_folder_name_that_is_the_name_of_the_dataset_is_no_finding(
    source: Path, tmp_path: Path, name: str, is_found: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    place = source.rename(tmp_path / "quokkahill")
    try:
        called = name.replace("export", "quokkahill")
        words = [f"dataset={tmp_path / 'dataset'}", f"key={tmp_path / 'site.key'}", "tracking.enabled=false"]
        assert main(["ingest", f"source={place}", f"name={called}", *words]) == 0
        (tmp_path / "dataset" / "note.txt").write_text("of Quokkahill")
        assert (main(["audit", f"source={place}", *words, new_output(tmp_path)]) == SOME_ITEMS_FAILED) == is_found
        assert ("note.txt, line 1: a value of a file or folder name" in capsys.readouterr().out) == is_found
    finally:
        place.rename(source)


def test_findings_are_listed_in_a_folder_of_their_own_and_the_dataset_stays_as_it_was(
    copy_of: Path, source: Path, tmp_path: Path
) -> None:
    spoil_manifest(copy_of)
    before = {path: path.read_bytes() for path in (copy_of / "dataset").rglob("*") if path.is_file()}
    words = [f"dataset={copy_of / 'dataset'}", f"source={source}", f"key={copy_of / 'site.key'}"]
    options = [
        f"copy_to={copy_of / 'copy'}",
        f"output={tmp_path / 'audit'}",
        "tracking.enabled=false",
        f"ignore=[{NAME}]",
    ]
    assert main(["audit", *words, *options]) == SOME_ITEMS_FAILED
    kinds = {line.split(",")[0] for line in (tmp_path / "audit" / "findings.csv").read_text().splitlines()}
    assert kinds == {"kind", "found"}
    assert {path.name for path in (tmp_path / "audit").iterdir()} == {
        "config.yaml",
        "findings.csv",
        "lineage.json",
        "medvit.log",
        "summary.txt",
    }
    for path in (tmp_path / "audit").iterdir():
        assert [word for word in WORDS if word.casefold() in path.read_text(encoding="utf-8").casefold()] == []
    assert before == {path: path.read_bytes() for path in (copy_of / "dataset").rglob("*") if path.is_file()}


def test_where_there_was_no_store_that_of_the_audit_itself_hides_it_from_nobody(
    made: Path, source: Path, make_store: MakeStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(made / "dataset", tmp_path / "dataset")
    config = tmp_path / "dataset" / "config.yaml"
    config.write_text(config.read_text().replace(f"{made}/mlflow.db", f"{tmp_path}/mlflow.db"))
    words = [f"dataset={tmp_path / 'dataset'}", f"key={made / 'site.key'}", f"copy_to={made / 'copy'}"]
    main(["audit", *words, f"source={source}", f"tracking.uri={make_store(tmp_path)}", new_output(tmp_path)])
    assert f"no MLflow store at sqlite:///{tmp_path / 'mlflow.db'}" in caplog.text


def test_a_file_that_nobody_can_read_is_said_and_fails(made: Path, source: Path, tmp_path: Path, capsys) -> None:
    shutil.copytree(source, tmp_path / "source")
    (tmp_path / "source" / "report.pdf").write_bytes(b"%PDF-1.7")
    assert audit(made, tmp_path / "source") == SOME_ITEMS_FAILED
    assert (
        "1 files of the source: the name and the first bytes of the file are not of a supported document format"
        in capsys.readouterr().out
    )
    assert audit(made, tmp_path / "source", "unread=warn") == 0


TABLE = "file;Pat-Nr;Geburtsdatum;Befund;Radiologe\n{0};447711882;03.02.1951;Kavernom links;Dr. Quetzalmann\n"


@pytest.mark.parametrize("text", ["447711882", "1951-02-03", "seen by QUETZALMANN", "Kavernom links"])
@pytest.mark.parametrize("place", ["source", "beside"])
def test_cells_of_a_table_are_looked_for(
    of_pictures: tuple[Path, Path], tmp_path: Path, text: str, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source, folder = of_pictures
    shutil.copytree(folder, tmp_path / "made")
    shutil.copytree(source, tmp_path / "source")
    (tmp_path / place).mkdir(exist_ok=True)
    (tmp_path / place / "labels.csv").write_text(TABLE.format("2.jpg"))
    words = [f"labels=[{tmp_path / place / 'labels.csv'}]"] if place == "beside" else []
    made = tmp_path / "made"
    words += [f"dataset={made / 'dataset'}", f"key={made / 'site.key'}", "tracking.enabled=false"]
    assert main(["audit", f"source={tmp_path / 'source'}", *words, new_output(made)]) == 0
    (made / "dataset" / "note.txt").write_text(text)
    assert main(["audit", f"source={tmp_path / 'source'}", *words, new_output(made)]) == SOME_ITEMS_FAILED
    assert "note.txt, line 1: a value of a cell of a table" in capsys.readouterr().out


def test_a_class_is_no_finding_unless_it_names_a_patient(tmp_path: Path) -> None:
    image = Dataset()
    image.PatientName, image.file_meta = f"{NAME}^Ann", FileMetaDataset()
    table = IdentifyingValue("Kavernom", "a cell of a table", "", is_descriptor=True)
    found = [IdentifyingValues((*values(image), table))]
    assert "kavernom" in collect_needles([], tmp_path, found, num_files=1).by_text
    needles = collect_needles([], tmp_path, found, num_files=1, classes=["Kavernom", NAME]).by_text
    assert "kavernom" not in needles
    assert NAME.casefold() in needles


def test_what_stands_in_the_lines_together_is_found_in_its_line(tmp_path: Path) -> None:
    """A number at the start of a line is separate from the end of the previous line."""
    needles = [Needle("-661.82658862", "a private element"), Needle(NAME.casefold(), "(0010,0010) PatientName")]
    file = tmp_path / "notes.txt"
    file.write_text("\n" * 600 + f"5\n-661.82658862\n.\n{NAME}\n", encoding="utf-8")
    places = {trace.place for trace in search_file(file, "the dataset", Matcher(needles))}
    assert places == {f"the dataset, line {number}" for number in (602, 604)}
