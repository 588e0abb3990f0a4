"""Series with more than one volume: times, echoes, weightings, stacks, scouts, copies."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import DigitalXRayImageStorageForPresentation, MRImageStorage, SecondaryCaptureImageStorage

from medvit.readers import find, read
from medvit.records import Item, Refusal

SAGITTAL, CORONAL = [0, 1, 0, 0, 0, -1], [1, 0, 0, 0, 0, -1]
MR = {"SOPClassUID": MRImageStorage, "Modality": "MR", "RescaleSlope": None, "RescaleIntercept": None}


def numbered(value: int) -> np.ndarray:
    return np.full((4, 6), value, np.int16)


def found_in(folder: Path, **options) -> list[Item | Refusal]:
    return list(find(sorted(folder.rglob("*.dcm")), **options))


@pytest.mark.parametrize(
    ("names", "elements"),
    [
        (["echo time 10 ms", "echo time 30 ms"], [{"EchoTime": 10}, {"EchoTime": 30}]),
        (["echo 1 of 2", "echo 2 of 2"], [{"EchoNumbers": 1}, {"EchoNumbers": 2}]),
        (["time 1 of 2", "time 2 of 2"], [{"TemporalPositionIdentifier": n} for n in (1, 2)]),
        (["acquisition 1 of 2", "acquisition 2 of 2"], [{"AcquisitionNumber": n} for n in (3, 7)]),
        (["b-value 0 s/mm2", "b-value 1000 s/mm2"], [{"DiffusionBValue": b} for b in (0.0, 1000.0)]),
        (["inversion time 50 ms", "inversion time 400 ms"], [{"InversionTime": t} for t in (50, 400)]),
        (["magnitude", "phase"], [{"ImageType": ["ORIGINAL", "PRIMARY", kind, "ND"]} for kind in "MP"]),
        (["real", "imaginary"], [{"ImageType": ["ORIGINAL", "PRIMARY", kind, "ND"]} for kind in "RI"]),
        (["kernel 1 of 2", "kernel 2 of 2"], [{"ConvolutionKernel": kernel} for kernel in ("B30f", "B60f")]),
        (["volume 1 of 2 by instance number", "volume 2 of 2 by instance number"], [{}, {}]),
    ],
)
def test_what_lies_at_one_position_is_told_apart_by_what_the_tags_say(write_slice, tmp_path, names, elements):
    for n in range(2):
        for k in range(3):
            number = 10 * n + k + 1
            write_slice(numbered(n), position=(0, 0, k), InstanceNumber=number, **({**MR, **elements[n]}))
    found = found_in(tmp_path)
    assert sorted(one.part for one in found) == sorted(names)
    assert {one.part: set(read(one).pixels.ravel()) for one in found} == {names[0]: {0}, names[1]: {1}}


def private_b_value(file: Path, group: int, creator: str, element: int, vr: str, value: object) -> None:
    dataset = pydicom.dcmread(file)
    dataset.private_block(group, creator, create=True).add_new(element, vr, value)
    dataset.save_as(file)


@pytest.mark.parametrize(
    ("place", "vr", "values"),
    [
        ((0x0019, "SIEMENS MR HEADER", 0x0C), "IS", [0, 800]),
        ((0x0043, "GEMS_PARM_01", 0x39), "IS", [[0, 8, 0, 0], [1000000800, 8, 0, 0]]),
        ((0x2001, "Philips Imaging DD 001", 0x03), "FL", [0.0, 800.0]),
    ],
)
def test_b_values_are_read_from_private_tags_of_their_makers(write_slice, tmp_path, place, vr, values):
    for n in range(2):
        for k in range(3):
            file = write_slice(numbered(n), position=(0, 0, k), InstanceNumber=10 * n + k, **MR)
            private_b_value(file, *place, vr, values[n])
    assert [one.part for one in found_in(tmp_path)] == ["b-value 0 s/mm2", "b-value 800 s/mm2"]


def test_a_private_number_in_the_block_of_another_maker_means_nothing(write_slice, tmp_path):
    for n in range(2):
        for k in range(3):
            file = write_slice(numbered(n), position=(0, 0, k), InstanceNumber=10 * n + k, **MR)
            private_b_value(file, 0x0019, "SOMEBODY ELSE", 0x0C, "IS", 800 * n)
    assert [one.part.partition(" ")[0] for one in found_in(tmp_path)] == ["volume", "volume"]


def test_times_that_differ_from_slice_to_slice_count_by_their_order(write_slice, tmp_path):
    for n in range(3):
        for k in range(4):
            write_slice(numbered(n), position=(0, 0, k), TriggerTime=100 * n + k, InstanceNumber=k, **MR)
    found = found_in(tmp_path)
    assert [one.part for one in found] == [f"cardiac phase {n} of 3" for n in (1, 2, 3)]
    assert [set(read(one).pixels.ravel()) for one in found] == [{0}, {1}, {2}]


def test_weightings_of_many_directions_and_times_are_taken_apart_one_by_one(write_slice, tmp_path):
    for n, (b, t) in enumerate([(0.0, 1), (0.0, 2), (1000.0, 1), (1000.0, 2)]):
        for k in range(3):
            elements = {"DiffusionBValue": b, "TemporalPositionIdentifier": t}
            write_slice(numbered(n), position=(0, 0, k), InstanceNumber=4 * n + k, **elements, **MR)
    assert [one.part for one in found_in(tmp_path)] == [
        f"b-value {b} s/mm2, time {t} of 2" for b in (0, 1000) for t in (1, 2)
    ]


def test_a_time_that_was_broken_off_is_refused_and_the_others_are_taken(write_slice, tmp_path):
    for n in range(3):
        for k in range(4 if n < 2 else 3):
            write_slice(numbered(n), position=(0, 0, k), TemporalPositionIdentifier=n + 1, InstanceNumber=k, **MR)
    *taken, refused = sorted(found_in(tmp_path), key=lambda one: isinstance(one, Refusal))
    assert len(taken) == 2
    assert refused.reason == "time 3 of 3: 3 slices, but the series has 4 positions: are slices missing?"


def test_positions_of_unequal_numbers_without_tags_are_refused(write_slice, tmp_path):
    for number in range(11):
        write_slice(numbered(number), position=(0, 0, number % 4), InstanceNumber=number, **MR)
    (refused,) = found_in(tmp_path)
    assert "4 positions have 2 to 3 instances" in refused.reason


def test_stacks_of_different_planes_are_volumes_of_their_own(write_slice, tmp_path):
    for k in range(3):
        write_slice(numbered(0), position=(0, 0, k), InstanceNumber=k, **MR)
        write_slice(numbered(1), position=(k, 0, 0), InstanceNumber=10 + k, ImageOrientationPatient=SAGITTAL, **MR)
    assert [(one.kind, one.part) for one in found_in(tmp_path)] == [("volume", f"stack {n} of 2") for n in (1, 2)]


@pytest.mark.parametrize("height", [0.0, 0.5, 7.0])
def test_parallel_stacks_side_by_side_are_volumes_of_their_own_without_identifiers(write_slice, tmp_path, height):
    for k in range(4):
        write_slice(numbered(0), position=(0, 0, k), InstanceNumber=2 * k, **MR)
        write_slice(numbered(1), position=(60, 5, k + height), InstanceNumber=2 * k + 1, **MR)
    found = found_in(tmp_path)
    assert [(one.kind, one.part) for one in found] == [("volume", f"stack {n} of 2") for n in (1, 2)]
    assert [set(read(one).pixels.ravel()) for one in found] == [{0}, {1}]
    assert [read(one).affine.spacing_mm[2] for one in found] == pytest.approx([1.0, 1.0])


def test_times_of_parallel_stacks_are_taken_apart_before_the_stacks(write_slice, tmp_path):
    for n in range(2):
        for k in range(3):
            elements = {"TemporalPositionIdentifier": n + 1, **MR}
            write_slice(numbered(10 + n), position=(0, 0, k), InstanceNumber=6 * n + k, **elements)
            write_slice(numbered(20 + n), position=(60, 0, k), InstanceNumber=6 * n + k + 3, **elements)
    found = {one.part: set(read(one).pixels.ravel()) for one in found_in(tmp_path)}
    assert found == {f"time {n + 1} of 2, stack {s} of 2": {10 * s + n} for n in range(2) for s in (1, 2)}


@pytest.mark.parametrize(
    "positions",
    [
        [(0, 0, k) for k in range(4)] + [(3, 0, k + 0.5) for k in range(4)],
        [(0, 0, k) for k in range(4)] + [(60, 0, k + 0.5) for k in (0, 1, 3)],
        [(0, 0, k) for k in range(4)] + [(60, 0, k + 0.5) for k in range(2)],
        [(12 * k, 0, k) for k in range(6)],
        [(0, 0, k) for k in range(4)] + [(0, 0, k + 9) for k in range(4)],
    ],
    ids=["near each other", "one with a gap", "one of two planes", "a tilt", "behind each other"],
)
def test_planes_that_may_or_may_not_be_parallel_stacks_are_refused(write_slice, tmp_path, positions):
    for number, position in enumerate(positions):
        write_slice(numbered(number), position=position, InstanceNumber=number, **MR)
    (refused,) = found_in(tmp_path)
    assert (refused.code, len(refused.files)) == ("geometry", len(positions))


def test_scouts_and_captures_are_images_beside_the_volume(write_slice, tmp_path):
    for k in range(3):
        write_slice(numbered(0), position=(0, 0, k), InstanceNumber=k)
    write_slice(numbered(1), position=(0, 0, 0), ImageOrientationPatient=SAGITTAL)
    write_slice(numbered(2), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_slice(numbered(3), position=None, ImageType=["DERIVED", "SECONDARY", "REPORT"])
    write_slice(np.zeros((9, 9, 3), np.uint8), SOPClassUID=SecondaryCaptureImageStorage, position=None)
    found = found_in(tmp_path)
    assert sorted(one.kind for one in found) == ["image"] * 4 + ["volume"]
    assert [one.part for one in found if one.part] == ["scout"]


def test_a_slice_of_another_spacing_is_no_scout_and_the_series_is_refused(write_slice, tmp_path):
    for k in range(4):
        write_slice(numbered(0), position=(0, 0, k), PixelSpacing=[0.5, 0.5] if k == 3 else [0.5, 0.75])
    (refused,) = found_in(tmp_path)
    assert refused.reason.startswith("1 of 4 slices differ in orientation, size or pixel spacing")


def test_slices_around_an_axis_are_refused_as_mixed(write_slice, tmp_path):
    for k in range(6):
        angle = np.deg2rad(10 * k)
        direction = [float(np.cos(angle)), float(np.sin(angle)), 0, 0, 0, -1]
        write_slice(numbered(0), position=(0, 0, 0), ImageOrientationPatient=direction, InstanceNumber=k)
    (refused,) = found_in(tmp_path)
    assert (refused.code, len(refused.files)) == ("geometry", 6)


def test_copies_are_dropped_also_under_another_uid_and_told_of(write_slice, tmp_path):
    files = [write_slice(numbered(k), position=(0, 0, k), InstanceNumber=k) for k in range(4)]
    shutil.copy(files[1], tmp_path / "copy.dcm")
    write_slice(numbered(2), position=(0, 0, 2), InstanceNumber=2)
    found = found_in(tmp_path)
    assert sorted(one.code if isinstance(one, Refusal) else one.kind for one in found) == [
        "duplicate",
        "duplicate",
        "volume",
    ]


def test_two_instances_that_claim_to_be_one_and_differ_are_refused_with_their_series(write_slice, tmp_path):
    for k in range(4):
        write_slice(numbered(k), position=(0, 0, k), InstanceNumber=k)
    write_slice(numbered(9), position=(0, 0, 3), InstanceNumber=3)
    (refused,) = found_in(tmp_path)
    assert (refused.code, len(refused.files)) == ("conflict", 5)
    assert refused.reason.startswith("2 instances have the same position and number as another but different pixels")


def test_images_of_one_uid_that_differ_in_size_are_refused_with_copies_of_them(write_slice, tmp_path):
    image = {"SOPInstanceUID": "1.2.3.4", "SOPClassUID": DigitalXRayImageStorageForPresentation, "Modality": "DX"}
    first = write_slice(numbered(0), **image)
    shutil.copy(first, tmp_path / "copy.dcm")
    write_slice(numbered(0)[:, :-1], **image)
    write_slice(numbered(1), **image | {"SOPInstanceUID": "1.2.3.5"})
    refused, taken = sorted(found_in(tmp_path), key=lambda one: len(one.files), reverse=True)
    assert (refused.code, len(refused.files)) == ("conflict", 3)
    assert refused.reason.startswith("3 instances have the same (0008,0018) SOPInstanceUID but differ")
    assert taken.kind == "image"


def test_acquisitions_that_overlap_are_volumes_of_their_own_ranges(write_slice, tmp_path):
    for n, first in enumerate((0, 3)):
        for k in range(5):
            write_slice(numbered(n), position=(0, 0, first + k), AcquisitionNumber=n + 1, InstanceNumber=5 * n + k)
    found = found_in(tmp_path)
    assert [(one.kind, len(one.files)) for one in found] == [("volume", 5), ("volume", 5)]


def test_water_and_fat_are_named_where_only_they_differ(write_slice, tmp_path):
    for n, kind in enumerate(("WATER", "FAT")):
        for k in range(3):
            elements = {"ImageType": ["DERIVED", "PRIMARY", "M", "DIXON", kind], "InstanceNumber": 3 * n + k}
            write_slice(numbered(n), position=(0, 0, k), **{**MR, **elements})
    assert sorted(one.part for one in found_in(tmp_path)) == ["fat", "water"]


def test_a_series_of_one_uid_but_two_patients_is_two_series(write_slice, tmp_path):
    for patient in ("A", "B"):
        for k in range(3):
            write_slice(numbered(0), position=(0, 0, k), PatientID=patient, InstanceNumber=k)
    assert {(one.identity.patient, len(one.files)) for one in found_in(tmp_path)} == {("A", 3), ("B", 3)}


def test_a_broken_number_in_an_element_that_decides_nothing_does_no_harm(write_slice, tmp_path):
    files = [write_slice(numbered(k), position=(0, 0, k), InstanceNumber=k, EchoTime=10.0) for k in range(3)]
    content, stored = files[0].read_bytes(), b"\x18\x00\x81\x00DS\x04\x0010.0"
    assert stored in content
    files[0].write_bytes(content.replace(stored, stored[:-4] + b"x?x?"))
    (found,) = found_in(tmp_path)
    assert found.kind == "volume"


def test_copies_that_cannot_be_decoded_are_compared_by_their_bytes(write_slice, tmp_path):
    file = write_slice(np.zeros((4, 6), np.int16), BitsAllocated=13)
    shutil.copy(file, tmp_path / "copy.dcm")
    assert sorted(one.code for one in found_in(tmp_path) if isinstance(one, Refusal)) == ["duplicate"]
