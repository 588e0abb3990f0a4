"""De-identified DICOM: removed, kept and consistent elements."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from imagecodecs import jpegls_encode
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from medvit import phantoms
from medvit.deidentification.cleaning import Replacements, deidentified
from medvit.deidentification.dates import shifted, written_forms
from medvit.deidentification.pixels import blank
from medvit.deidentification.profile import Option, Profile
from medvit.deidentification.pseudonyms import MAX_DAYS, MIN_DAYS, Pseudonyms
from medvit.deidentification.text_detector import TextLine
from medvit.deidentification.vocabulary import clean, removed
from medvit.dicom.header import load
from medvit.dicom.pixels import decode
from medvit.dicom.stream_comments import comments
from medvit.errors import MedvitError, UnreadableError
from medvit.ingest.deidentified_copy import DeidentifyConfig
from medvit.records import Patient

PSEUDONYMS = Pseudonyms(b"k" * 32, "test")
BY = Replacements("p-1", -1000, PSEUDONYMS.uid)
ALL = DeidentifyConfig().profile


def profile(*options: Option) -> Profile:
    return Profile(frozenset(options))


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    phantoms.write_ct_studies(tmp_path, 1)
    return dcmread(next(tmp_path.rglob("abdomen/*.dcm")))


def test_pixels_and_geometry_stay_as_they_were(dataset: Dataset) -> None:
    copy = deidentified(dataset, ALL, BY)
    for keyword in ("PixelData", "PixelSpacing", "ImagePositionPatient", "RescaleIntercept", "Rows", "SOPClassUID"):
        assert copy[keyword].value == dataset[keyword].value


def test_it_says_what_was_done(dataset: Dataset) -> None:
    copy = deidentified(dataset, ALL, BY)
    codes = [code.CodeValue for code in copy.DeidentificationMethodCodeSequence]
    assert codes == ["113100", "113108", "113107", "113105", "113109", "113111"]
    assert (copy.PatientIdentityRemoved, copy.LongitudinalTemporalInformationModified) == ("YES", "MODIFIED")
    assert copy.DeidentificationMethod
    plain = deidentified(dataset, profile(), BY)
    assert [code.CodeValue for code in plain.DeidentificationMethodCodeSequence] == ["113100"]
    assert plain.LongitudinalTemporalInformationModified == "REMOVED"


def test_uids_stay_consistent_wherever_they_stand(dataset: Dataset) -> None:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    dataset.ReferencedImageSequence = [item]
    copy = deidentified(dataset, ALL, BY)
    assert copy.SOPInstanceUID == copy.ReferencedImageSequence[0].ReferencedSOPInstanceUID
    assert copy.SOPInstanceUID == copy.file_meta.MediaStorageSOPInstanceUID
    assert copy.SOPInstanceUID == PSEUDONYMS.uid(dataset.SOPInstanceUID) != dataset.SOPInstanceUID
    assert copy.SOPInstanceUID.startswith("2.25.")
    assert copy.ReferencedImageSequence[0].ReferencedSOPClassUID == dataset.SOPClassUID
    assert len({copy.StudyInstanceUID, copy.SeriesInstanceUID, copy.FrameOfReferenceUID, copy.SOPInstanceUID}) == 4


def test_uids_may_be_retained(dataset: Dataset) -> None:
    assert deidentified(dataset, profile("uids"), BY).SOPInstanceUID == dataset.SOPInstanceUID


def test_dates_of_a_patient_move_together_and_a_birth_date_goes(dataset: Dataset) -> None:
    dataset.StudyDate, dataset.SeriesDate, dataset.PatientBirthDate = "20200301", "20200305", "19500101"
    dataset.AcquisitionDateTime, dataset.StudyTime = "20200301235959.5+0100", "101112"
    copy = deidentified(dataset, ALL, BY)
    assert (copy.StudyDate, copy.SeriesDate, copy.PatientBirthDate) == ("20170605", "20170609", "")
    assert (copy.AcquisitionDateTime, copy.StudyTime) == ("20170605235959.5+0100", "101112")
    plain = deidentified(dataset, profile(), BY)
    assert (plain.StudyDate, plain.SeriesDate, plain.StudyTime) == ("", "19000101", "")


@pytest.mark.parametrize(
    ("value", "vr", "moved"),
    [
        ("20200301", "DA", "20200228"),
        ("2020.03.01", "DA", "20200228"),
        ("202003", "DT", "202002"),
        ("2020", "DT", "2020"),
        ("101112.5", "TM", "101112.5"),
        ("Zebedee", "DA", ""),
        ("Zebedee", "TM", ""),
        ("20201399", "DA", ""),
        ("00010101", "DA", ""),
    ],
)
def test_a_date_moves_by_days_and_what_is_none_goes(value: str, vr: str, moved: str) -> None:
    assert shifted(value, vr, -2) == moved


def test_a_date_is_known_in_the_forms_people_write() -> None:
    assert {"19630412", "1963-04-12", "12.04.1963", "04/12/1963", "12 Apr 1963"} <= set(written_forms("19630412"))
    assert written_forms("196304") == ()


def test_days_depend_on_patient_and_key_and_lie_in_the_past() -> None:
    patients = [Patient(str(number), is_known_elsewhere=True) for number in range(200)]
    days = [PSEUDONYMS.days(patient) for patient in patients]
    assert all(-MAX_DAYS <= number <= -MIN_DAYS for number in days)
    assert len(set(days)) > 150
    assert Pseudonyms(b"k" * 32, "other").days(patients[0]) == days[0]
    assert [Pseudonyms(b"j" * 32, "test").days(patient) for patient in patients] != days


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("T2 FLAIR axial Zebedee", "T2 FLAIR axial"),
        ("CHEST^ABD 0.625mm b1000 3D", "CHEST ABD 0.625mm b1000 3D"),
        ("Zeb 12/04/1963, call 555-017-3342", ""),
        ("record 7731904", ""),
        ("Кузнецов thorax", "thorax"),
        ("Head of Mr White", "Head of Mr"),
    ],
)
def test_a_descriptor_keeps_its_common_words(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("HippoCrop", "HippoCrop"),
        ("T1post", "T1post"),
        ("T1pre_reg", "T1pre reg"),
        ("AX T1POST", "AX T1POST"),
        ("T2starW", "T2star"),
        ("T1postJones", "T1 post"),
        ("Knee2WagnerStd", "Knee Std"),
        ("SmithT2w", "T2w"),
        ("McLong", "Long"),
        ("DOEJane", ""),
        ("A123B456", ""),
        ("B12A34", ""),
        ("MRN4711", ""),
    ],
)
def test_a_word_of_several_is_taken_apart(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned
    assert (removed(text) == "") == (cleaned == text.replace("_", " "))


def test_a_part_that_identifies_goes_and_a_word_that_a_site_allows_stays(dataset: Dataset) -> None:
    assert clean("T1post", {"post"}) == "T1"
    assert clean("HippoCrop", {"hippocrop"}) == ""
    dataset.SeriesDescription = "FlashXY Quokka t1"
    config = DeidentifyConfig.parse({"words": ["FlashXY"]})
    assert deidentified(dataset, config.profile, BY).SeriesDescription == "FlashXY t1"


def test_series_before_and_after_contrast_differ_in_the_copy(dataset: Dataset) -> None:
    found = set()
    for text in ("T1pre", "T1post", "T1pre_reg", "T1post_reg"):
        dataset.SeriesDescription = text
        found.add(deidentified(dataset, ALL, BY).SeriesDescription)
    assert found == {"T1pre", "T1post", "T1pre reg", "T1post reg"}


def test_the_words_of_a_name_stay_nowhere_even_if_common(dataset: Dataset) -> None:
    dataset.PatientName, dataset.SeriesDescription = "Head^Ann", "Head axial"
    assert deidentified(dataset, ALL, BY).SeriesDescription == "axial"


def test_the_very_old_are_given_as_ninety(dataset: Dataset) -> None:
    for age, kept in (("089Y", "089Y"), ("097Y", "090Y"), ("003M", "003M"), ("Zeb", "")):
        dataset.PatientAge = age
        assert deidentified(dataset, ALL, BY).PatientAge == kept


@pytest.mark.parametrize("value", [b"Zebedee ", b"1.5\\Quentin ", b"12/04/63"])
@pytest.mark.parametrize(("tag", "vr"), [(0x0018_0050, "DS"), (0x0020_0013, "IS")])
def test_what_is_no_number_where_one_should_stand_goes(
    dataset: Dataset, tmp_path: Path, tag: int, vr: str, value: bytes
) -> None:
    dataset[tag] = RawDataElement(Tag(tag), vr, len(value), value, 0, False, True)
    dataset.SliceLocation = "-1.25e1"
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    deidentified(dcmread(tmp_path / "a.dcm"), ALL, BY).save_as(tmp_path / "b.dcm", enforce_file_format=True)
    copy = dcmread(tmp_path / "b.dcm")
    assert copy[tag].value in (None, "")
    assert copy.SliceLocation == -12.5


def test_without_options_characteristics_and_device_go(dataset: Dataset) -> None:
    dataset.PatientAge, dataset.PatientWeight, dataset.DeviceSerialNumber = "045Y", "70", "SN7731"
    kept, plain = deidentified(dataset, ALL, BY), deidentified(dataset, profile(), BY)
    assert (kept.PatientAge, kept.PatientWeight, kept.DeviceSerialNumber) == ("045Y", 70, "SN7731")
    assert "PatientAge" not in plain
    assert "PatientWeight" not in plain
    assert plain.DeviceSerialNumber == "REMOVED"


def test_private_elements_stay_only_if_listed_and_numbers(dataset: Dataset) -> None:
    block = dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0C, "IS", "800")
    block.add_new(0x0E, "LO", "somebody")
    other = dataset.private_block(0x0029, "ACME 1", create=True)
    other.add_new(0x01, "LO", "kernel")
    other.add_new(0x02, "LO", "else")
    copy = deidentified(dataset, ALL, BY)
    assert [element.tag for element in copy if element.tag.is_private] == [0x00190010, 0x0019100C]
    listed = DeidentifyConfig(private=("ACME 1:0029,01",)).profile
    copy = deidentified(dataset, listed, BY)
    assert [element.tag for element in copy if element.tag.is_private] == [0x00290010, 0x00291001]


@pytest.mark.parametrize(("value", "stays"), [("0 ", True), ("1000\\50", True), ("DOE JANE", False)])
def test_a_private_number_stays_if_it_is_one(dataset: Dataset, value: str, stays: bool) -> None:
    block = dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    tag = block.get_tag(0x0C)
    dataset[tag] = RawDataElement(tag, "IS", len(value), value.encode(), 0, False, True)
    assert (tag in deidentified(dataset, ALL, BY)) == stays


def test_an_allow_list_of_another_form_is_refused() -> None:
    with pytest.raises(MedvitError, match=r"expected CREATOR:gggg,ee"):
        DeidentifyConfig.parse({"private": ["(0029,1001)"]})


def test_an_overlay_within_the_pixels_is_cleared(dataset: Dataset) -> None:
    pixels = np.frombuffer(dataset.PixelData, dtype="<u2")
    dataset.PixelData = (pixels | np.uint16(0x8000)).tobytes()
    dataset.add_new(0x60000102, "US", 15)
    copy = deidentified(dataset, ALL, BY)
    assert copy.PixelData == pixels.tobytes()
    assert not any(element.tag.group == 0x6000 for element in copy)


def test_a_comment_of_compressed_pixels_goes_whatever_it_says(dataset: Dataset) -> None:
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.PixelData = encapsulate([b"\xff\xd8\xff\xfe\0\x0aQuentin\0\xff\xd9"])
    assert b"Quentin" not in deidentified(dataset, ALL, BY).PixelData
    assert b"Quentin" in dataset.PixelData


def test_compressed_pixels_with_a_name_among_their_samples_are_refused(dataset: Dataset) -> None:
    dataset.PatientName = "Zebedee^Ann"
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.PixelData = encapsulate([b"\xff\xd8\xff\xda\0\x02Zebedee\xff\xd9"])
    with pytest.raises(UnreadableError, match="contain an identifier among their samples"):
        deidentified(dataset, ALL, BY)


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless, JPEGLSLossless]
)
def test_a_masked_copy_has_the_colors_of_its_source(tmp_path: Path, syntax: UID) -> None:
    """Lookup tables and all other data stored as words keep the byte order of their file."""
    indices = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    dataset = colored(indices, is_little=syntax != ExplicitVRBigEndian)
    if syntax == RLELossless:
        dataset.compress(RLELossless)
    elif syntax == JPEGLSLossless:
        dataset.PixelData = encapsulate([jpegls_encode(indices)])
        dataset["PixelData"].VR = "OB"
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    source = load(tmp_path / "a.dcm")
    before = decode(source).pixels
    again = load(tmp_path / "a.dcm")
    blank(again, [TextLine(10, 20, 5, 60, 1.0)])
    copy = deidentified(again, ALL, BY, writing="masked")
    copy.save_as(tmp_path / "copy.dcm", enforce_file_format=True)
    after = decode(load(tmp_path / "copy.dcm")).pixels
    outside = np.ones((64, 64), bool)
    outside[10:20, 5:60] = False
    assert (after[:, outside] == before[:, outside]).all()
    assert len(np.unique(after[:, 10:20, 5:60].reshape(3, -1), axis=1).T) == 1


def colored(indices: np.ndarray, *, is_little: bool) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3"
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = *indices.shape, 1
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.PhotometricInterpretation = "PALETTE COLOR"
    order = "<" if is_little else ">"
    for number, color in enumerate(("Red", "Green", "Blue")):
        table = np.random.default_rng(number).integers(0, 65536, 256).astype(f"{order}u2")
        dataset.add_new(f"{color}PaletteColorLookupTableDescriptor", "US", [256, 0, 16])
        dataset.add_new(f"{color}PaletteColorLookupTableData", "OW", table.tobytes())
    dataset.PixelData = indices.tobytes()
    dataset["PixelData"].VR = "OB"
    return dataset


ODD = ("dicom-odd", "highdicom-sm-seg-sr", "torchio-ct-series")


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is not installed")
@pytest.mark.parametrize("folder", ODD)
def test_real_files_are_as_valid_as_they_were(shared_data: Path, tmp_path: Path, folder: str) -> None:
    num_copied = 0
    for file in sorted((shared_data / folder).rglob("*.dcm")):
        try:
            dataset = load(file)
        except MedvitError:
            continue
        if "PixelData" not in dataset or not dataset.file_meta.get("TransferSyntaxUID", "").is_transfer_syntax:
            continue
        copy = deidentified(dataset, ALL, BY)
        copy.save_as(tmp_path / "copy.dcm", enforce_file_format=True)
        assert bytes(copy.PixelData) == bytes(dataset.PixelData) or comments(dataset)
        assert not errors_of(tmp_path / "copy.dcm") - errors_of(file), file.name
        num_copied += 1
    assert num_copied > 2


def errors_of(file: Path) -> Counter[str]:
    """The errors that the validator finds, without the UIDs it quotes."""
    shown = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, errors="replace").stderr
    return Counter(line.partition(" <")[0] for line in shown.splitlines() if line.startswith("Error"))
