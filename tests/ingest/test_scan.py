"""Patient and official split of an image."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medvit import phantoms
from medvit.engine.outcome import late
from medvit.errors import DataError
from medvit.ingest import scan as scanning
from medvit.ingest.file_stamps import UNKNOWN
from medvit.ingest.labels import from_folders
from medvit.ingest.scan import ScanningConfig, scan
from medvit.records import Refusal

Write = Callable[..., Path]
CHANNELS = ScanningConfig.parse({"channels": {"names": {"T1": r"_t1\.", "T2": r"_t2\."}, "group": r"(p\d)_"}})


def patients(source: Path, patient_from: str | None = None) -> list[str]:
    return [one.patient.id for one in scan(source, ScanningConfig(patient_from=patient_from)).candidates]


def test_an_image_that_names_nobody_is_a_patient(write_png: Write, tmp_path: Path) -> None:
    write_png("a/1.png"), write_png("b/1.png")
    assert patients(tmp_path / "source") == ["a/1.png", "b/1.png"]


def test_the_patient_may_be_read_from_the_path(write_png: Write, tmp_path: Path) -> None:
    write_png("case7/1.png"), write_png("case7/2.png"), write_png("other/1.png")
    found = scan(tmp_path / "source", ScanningConfig(patient_from=r"case(\d+)"))
    assert [one.patient.id for one in found.candidates] == ["7", "7"]
    assert [(r.code, "other" in r.reason) for r in found.refusals] == [("data", False)]


def test_the_subject_of_bids_is_the_patient(write_png: Write, tmp_path: Path) -> None:
    write_png("sub-01/ses-1/anat/sub-01_T1w.png"), write_png("sub-02_T1w.png")
    assert patients(tmp_path / "source") == ["sub-01", "sub-02"]


def test_the_channels_of_a_case_of_nnunet_are_of_one_patient(write_png: Write, tmp_path: Path) -> None:
    write_png("imagesTr/la_01_0000.png"), write_png("imagesTr/la_01_0001.png"), write_png("scans/1_0000.png")
    assert patients(tmp_path / "source") == ["imagesTr/la_01", "imagesTr/la_01", "scans/1_0000.png"]


def test_the_patient_of_dicom_is_its_patient_id(tmp_path: Path) -> None:
    phantoms.write_radiograph_studies(tmp_path / "source", 2)
    found = scan(tmp_path / "source")
    assert len({one.patient for one in found.candidates}) == 2
    assert all(one.patient.is_known_elsewhere for one in found.candidates)


@pytest.mark.parametrize(
    ("path", "patient_from", "is_assumed"),
    [
        ("a/1.png", None, True),
        ("imagesTr/la_01_0000.png", None, True),
        ("sub-01_T1w.png", None, False),
        ("case7/1.png", r"case(\d+)", False),
    ],
)
def test_a_patient_that_nothing_names_is_assumed(
    write_png: Write, tmp_path: Path, path: str, patient_from: str | None, is_assumed: bool
) -> None:
    write_png(path)
    (candidate,) = scan(tmp_path / "source", ScanningConfig(patient_from=patient_from)).candidates
    assert candidate.patient.is_assumed == is_assumed
    assert not candidate.with_labels({}, patient="a person").patient.is_assumed, "a table names the patient"


def test_the_study_of_dicom_without_a_patient_id_stands_for_an_assumed_patient(tmp_path: Path) -> None:
    phantoms.write_radiograph_studies(tmp_path / "source", 2)
    named, nameless = sorted((tmp_path / "source").rglob("*.dcm"))[:2]
    dataset = pydicom.dcmread(nameless)
    dataset.PatientID, dataset.PatientName = "", ""
    dataset.save_as(nameless)
    found = {one.item.files[0]: one.patient for one in scan(tmp_path / "source").candidates}
    assert (found[named].is_assumed, found[nameless].is_assumed) == (False, True)
    assert found[nameless].id == dataset.StudyInstanceUID


@pytest.mark.parametrize(
    ("folder", "split"),
    [("Training/a", "train"), ("test", "test"), ("a/VALID/b", "val"), ("training/test", "test"), ("contest", None)],
)
def test_a_folder_named_after_a_split_is_official(
    write_png: Write, tmp_path: Path, folder: str, split: str | None
) -> None:
    write_png(f"{folder}/x.png")
    (candidate,) = scan(tmp_path / "source").candidates
    assert candidate.split == split


def test_images_of_several_channels_in_a_folder_are_patients_of_their_own(write_png: Write, tmp_path: Path) -> None:
    for name in ("p1_t1.png", "p1_t2.png", "p2_t1.png", "p2_t2.png"):
        write_png(name)
    found = scan(tmp_path / "source", CHANNELS).candidates
    assert [one.patient.id for one in found] == ["p1_t1.png", "p2_t1.png"]
    assert all(one.patient.is_assumed for one in found)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (("train/p1_t1.png", "test/p1_t2.png"), "their splits are test and train"),
        (("sub-1/p1_t1.png", "sub-2/p1_t2.png"), "of several patients"),
    ],
)
def test_channels_of_several_splits_or_patients_are_refused(
    write_png: Write, tmp_path: Path, paths: tuple[str, str], message: str
) -> None:
    for path in paths:
        write_png(path)
    (refusal,) = scan(tmp_path / "source", CHANNELS).refusals
    assert message in refusal.reason
    assert len(refusal.files) == 2


def test_folders_of_channels_are_not_the_class_of_an_image(write_png: Write, tmp_path: Path) -> None:
    for name in ("benign/t1/p1_t1.png", "benign/t2/p1_t2.png", "other/p2_t1.png", "other/p2_t2.png"):
        write_png(name)
    grouped = ScanningConfig.parse({"channels": {"names": {"T1": "_t1", "T2": "_t2"}, "group": r"(p\d)_"}})
    found = scan(tmp_path / "source", grouped).candidates
    assert [one.labels for one in from_folders(found, "folder")] == [{"label": "benign"}, {"label": "other"}]
    write_png("malignant/p3_t1.png")
    write_png("benign/p3_t2.png")
    with pytest.raises(DataError, match="the channels of an image are in benign and malignant; move the files"):
        from_folders(scan(tmp_path / "source", grouped).candidates, "folder")


def test_fields_of_view_without_label_maps_are_reported(
    write_png: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_png("images/a.png")
    write_png("mask/a.png")
    scan(tmp_path / "source", ScanningConfig(field_of_view_folder=("mask",)))
    assert "1 images with a field of view (scanning.field_of_view_folder) have no label map" in caplog.text


def test_images_of_one_file_are_told_apart(tmp_path: Path) -> None:
    arrays = {
        f"{split}_{what}": np.zeros((3, 8, 8) if what == "images" else (3, 1), np.uint8)
        for split in ("train", "val", "test")
        for what in ("images", "labels")
    }
    np.savez(tmp_path / "x.npz", **arrays)  # type: ignore[arg-type]
    candidates = scan(tmp_path / "x.npz").candidates
    assert len({one.key for one in candidates}) == len({one.patient for one in candidates}) == 9


def test_a_missing_source_is_told_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder at"):
        scan(tmp_path / "none")


def test_a_file_on_which_scanning_hung_is_refused_without_being_opened_again(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "hangs.dcm")  # whoever opens it waits
    found, taken = scanning._alone(late(tmp_path / "hangs.dcm", limit_s=5.0))
    assert found.refusal is not None
    assert (found.refusal.code, taken) == ("timeout", UNKNOWN)


def test_whose_a_file_is_on_which_scanning_hung_is_not_asked_of_the_file(tmp_path: Path) -> None:
    phantoms.write_radiograph_studies(tmp_path, 1)
    (file,) = tmp_path.rglob("*.dcm")
    refusals = [Refusal((file,), code, "") for code in ("unsupported", "timeout")]
    assert [scanning._identity(one) is None for one in refusals] == [False, True]
