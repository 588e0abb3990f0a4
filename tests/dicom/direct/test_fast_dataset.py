"""The fast parser finds the same elements as pydicom, and falls back to pydicom for all others."""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import Dataset, FileDataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.pixels import pixel_array
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage

from medvit.dicom.direct.fast_dataset import FastDataset, quick, quick_beginning
from medvit.dicom.direct.fast_parser import LONG_VRS, PIXELS, UNDEFINED, find_pixels
from medvit.dicom.file import open_elements
from medvit.dicom.header import header_of, load
from medvit.dicom.native_pixels import native
from medvit.files.head import FileHead

TEST_FILES = sorted((Path(pydicom.__file__).parent / "data" / "test_files").glob("*.dcm"))
TAGS = (0x00080008, 0x00080016, 0x00100020, 0x00200032, 0x00280010, 0x00280030)


def slice_of(syntax: str, *, undefined_lengths: bool = False) -> FileDataset:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.PatientID = MRImageStorage, "1.2.3", "P^1"
    dataset.ImageType, dataset.ImagePositionPatient, dataset.PixelSpacing = ["ORIGINAL", "M"], [1, -2.5, 3], [0.5, 0.5]
    inner = Dataset()
    inner.CodeValue, inner.ContentSequence = "x", Sequence([Dataset()])
    dataset.ReferencedImageSequence = Sequence([inner, Dataset()])
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel, dataset.PixelRepresentation = 3, 5, 1, 1
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.add_new(PIXELS, "OW", np.arange(15, dtype="<i2").tobytes())
    for sequence in (dataset.ReferencedImageSequence, inner.ContentSequence):
        sequence.is_undefined_length = undefined_lengths
        for item in sequence:
            item.is_undefined_length_sequence_item = undefined_lengths
    dataset["ReferencedImageSequence"].is_undefined_length = undefined_lengths
    inner["ContentSequence"].is_undefined_length = undefined_lengths
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MRImageStorage, "1.2.3"
    meta.TransferSyntaxUID = syntax
    return FileDataset("", dataset, file_meta=meta, preamble=bytes(128))


def saved(path: Path, dataset: FileDataset) -> Path:
    dataset.save_as(path, enforce_file_format=True)
    return path


def quickly(path: Path, decoded: tuple[int, ...] = (), **options: Any) -> Dataset | None:
    with path.open("rb", buffering=0) as stream:
        found = quick(stream, **options)
    return None if found is None else found.dataset(decoded)


@pytest.mark.parametrize("undefined_lengths", [False, True], ids=["lengths", "delimiters"])
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian], ids=["implicit", "explicit"])
def test_all_elements_are_those_that_pydicom_finds(tmp_path: Path, syntax: str, undefined_lengths: bool) -> None:
    path = saved(tmp_path / "x.dcm", slice_of(syntax, undefined_lengths=undefined_lengths))
    found = quickly(path)
    assert found is not None
    assert found.to_json_dict() == dcmread(path).to_json_dict()
    assert found.file_meta == dcmread(path).file_meta
    assert found.original_encoding == dcmread(path).original_encoding


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian], ids=["implicit", "explicit"])
def test_wanted_elements_alone_are_found_whether_decoded_at_once_or_not(tmp_path: Path, syntax: str) -> None:
    path = saved(tmp_path / "x.dcm", slice_of(syntax))
    raw, plain = (quickly(path, tags=TAGS, with_pixels=False, decoded=decoded) for decoded in ((), TAGS))
    assert raw is not None
    assert plain is not None
    assert [int(tag) for tag in plain.keys()] == [*TAGS]  # noqa: SIM118 (iterating gives elements)
    expected = header_of(dcmread(path, specific_tags=[*TAGS]), path)
    assert header_of(raw, path) == header_of(plain, path) == expected


def test_a_header_longer_than_the_first_read_is_read_whole(tmp_path: Path) -> None:
    dataset = slice_of(ExplicitVRLittleEndian)
    dataset.private_block(0x0009, "MADE UP", create=True).add_new(1, "OB", bytes(700_000))
    found = quickly(saved(tmp_path / "x.dcm", dataset), tags=TAGS, with_pixels=False)
    assert found is not None
    assert found.Rows == 3


