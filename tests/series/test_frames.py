from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    BreastTomosynthesisImageStorage,
    EnhancedUSVolumeStorage,
    IntravascularOpticalCoherenceTomographyImageStorageForPresentation,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    NuclearMedicineImageStorage,
    OphthalmicTomographyImageStorage,
    RTDoseStorage,
    RTImageStorage,
    UltrasoundMultiFrameImageStorage,
    VideoEndoscopicImageStorage,
    XRay3DAngiographicImageStorage,
    XRay3DCraniofacialImageStorage,
    XRayAngiographicImageStorage,
    XRayRadiofluoroscopicImageStorage,
)

from medvit.geometry import like
from medvit.ingest.scan import scan
from medvit.readers import find, read
from medvit.readers.dicom import source_affine
from medvit.records import Item, Refusal
from medvit.series.planes import read_planes
from tests.dicom.multiframe import AXIAL, counted, frame_group, item, write_multiframe

OBLIQUE = (0.8, 0.6, 0.0, -0.36, 0.48, 0.8)


def at(height_mm: float, orientation: tuple[float, ...] = AXIAL) -> np.ndarray:
    return np.array([-10.0, -20.0, -30.0]) + height_mm * np.cross(*np.reshape(orientation, (2, 3)))


def only(files) -> Item | Refusal:
    (found,) = find(files)
    return found


@pytest.mark.parametrize("orientation", [AXIAL, OBLIQUE])
def test_frames_are_put_in_order_by_their_positions_wherever_they_stand_in_the_file(tmp_path: Path, orientation):
    voxels, heights = counted(5), [4.0, 0.0, 2.0, 1.0, 3.0]
    groups = [frame_group(at(height, orientation)) for height in heights]
    found = only([write_multiframe(tmp_path / "a.dcm", voxels, groups, orientation=orientation)])
    assert (found.kind, found.index, found.part) == ("volume", None, "")
    image = read(found)
    for number, height in enumerate(heights):
        row, column = np.reshape(orientation, (2, 3))
        lps = at(height, orientation) + 5 * 0.75 * row + 3 * 0.5 * column  # PS3.3 C.7.6.2.1.1
        index = np.round(image.affine.inverse()(lps * [-1, -1, 1])).astype(int)
        assert image.affine(index) == pytest.approx(lps * [-1, -1, 1], abs=1e-4)  # mm
        assert image.pixels[(0, *index)] == voxels[number, 3, 5]
    back = like(image.pixels, image.affine, source_affine(found))[0].transpose(2, 1, 0)
    assert np.array_equal(back, voxels[[frame for _, frame in found.frames]])


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("time 2 of 2", lambda n: {"content": {"TemporalPositionIndex": n + 1}}),
        ("echo time 30 ms", lambda n: {"MREchoSequence": {"EffectiveEchoTime": [10.0, 30.0][n]}}),
        ("b-value 1000 s/mm2", lambda n: {"MRDiffusionSequence": {"DiffusionBValue": [0.0, 1000.0][n]}}),
        ("phase", lambda n: {"MRImageFrameTypeSequence": {"ComplexImageComponent": ["MAGNITUDE", "PHASE"][n]}}),
        (
            "cardiac phase 2 of 2",
            lambda n: {"CardiacSynchronizationSequence": {"NominalCardiacTriggerDelayTime": n}},
        ),
    ],
)
def test_frames_of_several_times_echoes_or_weightings_are_volumes_of_their_own(tmp_path: Path, name: str, group):
    voxels = counted(6)
    groups = [frame_group(at(float(k)), **group(n)) for k in range(3) for n in range(2)]
    first, second = find([write_multiframe(tmp_path / "a.dcm", voxels, groups)])
    assert second.part == name
    assert first.index != second.index
    assert np.array_equal(read(first).pixels[0, ::-1, ::-1].T, voxels[0::2])
    assert np.array_equal(read(second).pixels[0, ::-1, ::-1].T, voxels[1::2])


