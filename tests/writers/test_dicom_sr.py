"""Structured reports are read back by highdicom, refer to the segments that exist, and obey the standard."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest

from medvit.errors import ConfigError, GeometryError
from medvit.geometry import Affine
from medvit.types import Prediction
from medvit.writers import Finding
from medvit.writers.dicom_parts.source_instances import read_sources
from medvit.writers.dicom_sr import max_diameter_mm, write_sr
from medvit.writers.outputs import Outputs
from tests.plugins.mr_series import TILTED, SeriesMaker
from tests.writers.test_dicom_seg import CLASSES, MAKER, asymmetric, context_of, errors_of
from tests.writers.test_object_uids import without_times

BOTH = Outputs.of(["dicom_seg", "dicom_sr"], "segmentation")


def test_the_diameter_of_a_box_is_its_diagonal_between_the_middles_of_its_edges() -> None:
    mask = np.zeros((20, 20, 20), bool)
    mask[2:12, 3:4, 5:6] = True
    affine = Affine.from_spacing((2.0, 3.0, 4.0))
    assert max_diameter_mm(mask, affine) == pytest.approx(20.0)  # 10 voxels of 2 mm between their outer faces
    assert max_diameter_mm(np.zeros((2, 2, 2), bool), affine) == 0
    one = np.zeros((3, 3, 3), bool)
    one[1, 1, 1] = True
    assert max_diameter_mm(one, affine) == pytest.approx(4.0)


def test_the_diameter_of_a_ball_is_twice_its_radius() -> None:
    affine = Affine.from_spacing((0.5, 1.0, 2.0), (-30.0, 10.0, 5.0))
    at = affine(np.argwhere(np.ones((120, 60, 30)))) - affine(np.array([[60.0, 30.0, 15.0]]))
    mask = (np.linalg.norm(at, axis=1) <= 20).reshape(120, 60, 30)
    assert max_diameter_mm(mask, affine) == pytest.approx(40, abs=2.0)  # within one side of the largest voxels


@pytest.mark.parametrize("seed", range(5))
def test_the_diameter_is_the_largest_distance_of_any_two_vertices(seed: int) -> None:
    mask = np.random.default_rng(seed).random((7, 5, 6)) > 0.9
    affine = Affine.from_spacing((0.7, 1.9, 1.1))
    at = np.argwhere(mask)
    halves = 0.5 * np.concatenate([np.eye(3), -np.eye(3)])
    points = affine((at[:, None] + halves).reshape(-1, 3))
    expected = np.linalg.norm(points[:, None] - points[None], axis=-1).max()
    assert max_diameter_mm(mask, affine) == pytest.approx(expected)


def measured(group: hd.sr.MeasurementsAndQualitativeEvaluations) -> dict[str, tuple[float, str]]:
    found = group.get_measurements()
    return {one.name.meaning: (float(one.value), one.unit.value) for one in found}


@pytest.mark.parametrize("shown", [(1, 3), ()])
def test_a_report_has_the_volume_and_diameter_of_each_segment(
    make_series: SeriesMaker, tmp_path: Path, shown: tuple[int, ...]
) -> None:
    item, image = make_series(iop=TILTED)
    prediction = asymmetric(image)
    assert prediction.mask is not None
    assert prediction.affine is not None
    prediction = replace(prediction, mask=np.where(np.isin(prediction.mask, shown), prediction.mask, 0))
    BOTH.write(context_of(item, prediction), tmp_path)
    assert errors_of(tmp_path / "report.dcm") == []
    report, seg = hd.sr.srread(tmp_path / "report.dcm"), pydicom.dcmread(tmp_path / "segmentation.dcm")
    groups = report.content.get_volumetric_roi_measurement_groups()
    assert [group.finding_type.meaning for group in groups] == list(CLASSES[1:])
    for number, group in enumerate(groups, start=1):
        segment = group.referenced_segment
        assert (segment.referenced_sop_instance_uid, segment.referenced_segment_numbers) == (
            seg.SOPInstanceUID,
            [number],
        )
        assert group.tracking_uid == seg.SegmentSequence[number - 1].TrackingUID
        of_class = prediction.mask == number
        expected = {"Volume": (pytest.approx(of_class.sum() * prediction.affine.voxel_ml, rel=1e-5), "mL")}
        if of_class.any():
            expected["Maximum 3D Diameter of a Mesh"] = (
                pytest.approx(max_diameter_mm(of_class, prediction.affine), rel=1e-5),
                "mm",
            )
        assert measured(group) == expected


def test_a_report_is_partial_unverified_and_names_device_and_algorithm(
    make_series: SeriesMaker, tmp_path: Path
) -> None:
    item, image = make_series()
    maker = replace(MAKER, name="liver-v3")
    BOTH.write(context_of(item, asymmetric(image), maker=maker), tmp_path)
    report = hd.sr.srread(tmp_path / "report.dcm")
    assert (report.CompletionFlag, report.VerificationFlag, report.PreliminaryFlag) == (
        "PARTIAL",
        "UNVERIFIED",
        "PRELIMINARY",
    )
    assert report.SeriesDescription == "[RESEARCH] liver-v3 report"
    assert report.StudyInstanceUID == pydicom.dcmread(item.files[0]).StudyInstanceUID
    assert MAKER.model_sha256 in str(report.ContributingEquipmentSequence[0].ContributionDescription)
    text = report.to_json()
    for expected in (
        "Device Observer UID",
        "Algorithm Name",
        "Algorithm Version",
        f"model_sha256={MAKER.model_sha256}",
    ):
        assert expected in text
    evidence = [
        one for study in report.CurrentRequestedProcedureEvidenceSequence for one in study.ReferencedSeriesSequence
    ]
    assert len(evidence) == 2


def test_a_report_has_the_probability_of_each_class_and_the_calls(make_series: SeriesMaker, tmp_path: Path) -> None:
    item, _ = make_series()
    classes = ("normal", "tumor", "cyst")
    prediction = Prediction(classes, probabilities=np.array([0.2, 0.7, 0.1], np.float32))
    call = Finding(
        "", "tumor or cyst", probability=0.8, operating_point="sensitivity 0.95", threshold=0.25, call="positive"
    )
    context = replace(context_of(item, prediction), calls=(call,), codes={"tumor": "SCT:108369006:Neoplasm"})
    assert write_sr(tmp_path / "report.dcm", context, read_sources(item)) == []
    assert errors_of(tmp_path / "report.dcm") == []
    report = hd.sr.srread(tmp_path / "report.dcm")
    *of_classes, of_call = report.content.get_image_measurement_groups()
    assert [group.finding_type.meaning for group in of_classes] == ["Normal", "Neoplasm", "Cyst"]
    for group, value in zip(of_classes, (0.2, 0.7, 0.1), strict=True):
        assert measured(group) == {"Probability": (pytest.approx(value), "1")}
        assert len(group.source_images) == 6
    assert measured(of_call) == {"Probability": (0.8, "1"), "Threshold of the probability": (0.25, "1")}
    evaluations = {one.name.meaning: one.value.meaning for one in of_call.get_qualitative_evaluations()}
    assert evaluations["Call at sensitivity 0.95"] == "Positive"


def test_a_repeated_report_is_the_same_object(make_series: SeriesMaker, tmp_path: Path) -> None:
    item, image = make_series()
    found = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        BOTH.write(context_of(item, asymmetric(image)), tmp_path / name)
        report = pydicom.dcmread(tmp_path / name / "report.dcm")
        report.PixelData = b""
        found.append(without_times(report))
    assert found[0] == found[1]


def test_a_mask_off_the_grid_gets_no_report(make_series: SeriesMaker, tmp_path: Path) -> None:
    item, image = make_series()
    assert image.affine is not None
    moved = Affine.from_spacing((1.0, 1.0, 1.0), (1.0, 0.0, 0.0)) @ image.affine
    with pytest.raises(GeometryError):
        write_sr(
            tmp_path / "report.dcm", context_of(item, replace(asymmetric(image), affine=moved)), read_sources(item)
        )


def test_a_report_of_a_segmentation_requires_the_segmentation() -> None:
    with pytest.raises(ConfigError, match="refers to the result of dicom_seg; add dicom_seg to outputs"):
        Outputs.of(["dicom_sr"], "segmentation")
    assert Outputs.of(["dicom_sr"], "classification").names == ("dicom_sr",)
    assert "dicom_sr" not in Outputs.of(None, "classification").names


def test_pictures_get_no_report_of_volumes(make_series: SeriesMaker) -> None:
    item, image = make_series()
    (_, report) = BOTH.writers
    assert report.applies(item, asymmetric(image))
    assert not report.applies(item, Prediction(CLASSES, mask=np.zeros((4, 4), np.uint8)))