def test_bytes_without_a_length_of_their_own_are_neither_raw_nor_plain() -> None:
    places = {0x00280010: (b"US", 0, 2, False), 0x00280011: (None, 2, 4, True)}
    found = FastDataset(b"\x03\0\x05\0", places, None, is_implicit=True)
    assert [found.raw(tag) for tag in (*places, 0x00280008)] == [(b"US", b"\x03\0"), None, None]
    assert found.are_plain(["Rows", "NumberOfFrames"])
    assert not found.are_plain(["Rows", "Columns"])


def test_a_beginning_serves_if_it_and_the_file_reach_to_the_end_of_what_is_sought(tmp_path: Path) -> None:
    content = saved(tmp_path / "x.dcm", slice_of(ExplicitVRLittleEndian)).read_bytes()
    tags = (TAGS[0], TAGS[-2], TAGS[-1])
    stop = content.index(b"0.5\\0.5") + 8
    found = quick_beginning(FileHead(content[:stop], len(content), 0), tags)
    assert found is not None
    assert [*found.keys()] == [*tags]
    assert found.get("PixelSpacing") == (0.5, 0.5)
    assert quick_beginning(FileHead(content[: stop - 2], len(content), 0), tags) is None  # not read
    assert quick_beginning(FileHead(content[:stop], stop - 2, 0), tags) is None  # cut off


def test_text_in_another_alphabet_is_left_to_pydicom(tmp_path: Path) -> None:
    dataset = slice_of(ExplicitVRLittleEndian)
    dataset.SpecificCharacterSet, dataset.PatientID = "ISO_IR 100", "Müller"
    found = quickly(saved(tmp_path / "x.dcm", dataset), tags=TAGS, decoded=TAGS)
    assert found is not None
    assert found.PatientID == "Müller"


def test_what_is_unusual_is_left_to_pydicom(tmp_path: Path) -> None:
    assert quickly(Path(pydicom.__file__).parent / "data" / "test_files" / "MR_small_bigendian.dcm") is None
    content = saved(tmp_path / "x.dcm", slice_of(ExplicitVRLittleEndian)).read_bytes()
    for name, damaged in {
        "cut": content[:-9],
        "cut in the header": content[:400],
        "no preamble": content[132:],
        "no value representation": content.replace(b"CS", b"\0\0", 1),
        "empty": b"",
    }.items():
        (tmp_path / name).write_bytes(damaged)
        assert quickly(tmp_path / name) is None, name


def test_no_damage_makes_it_fail(tmp_path: Path) -> None:
    content = saved(tmp_path / "x.dcm", slice_of(ExplicitVRLittleEndian, undefined_lengths=True)).read_bytes()
    rng, num_read = np.random.default_rng(0), 0
    for _ in range(1000):
        damaged = bytearray(content)
        for place in rng.integers(128, len(content), size=rng.integers(1, 4)):
            damaged[place] = rng.integers(256)
        path = tmp_path / "damaged.dcm"
        path.write_bytes(damaged[: rng.integers(128, len(content) + 1)])
        found = quickly(path, tags=TAGS, decoded=TAGS)
        num_read += found is not None
        assert found is None or len(found) <= len(TAGS) + 2
    assert 0 < num_read < 1000


def test_the_test_files_of_pydicom_read_the_same_both_ways() -> None:
    num_compared = 0
    for path in TEST_FILES:
        found = quickly(path)
        if found is None or path.name == "badVR.dcm":  # a value that neither can show
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = dcmread(path)
            for tag in [tag for tag in expected.keys() if tag > PIXELS]:  # noqa: SIM118 (iterating gives elements)
                del expected[tag]
            assert found.to_json_dict() == expected.to_json_dict(), path.name
        num_compared += 1
    assert num_compared > 50


def test_native_frames_are_those_that_a_decoder_gives() -> None:
    num_compared = 0
    for path in TEST_FILES:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = dcmread(path, force=True)
            is_readable = "TransferSyntaxUID" in dataset.file_meta and not path.name.startswith("bad")
            frame = native(dataset) if is_readable and dataset.get("NumberOfFrames") != "1A" else None
            if frame is None:
                continue
            expected = pixel_array(dataset)
        assert frame.dtype == expected.dtype
        np.testing.assert_array_equal(frame, expected)
        num_compared += 1
    assert num_compared > 5


