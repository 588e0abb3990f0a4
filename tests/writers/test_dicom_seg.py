from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest

from medvit.dicom.header import load
from medvit.dicom.pixels import decode
from medvit.errors import GeometryError
from medvit.geometry import Affine, lps_to_ras
from medvit.phantoms import write_radiograph_studies
from medvit.readers import find, read
from medvit.records import Item
from medvit.types import Image, Prediction
from medvit.writers import ImageContext, Maker
from medvit.writers.dicom_parts.source_instances import read_sources
from medvit.writers.dicom_seg import on_source, write_seg
from tests.plugins.mr_series import AXIAL, CORONAL, TILTED, SeriesMaker

MAKER = Maker("0.1.0", "ab" * 32, "run1")
CLASSES = ("background", "Liver", "something of ours", "kidney tumor")


def context_of(item: Item, prediction: Prediction, image: Image | None = None, **options: Any) -> ImageContext:
    """Input of a writer for a series."""
    return ImageContext(item, image=image or read(item), prediction=prediction, **{"maker": MAKER, **options})


def asymmetric(image: Image) -> Prediction:
    mask = np.zeros(image.pixels.shape[1:], dtype=np.uint8)
    mask[1:4, 0:3, 1:3] = 1
    mask[5:, 4, 2:] = 3
    mask[0, 0, 0] = 3
    return Prediction(CLASSES, mask=mask, affine=image.affine)


def errors_of(path: Path) -> list[str]:
    if shutil.which("dciodvfy") is None:
        pytest.skip("dicom3tools' dciodvfy is not installed")
    checked = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, check=False)
    return [line for line in (checked.stderr + checked.stdout).splitlines() if line.startswith("Error")]


def mask_of(path: Path, like_image: Image) -> np.ndarray:
    """The class of each voxel on the image's grid, read back through highdicom's own idea of the geometry."""
    seg = hd.seg.segread(path)
    names = {n: CLASSES.index(seg.get_segment_description(n).segment_label) for n in seg.segment_numbers}
    volume = seg.get_volume(combine_segments=True, relabel=False)
    labels = np.vectorize({0: 0, **names}.__getitem__)(volume.array)
    found = Affine(lps_to_ras(volume.affine))
    assert like_image.affine is not None
    whole = np.zeros(like_image.pixels.shape[1:], dtype=np.uint8)
    at = np.round(like_image.affine.inverse()(found(np.argwhere(labels > 0)))).astype(int)
    whole[tuple(at.T)] = labels[labels > 0]
    return whole


@pytest.mark.parametrize("iop", [AXIAL, CORONAL, TILTED, tuple(-x for x in AXIAL)])
def test_a_mask_written_as_seg_comes_back_on_the_same_voxels(
    make_series: SeriesMaker, tmp_path: Path, iop: tuple[float, ...]
) -> None:
    item, image = make_series(iop=iop)
    prediction = asymmetric(image)
    write_seg(tmp_path / "seg.dcm", context_of(item, prediction), read_sources(item))
    assert np.array_equal(mask_of(tmp_path / "seg.dcm", image), prediction.mask)


@pytest.mark.parametrize("iop", [AXIAL, CORONAL, TILTED])
def test_each_frame_lies_on_the_pixels_of_the_instance_it_refers_to(
    make_series: SeriesMaker, iop: tuple[float, ...]
) -> None:
    item, image = make_series(iop=iop)
    stored = Prediction(CLASSES, mask=image.pixels[0].astype(np.int32), affine=image.affine)
    sources = read_sources(item)
    pixels = {d.SOPInstanceUID: d.pixel_array for d in map(pydicom.dcmread, item.files)}
    for header, frame in zip(sources.headers, on_source(stored, sources), strict=True):
        assert np.array_equal(frame, pixels[header.SOPInstanceUID])


@pytest.mark.parametrize(
    "without",
    [
        (),
        ("PatientName", "PatientBirthDate", "PatientSex", "PatientID"),
        ("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName", "SeriesNumber"),
        ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "FrameOfReferenceUID"),
        ("SliceThickness", "ImageType", "InstanceNumber"),
    ],
)
def test_a_seg_obeys_the_standard_also_when_its_source_does_not(
    make_series: SeriesMaker, tmp_path: Path, without: tuple[str, ...]
) -> None:
    item, image = make_series(without=without)
    write_seg(tmp_path / "seg.dcm", context_of(item, asymmetric(image)), read_sources(item))
    assert errors_of(tmp_path / "seg.dcm") == []


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("StudyTime", "10:52:34.530000"),
        ("StudyDate", "1997.04.24"),
        ("PatientBirthDate", "unknown"),
        ("PatientSex", "female"),
        ("PatientAge", "22Y"),
        ("StudyID", "x" * 64),
        ("PatientIdentityRemoved", "YES"),
        ("SeriesNumber", 2**31 - 1),
    ],
)
def test_a_value_the_standard_does_not_allow_is_not_copied(
    make_series: SeriesMaker, tmp_path: Path, keyword: str, value: object
) -> None:
    item, image = make_series()
    with pydicom.config.disable_value_validation():
        for path in item.files:
            dataset = pydicom.dcmread(path)
            setattr(dataset, keyword, value)
            dataset.save_as(path)
    write_seg(tmp_path / "seg.dcm", context_of(item, asymmetric(image)), read_sources(item))
    assert errors_of(tmp_path / "seg.dcm") == []


