"""Real-world value mappings give values, unit and label if nothing else does, or if one is requested."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread, dcmwrite
from pydicom.sequence import Sequence as Items
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, MRImageStorage

from medvit.dicom.header import load, read_header
from medvit.dicom.pixels import decode
from medvit.dicom.real_world import mappings
from medvit.errors import ConflictError, UnreadableError, UnsupportedError
from medvit.readers import find, read
from medvit.readers.options import ValuesConfig
from medvit.records import Item
from medvit.types import Image
from tests.dicom.multiframe import counted, frame_group, item, mapped_by, real_world_mapping, write_multiframe

MR = {"SOPClassUID": MRImageStorage, "Modality": "MR", "RescaleSlope": None, "RescaleIntercept": None}
RESCALED = {**MR, "RescaleSlope": 3.0, "RescaleIntercept": 1.0, "RescaleType": "US"}
STORED = np.arange(24, dtype=np.uint16).reshape(4, 6)
KEYWORD = "RealWorldValueMappingSequence"


def only(files: list[Path] | Path, label: str | None = None) -> Image:
    (found,) = find([files] if isinstance(files, Path) else files)
    return read(ValuesConfig(mapping=label).of(found))


def change(file: Path, **elements: Any) -> None:
    dataset = dcmread(file)
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset.save_as(file)


def test_the_only_mapping_of_a_file_without_a_rescale_gives_values_unit_and_label(write_slice) -> None:
    image = only(write_slice(STORED, **MR, **mapped_by(real_world_mapping())))
    assert (image.slope, image.intercept, image.unit, image.mapping) == (0.25, -512.0, "Hz", "FIELD")
    assert np.array_equal(image.pixels[0], STORED)
    assert (image.offered, image.fallback) == ("", "")


def test_a_rescale_goes_before_a_mapping_unless_one_is_named(write_slice) -> None:
    path = write_slice(STORED, **RESCALED, **mapped_by(real_world_mapping()))
    image = only(path)
    assert (image.slope, image.intercept, image.unit, image.mapping) == (3.0, 1.0, "", "")
    assert image.offered == "FIELD (Hz)"
    image = only(path, "FIELD")
    assert (image.slope, image.intercept, image.unit, image.mapping) == (0.25, -512.0, "Hz", "FIELD")


def test_of_several_mappings_none_applies_unless_it_is_named(write_slice) -> None:
    path = write_slice(
        STORED, **MR, **mapped_by(real_world_mapping(), real_world_mapping("T1", "ms", RealWorldValueSlope=2.0))
    )
    image = only(path)
    assert (image.slope, image.unit, image.mapping, image.offered) == (1.0, "", "", "FIELD (Hz), T1 (ms)")
    image = only(path, "T1")
    assert (image.slope, image.unit, image.mapping) == (2.0, "ms", "T1")


def test_a_label_that_is_not_there_is_refused_with_those_that_are(write_slice) -> None:
    path = write_slice(
        STORED,
        **RESCALED,
        **mapped_by(real_world_mapping(), real_world_mapping("T1", "ms"), real_world_mapping("Secret", "ms")),
    )
    with pytest.raises(UnsupportedError, match=r"FIELD, T1; 1 without a label that can be shown") as refused:
        only(path, "B0")
    assert "Secret" not in str(refused.value)  # the patient's name


def test_a_file_without_mappings_keeps_its_values_and_says_so(write_slice) -> None:
    image = only(write_slice(STORED, **RESCALED), "FIELD")
    assert (image.slope, image.fallback) == (3.0, "values.mapping")


def test_a_table_gives_the_values_of_its_entries(write_slice) -> None:
    entries = (np.arange(30.0) ** 2 / 4).tolist()
    line = {"RealWorldValueSlope": None, "RealWorldValueIntercept": None, "RealWorldValueLastValueMapped": 29}
    path = write_slice(
        STORED, **MR, PixelPaddingValue=23, **mapped_by(real_world_mapping(RealWorldValueLUTData=entries, **line))
    )
    image = only(path)
    assert np.array_equal(image.intensities()[0], STORED.astype(np.float32) ** 2 / 4)
    assert image.padding == (23**2 / 4, 23**2 / 4)
    assert (image.pixels.dtype, image.unit) == (np.float32, "Hz")


@pytest.mark.parametrize(
    ("written", "unit"),
    [
        ("10*-6.mm2/s", "10*-6.mm2/s"),
        ("ml/100ml/s", "ml/100ml/s"),
        ("ml/(100.ml.min)", "ml/(100.ml.min)"),
        ("[hnsf'U]", "HU"),
        ("g/ml{SUVbw}", "SUVbw"),
        ("Bq/ml", "BQML"),
        ("1", ""),
        ("John", ""),
        ("Hz{Smith}", ""),
        ("4711 88", ""),
        ("471", ""),
        ("12/3.87", ""),
        ("19.12.68h", ""),
    ],
)
def test_only_units_that_are_known_are_kept(write_slice, written: str, unit: str) -> None:
    image = only(write_slice(STORED, **MR, **mapped_by(real_world_mapping(unit=written))))
    assert (image.unit, image.slope) == (unit, 0.25)


@pytest.mark.parametrize("group", ["cid83", "cid84", "cid85", "cid4260", "cid7181", "cid7277"])
def test_every_unit_of_the_context_groups_for_mappings_is_known(write_slice, group: str) -> None:
    concepts = getattr(codes, group)
    items = []
    for name in concepts.dir():
        made = real_world_mapping(name[:16])
        made.MeasurementUnitsCodeSequence[0] = item(LongCodeValue=getattr(concepts, name).value)
        made.MeasurementUnitsCodeSequence[0].CodingSchemeDesignator = "UCUM"
        items.append(made)
    found = mappings(dcmread(write_slice(STORED, **MR, **mapped_by(*items))), 0, is_signed=False)
    assert [one.label for one in found if not one.is_unit_known] == []


def test_a_unit_of_another_scheme_is_unset(write_slice) -> None:
    one = real_world_mapping()
    one.MeasurementUnitsCodeSequence[0].CodingSchemeDesignator = "99LOCAL"
    assert only(write_slice(STORED, **MR, **mapped_by(one))).unit == ""


def test_a_label_that_may_name_someone_is_not_shown(write_slice) -> None:
    image = only(write_slice(STORED, **MR, **mapped_by(real_world_mapping("Secret"))))
    assert (image.mapping, image.slope) == ("unlabeled", 0.25)


def test_mapped_values_are_not_turned(write_slice) -> None:
    path = write_slice(STORED, **MR, PhotometricInterpretation="MONOCHROME1", **mapped_by(real_world_mapping(unit="1")))
    assert np.array_equal(only(path).pixels[0], STORED)


@pytest.mark.parametrize(
    "flaw",
    [
        {"RealWorldValueLastValueMapped": 22},
        {"RealWorldValueFirstValueMapped": 5, "RealWorldValueLastValueMapped": 3},
        {"RealWorldValueSlope": 0.0},
        {"RealWorldValueIntercept": None},
        {"RealWorldValueSlope": None, "RealWorldValueLUTData": [1.0, 2.0]},
    ],
)
def test_a_mapping_that_does_not_hold_is_not_applied_unasked_and_refused_if_named(write_slice, flaw: dict) -> None:
    path = write_slice(STORED, **MR, **mapped_by(real_world_mapping(**flaw)))
    image = only(path)
    assert (image.slope, image.intercept, image.unit, image.offered) == (1.0, 0.0, "", "FIELD (Hz)")
    assert np.array_equal(image.pixels[0], STORED)
    with pytest.raises((UnsupportedError, UnreadableError), match=r"outside|maps stored|neither a slope|a table of 2"):
        only(path, "FIELD")


def test_padding_need_not_be_mapped(write_slice) -> None:
    narrow = real_world_mapping(RealWorldValueLastValueMapped=22)
    image = only(write_slice(STORED, **MR, PixelPaddingValue=23, **mapped_by(narrow)))
    assert (image.unit, image.padding) == ("Hz", (23.0, 23.0))


@pytest.mark.parametrize("syntax", ["explicit", "implicit", "big endian"])
def test_bounds_are_signed_as_the_pixels_are_in_every_encoding(write_slice, syntax: str) -> None:
    signed = STORED.astype(np.int16) - 12
    first = {"RealWorldValueFirstValueMapped": 2**16 - 12, "RealWorldValueLastValueMapped": 11}
    path = write_slice(signed, **MR, **mapped_by(real_world_mapping(**first)))
    if syntax != "explicit":
        dataset, is_little = dcmread(path), syntax == "implicit"
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if is_little else ExplicitVRBigEndian
        if not is_little:
            dataset.PixelData = signed.astype(">i2").tobytes()
        dcmwrite(path, dataset, implicit_vr=is_little, little_endian=is_little, force_encoding=True)
    assert only(path).unit == "Hz"


@pytest.mark.parametrize("rescale", [MR, RESCALED])
def test_pixels_behind_a_known_header_are_those_of_the_whole_file(write_series, rescale: dict) -> None:
    files, _ = write_series(dtype=np.uint16, **rescale, **mapped_by(real_world_mapping()))
    assert all(read_header(file).native is None for file in files)
    image, alone = only(files), decode(load(files[0]))
    assert (image.slope, image.intercept, image.unit) == (alone.slope, alone.intercept, alone.unit)
    assert image.unit == ("" if rescale is RESCALED else "Hz")


@pytest.mark.parametrize("place", ["own", "shared"])
def test_mappings_of_functional_groups_are_those_of_their_frames(tmp_path: Path, place: str) -> None:
    groups = [frame_group([0.0, 0.0, float(k)]) for k in range(3)]
    path = write_multiframe(tmp_path / "a.dcm", counted(3), groups)
    dataset = dcmread(path)
    for number, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        if place == "own":
            group.RealWorldValueMappingSequence = Items([real_world_mapping(RealWorldValueSlope=number + 1.0)])
    if place == "shared":
        dataset.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence = Items([real_world_mapping()])
    dataset.save_as(path)
    image = only(path)
    slopes = np.array([1.0, 2.0, 3.0] if place == "own" else [0.25] * 3)[:, None, None]
    assert (image.unit, image.mapping) == ("Hz", "FIELD")
    assert np.allclose(image.intensities()[0, ::-1, ::-1].T, counted(3) * slopes - 512.0, atol=1e-3)  # Hz


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({KEYWORD: Items([])}, "4 slices with a mapping to Hz labeled FIELD, 1 slices with no rescale"),
        (mapped_by(real_world_mapping("T1")), "1 slices with a mapping to Hz labeled T1"),
        (mapped_by(real_world_mapping(unit="ms")), "1 slices with a mapping to ms labeled FIELD"),
        (mapped_by(real_world_mapping(unit="John")), "1 slices with a mapping to another unit labeled FIELD"),
        ({"RescaleSlope": 2, "RescaleIntercept": 0}, "1 slices with a rescale"),
    ],
)
def test_slices_of_several_mappings_make_no_volume(write_series, other: dict, words: str) -> None:
    files, _ = write_series(dtype=np.uint16, **MR, **mapped_by(real_world_mapping()))
    change(files[2], **other)
    with pytest.raises(ConflictError, match=words):
        only(files)


def test_one_pixel_that_is_not_mapped_keeps_a_whole_volume_as_stored(write_series) -> None:
    files, voxels = write_series(dtype=np.uint16, **MR, **mapped_by(real_world_mapping()))
    voxels[2, 1, 1] = 5000
    change(files[2], PixelData=voxels[2].tobytes())
    image = only(files)
    assert (image.slope, image.unit, image.offered) == (1.0, "", "FIELD (Hz)")
    assert np.array_equal(image.pixels[0, ::-1, ::-1].T, voxels)


def test_other_wishes_go_before_a_mapping() -> None:
    config = ValuesConfig(mapping="FIELD", pet="SUVbw", radiographs="displayed")
    wishes = {modality: config.of(Item("dicom", (), "image", modality)).values for modality in ("PT", "DX", "MR")}
    assert wishes == {"PT": "SUVbw", "DX": "displayed", "MR": "mapped"}
    assert config.of(Item("nifti", (), "volume", "MR")).values == "stored"