def test_a_dimension_that_only_its_index_tells_takes_frames_apart(tmp_path: Path):
    groups = [
        frame_group(at(float(k)), content={"DimensionIndexValues": [k + 1, n + 1]}) for k in range(3) for n in (0, 1)
    ]
    pointers = Items([item(DimensionIndexPointer=tag) for tag in (0x0020_9057, 0x0018_9151)])
    found = list(find([write_multiframe(tmp_path / "a.dcm", counted(6), groups, DimensionIndexSequence=pointers)]))
    assert [one.part for one in found] == ["dimension 2 1 of 2", "dimension 2 2 of 2"]


def test_parallel_stacks_are_told_apart_by_their_identifiers(tmp_path: Path):
    heights = {"1": (0.0, 1.0, 2.0), "2": (40.0, 42.0, 44.0)}
    groups = [frame_group(at(height), content={"StackID": stack}) for stack in heights for height in heights[stack]]
    found = list(find([write_multiframe(tmp_path / "a.dcm", counted(6), groups)]))
    assert [one.part for one in found] == ["stack 1 of 2", "stack 2 of 2"]
    assert [read(one).affine.spacing_mm[2] for one in found] == pytest.approx([1.0, 2.0])


def test_each_frame_has_its_own_rescale_and_the_volume_real_values(tmp_path: Path):
    def transformed(slope: float) -> dict[str, object]:
        return {"RescaleSlope": slope, "RescaleIntercept": 1.0, "RescaleType": "US"}

    groups = [frame_group(at(float(k)), PixelValueTransformationSequence=transformed(k + 1.0)) for k in range(3)]
    voxels = counted(3)
    image = read(only([write_multiframe(tmp_path / "a.dcm", voxels, groups)]))
    expected = voxels * np.array([1.0, 2.0, 3.0])[:, None, None] + 1.0
    assert np.array_equal(image.intensities()[0, ::-1, ::-1].T, expected.astype(np.float32))


def test_instances_of_one_frame_each_make_one_volume(tmp_path: Path):
    voxels = counted(4)
    files = [
        write_multiframe(tmp_path / f"{9 - k}.dcm", voxels[[k]], [frame_group(at(float(k)))], InstanceNumber=k + 1)
        for k in range(4)
    ]
    found = only(files)
    assert (len(found.files), len(found.frames)) == (4, 4)
    assert np.array_equal(read(found).pixels[0, ::-1, ::-1].T, voxels)


def test_any_class_whose_frames_have_places_is_a_volume(tmp_path: Path):
    groups = [frame_group(at(float(k))) for k in range(4)]
    file = write_multiframe(
        tmp_path / "a.dcm", counted(4), groups, SOPClassUID=BreastTomosynthesisImageStorage, Modality="MG"
    )
    assert only([file]).kind == "volume"


def test_frames_of_a_cine_are_images(tmp_path: Path):
    voxels = counted(3)
    elements = {"SOPClassUID": UltrasoundMultiFrameImageStorage, "Modality": "US", "SeriesInstanceUID": "1.9"}
    found = list(find([write_multiframe(tmp_path / "a.dcm", voxels, [], **elements)]))
    assert [(one.kind, one.index, one.part) for one in found] == [("image", n, f"frame {n + 1} of 3") for n in range(3)]
    assert all(np.array_equal(read(one).pixels[0], voxels[n]) for n, one in enumerate(found))


