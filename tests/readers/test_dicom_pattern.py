"""What is found along the way through another file is what a file by itself gives, whatever its bytes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage

from medvit.readers import dicom_elements
from medvit.readers.beginning import FIRST_BYTES, Beginning
from medvit.readers.dicom_elements import NUM_PATTERNS, Elements, quick_beginning
from medvit.readers.dicom_header import header_of
from medvit.readers.dicom_places import PIXELS

TEST_FILES = Path(pydicom.__file__).parent / "data" / "test_files"
SYNTAXES = {"implicit": ImplicitVRLittleEndian, "explicit": ExplicitVRLittleEndian}
TAGS = (0x00080008, 0x00080016, 0x00080018, 0x00081140, 0x00100020, 0x00200013, 0x00200032, 0x00280010, 0x00280030)


@pytest.fixture(autouse=True)
def _no_pattern_is_known() -> Iterator[None]:
    dicom_elements._patterns.clear()
    yield
    dicom_elements._patterns.clear()


def content_of(syntax: str, *, undefined_lengths: bool = False, **values: object) -> bytes:
    dataset, inner = Dataset(), Dataset()
    inner.CodeValue, inner.ContentSequence = "x", [Dataset()]
    dataset.ImageType, dataset.SOPInstanceUID, dataset.PatientID = ["ORIGINAL", "M"], "1.2.3", "P^1"
    dataset.ReferencedImageSequence, dataset.InstanceNumber = [inner, Dataset()], "7"
    dataset.ImagePositionPatient, dataset.Rows, dataset.PixelSpacing = ["1.0", "-2.5", "3.0"], 3, ["0.5", "0.5"]
    dataset.add_new(PIXELS, "OW", bytes(30))
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    for element in (dataset["ReferencedImageSequence"], inner["ContentSequence"]):
        element.is_undefined_length = undefined_lengths
        for item in element.value:
            item.is_undefined_length_sequence_item = undefined_lengths
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID, dataset.file_meta.MediaStorageSOPInstanceUID = MRImageStorage, "1.2.3"
    dataset.file_meta.TransferSyntaxUID = syntax
    stream = io.BytesIO()
    dataset.save_as(stream, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=True, enforce_file_format=True)
    return stream.getvalue()


def look(content: bytes) -> Any:
    return quick_beginning(Beginning(content[:FIRST_BYTES], len(content), 0), TAGS)


def told(found: Elements | None) -> tuple[object, ...] | None:
    """All that the elements say, and the header they make."""
    if found is None:
        return None
    try:
        header: object = header_of(found, Path("file"), 1000)
    except Exception as error:  # what a value of a damaged file raises is told too
        header = f"{type(error).__name__}: {error}"
    values = {tag: bytes(found.content[slice(*found._places[tag][1:3])]) for tag in found.keys()}  # noqa: SIM118
    return found._places, found.file_meta._places, values, found.pixels, header


def by_itself(content: bytes) -> tuple[object, ...] | None:
    known = dict(dicom_elements._patterns)
    dicom_elements._patterns.clear()
    try:
        return told(look(content))
    finally:
        dicom_elements._patterns.clear()
        dicom_elements._patterns.update(known)


@pytest.mark.parametrize("undefined_lengths", [False, True], ids=["lengths", "delimiters"])
@pytest.mark.parametrize("syntax", SYNTAXES.values(), ids=SYNTAXES)
def test_a_file_laid_out_as_another_is_found_along_the_same_way(syntax: str, undefined_lengths: bool) -> None:
    one = content_of(syntax, undefined_lengths=undefined_lengths)
    other = content_of(syntax, undefined_lengths=undefined_lengths, PatientID="Q^2", InstanceNumber="8", Rows=4)
    assert [look(content).pattern for content in (one, other)] == [None, None]
    third = look(other)
    assert third.pattern is not None
    assert (third.get("PatientID"), third.get("InstanceNumber"), third.get("Rows")) == ("Q^2", 8, 4)
    assert told(third) == by_itself(other)


def test_a_file_of_the_same_size_with_other_lengths_is_found_by_itself() -> None:
    one = content_of(ExplicitVRLittleEndian, PatientID="P^1234", InstanceNumber="7")
    other = content_of(ExplicitVRLittleEndian, PatientID="P^12", InstanceNumber="700")
    assert len(one) == len(other)
    assert [look(one).pattern is None for _ in range(3)] == [True, True, False]
    found = look(other)
    assert found.pattern is None
    assert (found.get("PatientID"), found.get("InstanceNumber")) == ("P^12", 700)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "content",
    [
        *(
            pytest.param(content_of(syntax, undefined_lengths=undefined), id=f"{name}-{undefined}")
            for name, syntax in SYNTAXES.items()
            for undefined in (False, True)
        ),
        *(
            pytest.param((TEST_FILES / name).read_bytes(), id=name)
            for name in ("CT_small.dcm", "MR_small_implicit.dcm", "JPEG2000.dcm", "liver_1frame.dcm")
        ),
    ],
)
def test_whatever_byte_differs_nothing_else_is_found_than_in_the_file_by_itself(content: bytes) -> None:
    rng = np.random.default_rng(0)
    for _ in range(2):
        look(content)
    num_alike = 0
    for _ in range(1000):
        changed = bytearray(content)
        for at in rng.integers(128, min(len(content), 6000), rng.integers(1, 3)):
            changed[at] = rng.choice([rng.integers(256), changed[at] ^ 1 << rng.integers(8), 0xFF, 0])
        found = look(bytes(changed))
        num_alike += found is not None and found.pattern is not None
        assert told(found) == by_itself(bytes(changed))
        look(content)  # so that the next one meets this file's way again
    assert num_alike > 100


def test_a_way_is_that_of_one_size_one_length_and_what_was_sought_alone() -> None:
    content = content_of(ExplicitVRLittleEndian)
    for _ in range(3):
        found = look(content)
    assert found is not None
    assert found.pattern is not None
    _, _, stop, _ = found._places[0x00280030]
    assert quick_beginning(Beginning(content[:stop], stop - 2, 0), TAGS) is None  # its last value is cut off
    assert quick_beginning(Beginning(content[: stop - 2], len(content), 0), TAGS) is None  # and not read
    fewer = quick_beginning(Beginning(content, len(content), 0), (0x00080008, TAGS[-2], TAGS[-1]))
    assert fewer is not None
    assert list(fewer.keys()) == [0x00080008, TAGS[-2], TAGS[-1]]


def test_elements_without_a_length_of_their_own_are_not_said_by_their_bytes() -> None:
    content = content_of(ExplicitVRLittleEndian, undefined_lengths=True)
    for _ in range(3):
        found = look(content)
    assert found is not None
    assert found.pattern is not None
    assert found.pattern.said(content, (0x00100020,)) == b"P^1 "
    assert found.pattern.said(content, (0x00100020, 0x00081140)) is None


def test_only_so_many_ways_are_kept() -> None:
    for length in range(NUM_PATTERNS + 10):
        look(content_of(ExplicitVRLittleEndian, PatientID="x" * 2 * length))
    assert len(dicom_elements._patterns) == NUM_PATTERNS
