"""SUV by body weight: the arithmetic, the clock, and every reason to keep a PET image in its own unit."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from pydicom import Dataset, Sequence
from pydicom.dataset import FileMetaDataset
from pydicom.uid import PositronEmissionTomographyImageStorage

from medvit.dicom.suv import common_factor, suv
from medvit.readers import find, read
from medvit.readers.options import ValuesConfig

F18_S = 6586.2
DOSE_BQ = 370e6


def pet(**elements) -> Dataset:
    """70 kg, 370 MBq of F-18 given an hour before the series; a value of None removes an element."""
    dataset, dose = Dataset(), Dataset()
    given = {
        "RadionuclideTotalDose": DOSE_BQ,
        "RadionuclideHalfLife": F18_S,
        "RadiopharmaceuticalStartTime": "090000",
    }
    injection = {
        "SOPClassUID": PositronEmissionTomographyImageStorage,
        "Units": "BQML",
        "DecayCorrection": "START",
        "CorrectedImage": ["NORM", "DTIM", "ATTN", "SCAT", "DECY"],
        "PatientWeight": 70.0,
        "SeriesDate": "20240301",
        "SeriesTime": "100000",
        "AcquisitionDate": "20240301",
        "AcquisitionTime": "100000",
    }
    for keyword, value in (given | injection | elements).items():
        if value is not None:
            setattr(dose if keyword.startswith("Radio") else dataset, keyword, value)
    dataset.file_meta = FileMetaDataset()
    dataset.RadiopharmaceuticalInformationSequence = Sequence([dose])
    return dataset


def factor(**elements) -> float:
    found = suv(pet(**elements))
    assert found is not None
    assert found.factor is not None, found.reason
    return found.factor


def expected(elapsed_s: float) -> float:
    return 70_000.0 / (DOSE_BQ * 2 ** (-elapsed_s / F18_S))


def test_the_dose_decays_until_the_series_begins():
    assert factor() == pytest.approx(expected(3600.0), rel=1e-9)


def test_a_body_of_uniform_uptake_has_an_suv_of_one():
    concentration = DOSE_BQ * 2 ** (-3600.0 / F18_S) / 70_000.0  # Bq/mL of water
    assert concentration * factor() == pytest.approx(1.0, rel=1e-9)


def test_images_corrected_to_the_administration_need_no_decay():
    assert factor(DecayCorrection="ADMIN", RadiopharmaceuticalStartTime=None) == pytest.approx(expected(0.0))


def test_a_dose_before_midnight_is_of_the_day_before():
    times = {"SeriesTime": "002000", "AcquisitionTime": "002000", "RadiopharmaceuticalStartTime": "233000"}
    assert factor(**times) == pytest.approx(expected(50 * 60.0))


def test_a_date_of_the_dose_goes_before_the_time_alone():
    elements = {"RadiopharmaceuticalStartTime": None, "RadiopharmaceuticalStartDateTime": "20240229231500.000000"}
    assert factor(SeriesTime="001500", AcquisitionTime="001500", **elements) == pytest.approx(expected(3600.0))


def test_values_that_are_uptake_already_keep_their_scale():
    assert factor(Units="GML") == 1.0


def test_a_series_dated_after_its_acquisition_counts_back_from_the_frame_reference_time():
    elements = {"SeriesTime": "150000", "AcquisitionTime": "100500", "ActualFrameDuration": 180_000}
    rate = np.log(2) / F18_S
    mean_s = np.log(rate * 180 / (1 - np.exp(-rate * 180))) / rate
    assert factor(FrameReferenceTime=(300 + mean_s) * 1000, **elements) == pytest.approx(expected(3600.0), rel=1e-6)


def test_the_private_scan_time_of_ge_goes_before_a_late_series_time():
    dataset = pet(SeriesTime="150000")
    dataset.private_block(0x0009, "GEMS_PETD_01", create=True).add_new(0x0D, "DT", "20240301100000")
    assert suv(dataset).factor == pytest.approx(expected(3600.0))


def test_the_private_scales_of_philips_turn_counts_to_uptake():
    dataset = pet(Units="CNTS")
    block = dataset.private_block(0x7053, "Philips PET Private Group", create=True)
    block.add_new(0x09, "DS", "2.5")
    assert suv(dataset).factor == pytest.approx(2.5 * expected(3600.0))
    block.add_new(0x00, "DS", "0.00042")
    assert suv(dataset).factor == pytest.approx(0.00042)


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"Units": "CNTS"}, "Units is CNTS"),
        ({"Units": None}, "Units is missing"),
        ({"Units": "GML", "SUVType": "LBM"}, "SUVType is LBM"),
        ({"PatientWeight": None}, "no (0010,1030) PatientWeight"),
        ({"PatientWeight": 0}, "PatientWeight is not between"),
        ({"PatientWeight": 70_000}, "PatientWeight is not between"),
        ({"CorrectedImage": ["ATTN"]}, "DECY"),
        ({"DecayCorrection": "NONE"}, "DecayCorrection is NONE"),
        ({"RadionuclideTotalDose": 370.0}, "dose is not between"),
        ({"RadionuclideTotalDose": None}, "no (0018,1074) dose"),
        ({"RadionuclideHalfLife": None}, "half-life"),
        ({"RadiopharmaceuticalStartTime": None}, "time at which the dose was given"),
        ({"RadiopharmaceuticalStartTime": "100100"}, "half-lives after the dose"),
        ({"RadiopharmaceuticalStartDateTime": "20190301090000"}, "half-lives after the dose"),
        ({"RadiopharmaceuticalStartDateTime": "20240301093000"}, "two times"),
        ({"RadionuclideHalfLife": 282_240.0}, "long-lived"),
        ({"SeriesTime": "150000"}, "FrameReferenceTime"),
        ({"AcquisitionDate": None}, "date and time of the acquisition"),
    ],
)
def test_where_a_tag_does_not_allow_it_there_is_a_reason_in_place_of_a_factor(elements, reason):
    found = suv(pet(**elements))
    assert found.factor is None
    assert reason in found.reason


def test_slices_corrected_to_different_times_have_no_common_factor():
    found = common_factor([suv(pet()), suv(pet(RadiopharmaceuticalStartTime="093000"))])
    assert found.factor is None
    assert "different times" in found.reason


def test_other_modalities_have_no_uptake():
    assert suv(pet(SOPClassUID="1.2.840.10008.5.1.4.1.1.2")) is None


@pytest.fixture
def pet_items(write_slice):
    def items(**elements):
        attributes = {element.keyword: element.value for element in pet(**elements)} | {"Modality": "PT"}
        for n in range(3):
            write_slice(
                np.full((4, 4), 1000, np.int16),
                position=(0, 0, n),
                name=f"{n}.dcm",
                **attributes
                | {
                    "RescaleSlope": n + 1,
                    "RescaleIntercept": 0,
                },
            )
        (item,) = find(sorted(write_slice(np.zeros((1, 1), np.int16), name="x.dcm").parent.glob("[0-9].dcm")))
        return item

    return items


def test_a_volume_comes_in_uptake_where_that_is_wanted_and_in_its_own_unit_otherwise(pet_items):
    item = pet_items()
    plain, scaled = read(item), read(ValuesConfig(pet="SUVbw").of(item))
    assert (plain.unit, scaled.unit) == ("BQML", "SUVbw")
    assert np.allclose(scaled.intensities(), plain.intensities() * expected(3600.0), rtol=1e-5)


def test_a_volume_that_allows_no_uptake_keeps_its_unit_and_the_log_says_why(pet_items, caplog):
    with caplog.at_level(logging.WARNING, logger="medvit"):
        image = read(ValuesConfig(pet="SUVbw").of(pet_items(PatientWeight=None)))
    assert image.unit == "BQML"
    assert "keeps its unit BQML: no (0010,1030) PatientWeight" in caplog.text
