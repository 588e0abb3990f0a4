"""The de-identified DICOM copy of a dataset: its contents, and that a resumed run gives the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from medvit import phantoms
from medvit.dataset import quarantine
from medvit.dataset.manifest import Manifest
from medvit.deidentification.pseudonyms import Pseudonyms
from medvit.dicom.element_values import derived_uid
from medvit.errors import ConfigError, OutputError
from medvit.ingest.deidentified_copy import MOSAIC_PRIVATE, SUMMARY, DeidentifyConfig
from medvit.wsi.slide import open_slide
from pipelines.ingest import IngestConfig, ingest

KEPT_SLICES = 4


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    phantoms.write_ct_studies(folder, 2)
    for file in folder.rglob("abdomen/*.dcm"):
        if dcmread(file, stop_before_pixels=True).InstanceNumber > KEPT_SLICES:
            file.unlink()
    return folder


def config(source: Path, folder: Path, **options: object) -> IngestConfig:
    defaults = {"source": source, "dataset": folder / "dataset", "name": "test", "key": folder.parent / "site.key"}
    return IngestConfig.parse(
        {**defaults, "deidentify": str(folder / "copy"), "tracking": {"enabled": False}, **options}
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_copy_holds_what_was_taken_under_its_pseudonyms(source: Path, tmp_path: Path) -> None:
    manifest = ingest(config(source, tmp_path / "a"))
    copy = tmp_path / "a" / "copy"
    files = sorted(copy.rglob("*.dcm"))
    assert len(files) == 2 * (KEPT_SLICES + 1)
    rows = {row.image_id: row for row in Manifest.read(manifest.folder)}
    for file in files:
        row = rows[file.name[:18]]
        assert file.relative_to(copy).parts[:3] == (row.patient_id, row.study_id, row.series_id)
        assert dcmread(file).PatientID == row.patient_id
    assert json.loads((copy / SUMMARY).read_text())["files"] == len(files)
    assert not (tmp_path / "a" / "copy.partial").exists()


def test_only_what_is_taken_is_copied(source: Path, tmp_path: Path) -> None:
    broken = tmp_path / "source"
    phantoms.write_ct_studies(broken, 1)
    phantoms.lose_slice(broken / "study-000" / "abdomen")
    ingest(config(broken, tmp_path / "a"))
    assert len(list((tmp_path / "a" / "copy").rglob("*.dcm"))) == 1  # the localizer


def test_dicom_slides_are_copied_without_their_labels_and_others_are_told_of(tmp_path: Path, caplog) -> None:
    slides = tmp_path / "source"
    (study,) = phantoms.write_slide_studies(slides / "dicom", 1)
    phantoms.write_slides(slides / "tiff", 1)
    ingest(config(slides, tmp_path / "a", taking={"tiles": {"size": 128}}))
    copies = sorted((tmp_path / "a" / "copy").rglob("*.dcm"))
    headers = [dcmread(file) for file in copies]
    assert len(headers) == len(list(study.glob("level-*.dcm")))
    assert {header.ImageType[2] for header in headers} == {"VOLUME"}
    assert {header.PatientID for header in headers} == {copies[0].parents[2].name}
    copy, original = open_slide(copies), open_slide(sorted(study.glob("level-*.dcm")))
    assert (copy.mpp, copy.shape) == (original.mpp, original.shape)
    assert (copy.read(512, 256, 256, 0.5) == original.read(512, 256, 256, 0.5)).all()
    assert (
        "1 slides are not DICOM; no de-identified copy was written for them: their files, with names, labels"
        in caplog.text
    )


def test_equal_sources_give_equal_copies_on_any_number_of_processes(source: Path, tmp_path: Path) -> None:
    ingest(config(source, tmp_path / "a"))
    ingest(config(source, tmp_path / "b", engine={"num_processes": 2}))
    assert contents(tmp_path / "a" / "copy") == contents(tmp_path / "b" / "copy")


def test_an_unfinished_copy_goes_on_to_the_same(source: Path, tmp_path: Path) -> None:
    whole, folder = config(source, tmp_path / "a"), tmp_path / "b"
    ingest(whole)
    shutil.copytree(tmp_path / "a" / "copy", folder / "copy.partial")
    removed = sorted((folder / "copy.partial").rglob("*.dcm"))[::2]
    for file in removed:
        file.unlink()
    with pytest.raises(OutputError, match="contains an unfinished copy"):
        ingest(config(source, folder))
    ingest(config(source, folder, resume=True))
    assert contents(folder / "copy") == contents(tmp_path / "a" / "copy")


def test_a_used_folder_is_refused_before_anything_is_read(source: Path, tmp_path: Path) -> None:
    (tmp_path / "a" / "copy").mkdir(parents=True)
    (tmp_path / "a" / "copy" / "mine.txt").write_text("kept")
    with pytest.raises(OutputError, match="exists already"):
        ingest(config(source, tmp_path / "a"))
    assert not (tmp_path / "a" / "dataset").exists()


def test_without_a_folder_nothing_is_copied() -> None:
    assert DeidentifyConfig().copy_to is None
    DeidentifyConfig().check(resume=False)


@pytest.mark.parametrize("is_allowed", [False, True])
def test_mosaics_that_no_tool_could_open_are_told(shared_data: Path, tmp_path: Path, caplog, is_allowed: bool) -> None:
    private = {"private": [MOSAIC_PRIVATE] if is_allowed else []}
    source = shared_data / "dcm_qa_nih" / "In" / "20180918Si" / "mr_0003"
    made = ingest(config(source, tmp_path / "a", deidentify={"copy_to": str(tmp_path / "a" / "copy"), **private}))
    assert ("2 copied images are Siemens mosaics" in caplog.text) == (not is_allowed)
    assert ("2 copied images are Siemens mosaics" in (tmp_path / "a" / "copy" / "card.md").read_text()) != is_allowed
    note = "- de-identified copy: 2 copied images are Siemens mosaics"
    assert (note in (made.folder / "card.md").read_text()) != is_allowed, "the card of the dataset says it, too"
    assert bool(Manifest.read(made.folder).facts.notes) != is_allowed, "and so does a card that is made anew"
    if is_allowed:
        again = ingest(config(tmp_path / "a" / "copy", tmp_path / "b", name="again"))
        assert [row.affine for row in again] == [row.affine for row in made]


def test_a_copied_mosaic_says_how_many_slices_it_holds(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "dcm_qa_nih" / "In" / "20180918Si" / "mr_0003"
    ingest(config(source, tmp_path / "a"))
    for file in (tmp_path / "a" / "copy").rglob("*.dcm"):
        block = dcmread(file, stop_before_pixels=True).private_block(0x0019, "SIEMENS MR HEADER")
        assert block[0x0A].value > 0


def test_what_a_killed_run_left_half_written_is_swept(source: Path, tmp_path: Path) -> None:
    whole = config(source, tmp_path / "a")
    ingest(whole)
    shutil.copytree(tmp_path / "a" / "copy", tmp_path / "b" / "copy.partial")
    series = next((tmp_path / "b" / "copy.partial").rglob("*.dcm")).parent
    (series / ".i-1.dcm.4711").write_bytes(b"half")
    (tmp_path / "b" / "copy.partial" / f".{SUMMARY}.partial").write_bytes(b"half")
    ingest(config(source, tmp_path / "b", resume=True))
    assert contents(tmp_path / "b" / "copy") == contents(tmp_path / "a" / "copy")


def test_mosaics_that_an_earlier_run_has_copied_count_too(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "dcm_qa_nih" / "In" / "20180918Si" / "mr_0003"
    whole = ingest(config(source, tmp_path / "a"))
    shutil.copytree(tmp_path / "a" / "copy", tmp_path / "b" / "copy.partial")
    resumed = ingest(config(source, tmp_path / "b", resume=True))
    assert whole.facts.notes == resumed.facts.notes != ()


def image(folder: Path, **elements: object) -> Dataset:
    """A secondary capture of one image, as a scanner would write it."""
    phantoms.write_ct_studies(folder / "phantom", 1)
    dataset = dcmread(next((folder / "phantom").rglob("abdomen/*.dcm")))
    shutil.rmtree(folder / "phantom")
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_file_without_a_head_is_copied(tmp_path: Path, syntax: str) -> None:
    dataset = image(tmp_path)
    (tmp_path / "source").mkdir()
    is_little, is_implicit = syntax != ExplicitVRBigEndian, syntax == ImplicitVRLittleEndian
    pixels = dataset.pixel_array
    if not is_little:
        dataset.PixelData = pixels.astype(">i2").tobytes()
    plain = Dataset()
    for element in dataset:
        plain.add(element)
    plain.save_as(tmp_path / "source" / "a.dcm", implicit_vr=is_implicit, little_endian=is_little)
    ingest(config(tmp_path / "source", tmp_path / "a"))
    (copy,) = (tmp_path / "a" / "copy").rglob("*.dcm")
    assert (dcmread(copy).pixel_array == pixels).all()


@pytest.mark.parametrize("is_lacking", [True, False])
def test_uids_that_a_source_lacks_are_derived_as_results_derive_them(tmp_path: Path, is_lacking: bool) -> None:
    (tmp_path / "source").mkdir()
    for number in range(2):
        dataset = image(tmp_path, InstanceNumber=number, SOPInstanceUID=f"1.2.{number}", StudyInstanceUID="")
        dataset.SeriesInstanceUID = ""
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.ImagePositionPatient = [0, 0, 5.0 * number]
        if is_lacking:
            del dataset.StudyInstanceUID, dataset.SeriesInstanceUID
        dataset.save_as(tmp_path / "source" / f"{number}.dcm")
    made = config(tmp_path / "source", tmp_path / "a")
    ingest(made)
    copies = [dcmread(file) for file in (tmp_path / "a" / "copy").rglob("*.dcm")]
    pseudonyms = Pseudonyms.with_key_file(made.key, "test")
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID"):
        (uid,) = {copy[keyword].value for copy in copies}
        assert uid == pseudonyms.uid(derived_uid(keyword, dataset))


def test_a_truncated_copy_of_a_compressed_file_leaves_the_others(tmp_path: Path) -> None:
    source = tmp_path / "source"
    phantoms.write_ct_studies(source, 1)
    for file in source.rglob("*.dcm"):
        dataset = dcmread(file)
        dataset.compress(RLELossless, generate_instance_uid=False)
        dataset.save_as(file)
    file = sorted(source.rglob("abdomen/*.dcm"))[1]
    whole = file.read_bytes()
    (source / "cut.dcm").write_bytes(whole[: len(whole) - 400])
    manifest = ingest(config(source, tmp_path / "a"))
    assert sorted(row.kind for row in manifest) == ["image", "volume"]
    (entry,) = quarantine.read(tmp_path / "a" / "dataset")
    assert entry.code == "unreadable"
    assert len(list((tmp_path / "a" / "copy").rglob("*.dcm"))) == len(list(source.rglob("*.dcm"))) - 1


@pytest.mark.parametrize(
    ("places", "reason"),
    [
        ({"dataset": "source/dataset"}, "dataset is inside the source folder"),
        ({"deidentify": {"copy_to": "source/../source/copy"}}, "deidentify.copy_to is inside the source folder"),
        ({"deidentify": {"copy_to": "dataset/copy"}}, "is inside the other"),
        ({"dataset": "copy/dataset", "deidentify": {"copy_to": "copy"}}, "is inside the other"),
    ],
)
def test_what_is_made_lies_outside_of_what_it_is_made_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, places: dict[str, object], reason: str
) -> None:
    (tmp_path / "source").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=reason):
        IngestConfig.parse({"source": "source", "dataset": "dataset", **places})
    assert IngestConfig.parse({"source": "source", "dataset": "source-2"}).dataset == Path("source-2")


@pytest.mark.parametrize("of_other", [{"PatientID": "OTHER"}, {"IssuerOfPatientID": "SOUTH"}, {"PatientID": ""}])
def test_two_patients_under_the_same_uids_have_uids_of_their_own_in_the_copy(
    tmp_path: Path, of_other: dict[str, str]
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for who, issuer in enumerate(({"IssuerOfPatientID": "NORTH"}, of_other)):
        for number in range(2):
            dataset = image(
                tmp_path, InstanceNumber=number, SOPInstanceUID=f"1.2.{number}", **{"PatientID": "P", **issuer}
            )
            dataset.ImagePositionPatient = [0, 0, 5.0 * number]
            dataset.save_as(source / f"{who}-{number}.dcm")
    rows = ingest(config(source, tmp_path / "a")).rows
    copies = [dcmread(file) for file in (tmp_path / "a" / "copy").rglob("*.dcm")]
    for names in ({row.study_id for row in rows}, {row.series_id for row in rows}, {row.patient_id for row in rows}):
        assert len(names) == 2
    for keyword, number in (("StudyInstanceUID", 2), ("SeriesInstanceUID", 2), ("SOPInstanceUID", 4)):
        assert len({copy[keyword].value for copy in copies}) == number
    assert {len({copy.StudyInstanceUID for copy in copies if copy.PatientID == row.patient_id}) for row in rows} == {1}