def test_bits_above_those_stored_are_no_part_of_a_value() -> None:
    dataset = slice_of(ExplicitVRLittleEndian)
    dataset.PixelData = (np.arange(15, dtype="<u2") | 0x7000).tobytes()
    frame = native(dcmread(io.BytesIO(as_bytes(dataset))))
    np.testing.assert_array_equal(frame, np.arange(15).reshape(3, 5))


def as_bytes(dataset: FileDataset) -> bytes:
    content = io.BytesIO()
    dataset.save_as(content, enforce_file_format=True)
    return content.getvalue()


def test_tags_may_come_in_a_list_as_pydicom_takes_them(tmp_path: Path) -> None:
    path = tmp_path / "slice.dcm"
    slice_of(ExplicitVRLittleEndian).save_as(path, enforce_file_format=True)
    listed, from_tuple = (load(path, stop_before_pixels=True, specific_tags=kind(TAGS)) for kind in (list, tuple))
    assert listed == from_tuple
    assert listed.PixelSpacing == [0.5, 0.5]


def test_numbers_in_text_are_written_again_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "slice.dcm"
    dataset = slice_of(ExplicitVRLittleEndian)
    dataset.RepetitionTime, dataset.ImagePositionPatient = "10000", ["1.0", "-2.50", "0.333333333333"]
    dataset.save_as(path, enforce_file_format=True)
    read = load(path)
    assert str(read.RepetitionTime) == "10000"
    assert [str(number) for number in read.ImagePositionPatient] == ["1.0", "-2.50", "0.333333333333"]


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_what_an_element_out_of_order_would_hide_is_left_to_pydicom(tmp_path: Path, syntax: str) -> None:
    path = saved(tmp_path / "a.dcm", slice_of(syntax))
    content = path.read_bytes()
    at = content.index(b"\x08\0\x08\0")
    overlay = struct.pack("<HHI", 0x6000, 0x10, 2) if syntax == ImplicitVRLittleEndian else b"\0\x60\x10\0US\2\0"
    path.write_bytes(content[:at] + overlay + b"\4\0" + content[at:])
    assert open_elements(path, specific_tags=list(TAGS), stop_before_pixels=True).get("Rows") == 3


def test_a_uid_has_no_blanks_around_it(tmp_path: Path) -> None:
    dataset = slice_of(ExplicitVRLittleEndian)
    dataset.add_new(0x0020_000E, "UI", " 1.2.3")
    path = saved(tmp_path / "a.dcm", dataset)
    found = quickly(path)
    assert found is not None
    assert found.get("SeriesInstanceUID") == dcmread(path).SeriesInstanceUID == "1.2.3"


def element(tag: int, vr: bytes, value: bytes, *, length: int | None = None) -> bytes:
    declared = len(value) if length is None else length
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    return head + (struct.pack("<HI", 0, declared) if vr in LONG_VRS else struct.pack("<H", declared)) + value


NATIVE = element(PIXELS, b"OW", bytes(4))


@pytest.mark.parametrize(
    ("before", "is_found"),
    [
        (b"", True),
        (element(0x0029_0010, b"LO", b"SIEMENS ") + element(0x0029_1010, b"OB", NATIVE), True),
        (element(0x6000_0010, b"US", b"\0\1") + element(0x6000_3000, b"OW", NATIVE), True),
        (element(0x7FE0_0000, b"UL", bytes(4)), True),
        (element(0x0088_0200, b"SQ", NATIVE), False),
        (element(0x0028_0010, b"US", bytes(2)), False),
        (element(0x0029_1010, b"SQ", NATIVE, length=UNDEFINED), False),
        (element(0x0031_0010, b"LO", b"X ") + element(0x0029_0010, b"LO", b"X "), False),
        (element(0x0029_0010, b"??", b"X "), False),
        (element(PIXELS, b"OB", NATIVE, length=UNDEFINED), False),
        (bytes(8), False),
    ],
)
def test_pixels_lie_behind_what_describes_none_alone(before: bytes, is_found: bool) -> None:
    content = bytes(10) + before + NATIVE
    found = find_pixels(content, 10, is_implicit=False)
    assert found == ((len(content) - 4, len(content)) if is_found else None)