PLACELESS = {
    "secondary capture": (MultiFrameGrayscaleWordSecondaryCaptureImageStorage, "OT", {"SliceLocationVector": [1, 2]}),
    "ultrasound": (UltrasoundMultiFrameImageStorage, "US", {}),
    "angiography": (XRayAngiographicImageStorage, "XA", {"PositionerPrimaryAngleIncrement": [0, 1, 2]}),
    "fluoroscopy": (XRayRadiofluoroscopicImageStorage, "RF", {}),
    "OCT": (OphthalmicTomographyImageStorage, "OPT", {}),
    "dynamic scintigraphy": (NuclearMedicineImageStorage, "NM", {"ImageType": ["ORIGINAL", "PRIMARY", "DYNAMIC"]}),
    "projections of SPECT": (NuclearMedicineImageStorage, "NM", {"ImageType": ["ORIGINAL", "PRIMARY", "TOMO"]}),
    "portal image": (RTImageStorage, "RTIMAGE", {}),
    "endoscopy": (VideoEndoscopicImageStorage, "ES", {}),
    "intravascular OCT": (IntravascularOpticalCoherenceTomographyImageStorageForPresentation, "IVOCT", {}),
}


@pytest.mark.parametrize("kind", PLACELESS)
@pytest.mark.parametrize("is_placed", [False, True], ids=["no position", "one position for all"])
def test_frames_of_classes_without_places_are_images_and_counted(
    tmp_path: Path, kind: str, is_placed: bool, caplog: pytest.LogCaptureFixture
):
    sop_class, modality, elements = PLACELESS[kind]
    place = {"ImagePositionPatient": [0, 0, 0], "ImageOrientationPatient": list(AXIAL), "PixelSpacing": [1, 1]}
    elements = {**elements, **(place if is_placed else {}), "SOPClassUID": sop_class, "Modality": modality}
    file = write_multiframe(tmp_path / "a.dcm", counted(3), [], **elements)
    with caplog.at_level(logging.INFO, "medvit"):
        found = scan(file)
    assert [(one.item.kind, one.item.part) for one in found.candidates] == [
        ("image", f"frame {n} of 3") for n in (1, 2, 3)
    ]
    assert "3 frames of 1 multi-frame files are stored as separate images" in caplog.text
    assert f"as separate images without a position in the patient: 3 of {modality}" in caplog.text


@pytest.mark.parametrize(
    "sop_class",
    [
        XRay3DAngiographicImageStorage,
        XRay3DCraniofacialImageStorage,
        BreastTomosynthesisImageStorage,
        EnhancedUSVolumeStorage,
    ],
)
@pytest.mark.parametrize("examination", ["PRIMARY", "SECONDARY"])
def test_frames_of_classes_of_slices_without_places_are_refused_once(tmp_path: Path, sop_class: str, examination: str):
    elements = {"SOPClassUID": sop_class, "Modality": "XA", "ImageType": ["DERIVED", examination]}
    refused = only([write_multiframe(tmp_path / "a.dcm", counted(3), [], **elements)])
    assert refused.code == "geometry"
    assert "their position is unknown" in refused.reason


def test_one_frame_of_a_class_of_slices_without_a_place_is_an_image(tmp_path: Path):
    def synthesized(name: str) -> Path:
        elements = {"SOPClassUID": BreastTomosynthesisImageStorage, "Modality": "MG"}
        return write_multiframe(tmp_path / name, counted(1), [], **elements)

    found = list(find([synthesized("a.dcm"), synthesized("b.dcm")]))
    assert [one.kind for one in found] == ["image", "image"]


@pytest.mark.parametrize("offsets", [[0.0, 2.0, 4.0], [30.0, 32.0, 34.0]])
def test_radiotherapy_dose_is_refused_once_as_what_was_computed_from_images(tmp_path: Path, offsets: list[float]):
    place = {"ImagePositionPatient": [0, 0, 30], "ImageOrientationPatient": list(AXIAL), "PixelSpacing": [2, 2]}
    elements = {"SOPClassUID": RTDoseStorage, "Modality": "RTDOSE", "GridFrameOffsetVector": offsets, **place}
    refused = only([write_multiframe(tmp_path / "a.dcm", counted(3), [], **elements)])
    assert (refused.code, "a DICOM radiotherapy dose, derived from images" in refused.reason) == ("not_an_image", True)