def test_the_seg_goes_back_into_the_study_of_its_source_and_names_its_model(
    make_series: SeriesMaker, tmp_path: Path
) -> None:
    item, image = make_series()
    write_seg(tmp_path / "seg.dcm", context_of(item, asymmetric(image)), read_sources(item))
    seg, source = pydicom.dcmread(tmp_path / "seg.dcm"), pydicom.dcmread(item.files[0])
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert seg[keyword].value == source[keyword].value
    referenced = seg.ReferencedSeriesSequence[0]
    assert referenced.SeriesInstanceUID == source.SeriesInstanceUID
    assert len(referenced.ReferencedInstanceSequence) == 6
    assert MAKER.model_sha256 in str(seg.ContributingEquipmentSequence)
    types = [s.SegmentedPropertyTypeCodeSequence[0] for s in seg.SegmentSequence]
    assert [(t.CodingSchemeDesignator, t.CodeValue) for t in types] == [
        ("SCT", "10200004"),
        ("99MEDVIT", "SOMETHING_OF_OUR"),
        ("99MEDVIT", "KIDNEY_TUMOR"),
    ]


def test_the_series_is_marked_as_research_and_named_by_its_model_and_part(
    make_series: SeriesMaker, tmp_path: Path
) -> None:
    item, image = make_series()
    long = "a model\\ with a name that is longer than the value of a DICOM element"
    for name, part, expected in [
        ("liver-v3", "", "[RESEARCH] liver-v3 segmentation"),
        ("liver-v3", "echo time 30 ms", "[RESEARCH] liver-v3 segmentation, echo time 30 ms"),
        ("", "", "[RESEARCH] segmentation"),
        (long, "", None),
    ]:
        of_part, maker = replace(item, part=part), replace(MAKER, name=name)
        write_seg(tmp_path / "seg.dcm", context_of(of_part, asymmetric(image), image, maker=maker), read_sources(item))
        found = pydicom.dcmread(tmp_path / "seg.dcm")
        assert found.SeriesNumber == 1003
        assert found["SeriesDescription"].VM == 1
        assert found.SeriesDescription == expected or (expected is None and len(found.SeriesDescription) == 64)
        assert found.SeriesDescription.startswith("[RESEARCH]")
        assert errors_of(tmp_path / "seg.dcm") == []
    numbered = replace(MAKER, series_number=7)
    write_seg(tmp_path / "seg.dcm", context_of(item, asymmetric(image), image, maker=numbered), read_sources(item))
    assert pydicom.dcmread(tmp_path / "seg.dcm").SeriesNumber == 7


def test_a_mask_off_the_grid_of_its_source_is_refused(make_series: SeriesMaker, tmp_path: Path) -> None:
    item, image = make_series()
    assert image.affine is not None
    moved = Affine.from_spacing((1.0, 1.0, 1.0), (1.0, 0.0, 0.0)) @ image.affine
    wrong = Prediction(CLASSES, mask=asymmetric(image).mask, affine=moved)
    with pytest.raises(GeometryError, match=r"are 1\.25 voxels apart"):
        write_seg(tmp_path / "seg.dcm", context_of(item, wrong), read_sources(item))


def test_nothing_of_the_source_is_logged(
    make_series: SeriesMaker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    item, image = make_series()
    with caplog.at_level("DEBUG"):
        write_seg(tmp_path / "seg.dcm", context_of(item, asymmetric(image)), read_sources(item))
    assert caplog.text == ""


def test_a_radiograph_without_position_gets_a_segmentation_too(tmp_path: Path) -> None:
    write_radiograph_studies(tmp_path / "dx", 3)
    for item in find(sorted((tmp_path / "dx").rglob("*.dcm"))):
        assert isinstance(item, Item)
        mask = (read(item).pixels[0] > 2000).astype(np.uint8)
        write_seg(
            tmp_path / "seg.dcm", context_of(item, Prediction(("background", "Lung"), mask=mask)), read_sources(item)
        )
        assert errors_of(tmp_path / "seg.dcm") == []
        assert np.array_equal(pydicom.dcmread(tmp_path / "seg.dcm").pixel_array, mask)


@pytest.mark.parametrize(
    ("folder", "num_series"), [("brain-mr-dicom-studies/Study3", 5), ("totalseg-ct/ct_dicom", 1), ("dcm_qa_ct", None)]
)
def test_real_series_get_segments_on_the_pixels_of_their_instances(
    shared_data: Path, tmp_path: Path, folder: str, num_series: int | None
) -> None:
    files = [path for path in sorted((shared_data / folder).rglob("*")) if path.is_file()]
    volumes = [
        item for item in find(files) if isinstance(item, Item) and (item.reader, item.kind) == ("dicom", "volume")
    ]
    assert num_series in (None, len(volumes))
    for item in volumes:
        image = read(item)
        threshold = np.percentile(image.pixels, 90)
        mask = (image.pixels[0] > threshold).astype(np.uint8)
        prediction = Prediction(("background", "Brain"), mask=mask, affine=image.affine)
        write_seg(tmp_path / "seg.dcm", context_of(item, prediction), read_sources(item))
        assert errors_of(tmp_path / "seg.dcm") == []
        segments = hd.seg.segread(tmp_path / "seg.dcm").get_pixels_by_source_instance(
            [header.SOPInstanceUID for header in read_sources(item).headers], ignore_spatial_locations=True
        )
        for path, segment in zip(item.files, segments[..., 0], strict=True):
            assert np.array_equal(segment, decode(load(path)).pixels[0] > threshold)
