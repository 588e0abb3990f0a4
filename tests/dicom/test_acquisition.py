"""Facts about the scanner are kept, values that name a person are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom import DataElement, Dataset, dcmread
from pydicom.sequence import Sequence

from medvit import phantoms, readers
from medvit.dicom.acquisition import KEYS, attributes, read_attributes
from medvit.dicom.header import read_header
from medvit.records import Item


def scanned(**elements: object) -> Dataset:
    dataset = Dataset()
    defaults = {"Manufacturer": "SIEMENS", "ManufacturerModelName": "Prisma_fit", "MagneticFieldStrength": "3"}
    for keyword, value in (defaults | elements).items():
        setattr(dataset, keyword, value)
    return dataset


def test_the_phantoms_tell_what_they_are(tmp_path: Path) -> None:
    phantoms.write_ct_studies(tmp_path, 1)
    items = [found for found in readers.find(sorted(tmp_path.rglob("*.dcm"))) if isinstance(found, Item)]
    found = attributes(items[0])
    assert found["manufacturer"] == "medvit"
    assert "model" not in found  # it is "phantom", and so is the patient's name
    assert found["sex"] == "O"
    assert found.keys() <= set(KEYS)


@pytest.mark.parametrize("name", ["Zoë^Prisma", "Zoe^Prisma"])
def test_a_model_called_as_the_patient_is_kept_in_no_alphabet(tmp_path: Path, name: str) -> None:
    phantoms.write_ct_studies(tmp_path, 1)
    file = sorted(tmp_path.rglob("*.dcm"))[0]
    dataset = dcmread(file)
    dataset.SpecificCharacterSet, dataset.PatientName, dataset.ManufacturerModelName = "ISO_IR 100", name, "Prisma"
    dataset.save_as(file)
    found = attributes(Item("dicom", (file,), "image"))
    assert "manufacturer" in found
    assert "model" not in found


@pytest.mark.parametrize(
    ("model", "people"),
    [
        ("Canon Medical Systems", {"PatientName": "Anon^1"}),
        ("GE MEDICAL SYSTEMS", {"OperatorsName": "System Admin"}),
        ("LightSpeed 16 2.0.10", {"PatientName": "Light^Ann"}),
        ("Revolution CT", {"OperatorsName": "CT"}),
        ("EPIQ 7.10.21", {"PatientName": "Doe^Jane"}),
    ],
)
def test_products_are_kept_though_a_name_is_within_them(model: str, people: dict[str, str]) -> None:
    assert read_attributes(scanned(ManufacturerModelName=model, **people)).get("model") == model


def test_an_identifier_that_is_no_text_is_known_too(tmp_path: Path) -> None:
    phantoms.write_ct_studies(tmp_path, 1)
    file = sorted(tmp_path.rglob("*.dcm"))[0]
    dataset = dcmread(file)
    dataset.ManufacturerModelName = "12345"
    dataset["PatientID"] = DataElement(0x0010_0020, "UL", 12345)
    dataset.save_as(file)
    assert "model" not in attributes(Item("dicom", (file,), "image"))


def test_other_formats_and_lost_files_say_nothing(tmp_path: Path) -> None:
    assert attributes(Item("image", (tmp_path / "x.png",), "image")) == {}
    assert attributes(Item("dicom", (tmp_path / "gone.dcm",), "image")) == {}


@pytest.mark.parametrize(
    ("age", "years"),
    [("045Y", "45"), ("018M", "1"), ("011M", "0"), ("030W", "0"), ("400D", "1"), ("088Y", "88"), ("089Y", "89")]
    + [("090Y", "89"), ("107Y", "89"), ("999Y", None), ("45", None), ("", None)],
)
def test_ages_are_whole_years_and_the_oldest_are_one_group(age: str, years: str | None) -> None:
    assert read_attributes(scanned(PatientAge=age)).get("age_years") == years


@pytest.mark.parametrize(
    ("born", "seen", "years"),
    [("19630412", "20030411", "39"), ("19630412", "20030412", "40"), ("19000101", "20030412", "89")]
    + [("", "20030412", None), ("20040101", "20030412", None), ("1963", "20030412", None)],
)
def test_without_an_age_the_dates_tell_it(born: str, seen: str, years: str | None) -> None:
    assert read_attributes(scanned(PatientBirthDate=born, StudyDate=seen)).get("age_years") == years


@pytest.mark.parametrize(
    "planted",
    ["Doe Jane's own", "JANE", "built for Doe", "unit QX7731", "SN 4711081", "St. Grantham", "x" * 41, "<b>", "Zoë"],
)
def test_a_model_that_names_anyone_is_not_kept(planted: str) -> None:
    found = read_attributes(
        scanned(
            ManufacturerModelName=planted,
            PatientName="Doe^Jane",
            PatientID="QX7731",
            InstitutionName="Grantham Hospital",
        )
    )
    assert "model" not in found
    assert found["manufacturer"] == "SIEMENS"


@pytest.mark.parametrize(
    ("name", "planted"),
    [
        ("Li^Wu", "Li Wu"),
        ("Doe^Jane", "JaneDoe"),
        ("Müller^Eva", "Muller"),
        ("Müller^Eva", "Mueller-unit"),
        ("Doe^Jane", "1963-04-12"),
        ("Doe^Jane", "12.04.1963"),
        ("Doe^Jane", "12/4/63"),
    ],
)
def test_a_name_is_known_however_it_is_written(name: str, planted: str) -> None:
    assert "model" not in read_attributes(scanned(ManufacturerModelName=planted, PatientName=name))


@pytest.mark.parametrize(
    ("strength", "tesla"), [("3", "3"), (1.494, "1.494"), ("15000", "1.5"), ("0", None), (None, None)]
)
def test_field_strengths_are_in_tesla(strength: object, tesla: str | None) -> None:
    assert read_attributes(scanned(MagneticFieldStrength=strength)).get("field_strength_t") == tesla


def test_a_sequence_of_several_values_is_kept_as_dicom_writes_it() -> None:
    assert read_attributes(scanned(ScanningSequence=["SE", "IR"]))["sequence"] == r"SE\IR"


def test_an_enhanced_object_tells_it_in_its_shared_groups() -> None:
    group, timing = Dataset(), Dataset()
    timing.RepetitionTime = 2000.0
    group.MRTimingAndRelatedParametersSequence = Sequence([timing])
    assert read_attributes(scanned(SharedFunctionalGroupsSequence=Sequence([group])))["repetition_time_ms"] == "2000"


@pytest.mark.parametrize(("sex", "kept"), [("F", "F"), ("m", "M"), ("O", "O"), ("Jane", None), ("", None)])
def test_sex_is_one_of_three_letters(sex: str, kept: str | None) -> None:
    assert read_attributes(scanned(PatientSex=sex)).get("sex") == kept


@pytest.mark.parametrize(
    ("elements", "mpp", "which"),
    [
        ({"PixelSpacing": [0.1, 0.1], "ImagerPixelSpacing": [0.14, 0.14]}, 100.0, "calibrated"),
        ({"PixelSpacing": [0.14, 0.14], "ImagerPixelSpacing": [0.14, 0.14]}, 140.0, "detector"),
        ({"PixelSpacing": [0.1, 0.1]}, 100.0, "calibrated"),
        ({"ImagerPixelSpacing": [0.14, 0.14]}, 140.0, "detector"),
        ({}, None, None),
    ],
)
def test_a_radiograph_says_whether_its_pixels_are_calibrated(write_slice, elements, mpp, which):
    missing = {"PixelSpacing": None, "ImagePositionPatient": None, "ImageOrientationPatient": None}
    path = write_slice(np.zeros((4, 6), np.uint16), Modality="DX", **(missing | elements))
    assert read_header(path).mpp == mpp
    assert attributes(Item("dicom", (path,), "image", "DX")).get("pixel_spacing") == which