def test_frames_of_mr_without_places_are_refused_and_kept_as_images_on_demand(tmp_path: Path):
    file = write_multiframe(tmp_path / "a.dcm", counted(3), [])
    refused = only([file])
    assert refused.code == "geometry"
    assert "their position is unknown" in refused.reason
    assert [one.part for one in find([file], geometry="slices")] == [f"slice {n} of 3" for n in (1, 2, 3)]


def test_fewer_functional_groups_than_frames_are_refused(tmp_path: Path):
    found = only([write_multiframe(tmp_path / "a.dcm", counted(3), [frame_group(at(0.0)), frame_group(at(1.0))])])
    assert (found.code, "has 2 items" in found.reason) == ("unreadable", True)


def test_a_gap_between_frames_is_refused(tmp_path: Path):
    groups = [frame_group(at(height)) for height in (0.0, 1.0, 3.0)]
    assert "slice gaps range" in only([write_multiframe(tmp_path / "a.dcm", counted(3), groups)]).reason


def test_two_thousand_frames_of_twenty_times_are_twenty_volumes(tmp_path: Path):
    groups = [frame_group(at(float(k % 100)), content={"TemporalPositionIndex": k // 100 + 1}) for k in range(2000)]
    file = write_multiframe(tmp_path / "a.dcm", np.zeros((2000, 4, 4), np.uint16), groups)
    assert len(read_planes(file)) == 2000
    assert len(list(find([file]))) == 20


def test_billions_of_frames_without_bits_are_refused_before_any_is_made(tmp_path: Path):
    file = write_multiframe(tmp_path / "a.dcm", counted(1), [], BitsAllocated=0, NumberOfFrames=2**31 - 1)
    found = only([file])
    assert found.code == "unreadable"
    assert "NumberOfFrames is 2147483647 in a file of" in found.reason


def write_spect(path: Path, voxels: np.ndarray, step_mm: float | None, **elements) -> Path:
    """Writes reconstructed SPECT, placed by its detector."""
    detector = item(ImagePositionPatient=[-10.0, -20.0, 30.0], ImageOrientationPatient=list(AXIAL))
    attributes = {"ImageType": ["ORIGINAL", "PRIMARY", "RECON TOMO", "EMISSION"], "Modality": "NM"} | elements
    write_multiframe(path, voxels, (), SOPClassUID=NuclearMedicineImageStorage, **attributes)
    dataset = dcmread(path)
    dataset.PixelSpacing, dataset.DetectorInformationSequence = [2.0, 2.0], Items([detector])
    dataset.SpacingBetweenSlices = step_mm
    dataset.save_as(path)
    return path


@pytest.mark.parametrize("step_mm", [3.0, -3.0])
def test_slices_of_spect_lie_along_the_normal_or_against_it_by_the_sign_of_their_spacing(tmp_path: Path, step_mm):
    voxels = counted(5)
    image = read(only([write_spect(tmp_path / "a.dcm", voxels, step_mm)]))
    for number in range(5):
        lps = np.array([-10.0 + 5 * 2.0, -20.0 + 3 * 2.0, 30.0 + number * step_mm])
        index = np.round(image.affine.inverse()(lps * [-1, -1, 1])).astype(int)
        assert image.affine(index) == pytest.approx(lps * [-1, -1, 1])
        assert image.pixels[(0, *index)] == voxels[number, 3, 5]


def test_gated_spect_is_a_volume_for_each_time_slot(tmp_path: Path):
    vectors = {"SliceVector": [1, 2, 3, 1, 2, 3], "TimeSlotVector": [1, 1, 1, 2, 2, 2]}
    kind = {"ImageType": ["ORIGINAL", "PRIMARY", "RECON GATED TOMO", "EMISSION"]}
    found = list(find([write_spect(tmp_path / "a.dcm", counted(6), 3.0, **kind, **vectors)]))
    assert [one.kind for one in found] == ["volume", "volume"]


def test_spect_without_a_place_is_refused_once(tmp_path: Path):
    found = only([write_spect(tmp_path / "a.dcm", counted(5), None)])
    assert found.code == "geometry"
    assert "SpacingBetweenSlices" in found.reason
