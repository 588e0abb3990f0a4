"""Elements with the standard's terms: another text gets nowhere, neither into records nor into copies."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import Dataset, dcmread

from medvit import phantoms
from medvit.deidentification.cleaning import Replacements, deidentified
from medvit.dicom.acquisition import read_attributes
from medvit.dicom.element_values import BY_KEYWORD, MODALITY, RESCALE_TYPE, _warn
from medvit.dicom.header import header_of
from medvit.dicom.modality_lut import meaning
from medvit.ingest.deidentified_copy import DeidentifyConfig

TEXT = "MUELLER"


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    phantoms.write_ct_studies(tmp_path, 1)
    _warn.cache_clear()
    return dcmread(next(tmp_path.rglob("abdomen/*.dcm")))


def unit(dataset: Dataset) -> str:
    return meaning(dataset, 0, is_little=True, is_signed=True).unit


def test_a_modality_that_is_not_a_term_is_other(dataset: Dataset, tmp_path: Path, caplog) -> None:
    dataset.Modality = TEXT
    assert header_of(dataset, tmp_path, num_bytes=1).modality == "OT"
    assert "(0008,0060) Modality of some files is not a term of DICOM PS3.3 C.7.3.1.1.1" in caplog.text
    assert TEXT not in caplog.text


def test_a_modality_that_is_a_term_or_missing_stays(dataset: Dataset, tmp_path: Path) -> None:
    for text, found in (("ct", "CT"), ("", ""), ("MR", "MR"), ("OPT", "OPT")):
        dataset.Modality = text
        assert header_of(dataset, tmp_path, num_bytes=1).modality == found


@pytest.mark.parametrize(
    ("written", "taken"), [("HU", "HU"), ("hu ", "HU"), ("", "HU"), ("US", ""), ("HU_MOD", "HU_MOD"), (TEXT, "")]
)
def test_a_rescale_type_is_a_term_or_no_unit(dataset: Dataset, written: str, taken: str, caplog) -> None:
    dataset.RescaleType = written
    assert unit(dataset) == taken
    assert ("RescaleType of some files is not a term" in caplog.text) == (written == TEXT)


def test_a_rescale_type_of_frames_is_a_term_or_no_unit(dataset: Dataset) -> None:
    for written, taken in (("BQML", "BQML"), ("HU", "HU"), (TEXT, "")):
        group, transformation = Dataset(), Dataset()
        transformation.RescaleSlope, transformation.RescaleIntercept, transformation.RescaleType = 1, 0, written
        group.PixelValueTransformationSequence = [transformation]
        dataset.SharedFunctionalGroupsSequence = [group]
        assert unit(dataset) == taken


def test_a_unit_of_pet_is_a_term_or_nothing(dataset: Dataset) -> None:
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.128"
    for written, taken in (("BQML", "BQML"), ("MUELLER", "")):
        dataset.Units = written
        assert unit(dataset) == taken


def test_a_scanning_sequence_keeps_its_terms(dataset: Dataset) -> None:
    dataset.ScanningSequence = ["SE", "MUELLER", "IR"]
    assert read_attributes(dataset)["sequence"] == "SE\\IR"


@pytest.mark.parametrize("keyword", BY_KEYWORD)
def test_a_copy_holds_terms_alone(dataset: Dataset, keyword: str) -> None:
    by = Replacements("p-1", -1000, lambda uid: "2.25.1")
    setattr(dataset, keyword, TEXT)
    copy = deidentified(dataset, DeidentifyConfig().profile, by)
    assert copy[keyword].value == BY_KEYWORD[keyword].in_copies
    kept = sorted(BY_KEYWORD[keyword].terms)[0]
    setattr(dataset, keyword, kept)
    assert deidentified(dataset, DeidentifyConfig().profile, by)[keyword].value == kept


def test_the_terms_are_those_of_the_standard() -> None:
    assert {"CT", "MR", "PT", "US", "OP", "OPT", "SM", "XC", "DX", "MG", "NM", "SC"} - MODALITY.terms == {"SC"}
    assert RESCALE_TYPE.terms == {"OD", "HU", "US", "MGML", "Z_EFF", "ED", "EDW", "HU_MOD", "PCT"}
