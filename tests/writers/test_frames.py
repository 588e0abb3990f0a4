"""Segmentations whose frames are encoded directly equal those that highdicom and pydicom build and write."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import Dataset

from medvit.phantoms import ct_labels, write_ct_studies, write_oct_studies
from medvit.readers import find, read
from medvit.records import Item
from medvit.types import Prediction
from medvit.writers import ImageContext
from medvit.writers.dicom_parts.source_instances import read_sources
from medvit.writers.dicom_seg import SEGMENTATION, make_segmentation, on_source, refer_to_source, seg_uids, write_seg
from tests.writers.test_dicom_seg import context_of

TIMES = ("InstanceCreationDate", "InstanceCreationTime", "ContentDate", "ContentTime", "SeriesDate", "SeriesTime")


def phantom_context(folder: Path, number: int, classes: tuple[str, ...]) -> ImageContext:
    study = write_ct_studies(folder, number + 1)[number]
    (item,) = find(sorted((study / "abdomen").iterdir()))
    assert isinstance(item, Item)
    image, (labels, _) = read(item), ct_labels(number)
    mask = np.where(labels < len(classes), labels, 0).astype(np.uint8)
    return context_of(item, Prediction(classes, mask=mask, affine=image.affine), image)


def multi_frame_context(folder: Path) -> ImageContext:
    write_oct_studies(folder, 1)
    item, *_ = find(sorted(folder.rglob("*.dcm")))
    assert isinstance(item, Item)
    image = read(item)
    mask = np.zeros(image.pixels.shape[1:], np.uint8)
    mask[4:20, 1:3, 5:30], mask[30:40, 2:, 5:30] = 1, 2
    return context_of(item, Prediction(("background", "Retina", "Vitreous"), mask=mask, affine=image.affine), image)


def by_highdicom(context: ImageContext) -> Dataset:
    """The segmentation that highdicom builds from the whole mask."""
    sources = read_sources(context.item)
    frames = on_source(context.prediction, sources).astype(np.uint8)
    uids = seg_uids(SEGMENTATION, context, sources)
    segmentation = make_segmentation(frames, "BINARY", context, sources, uids, SEGMENTATION)
    refer_to_source(segmentation, sources)
    buffer = BytesIO()
    segmentation.save_as(buffer)
    return pydicom.dcmread(BytesIO(buffer.getvalue()))


def comparable(dataset: Dataset) -> tuple[Dataset, dict[tuple[int, tuple[float, ...]], tuple[Dataset, bytes]]]:
    """A segmentation without times, and its frames by segment and position, apart from the index of their plane."""
    pixels = dataset.pixel_array.reshape(int(dataset.NumberOfFrames), -1)
    frames = {}
    for group, values in zip(dataset.PerFrameFunctionalGroupsSequence, pixels, strict=True):
        of = group.get("SegmentIdentificationSequence")
        segment = int(of[0].ReferencedSegmentNumber) if of else 1
        position = tuple(map(float, group.PlanePositionSequence[0].ImagePositionPatient))
        del group.FrameContentSequence
        frames[segment, position] = (group, values.tobytes())
    assert len(frames) == len(pixels)
    for keyword in (*TIMES, "PerFrameFunctionalGroupsSequence", "PixelData"):
        dataset.pop(keyword, None)
    for equipment in dataset.ContributingEquipmentSequence:
        equipment.pop("ContributionDateTime", None)
    return dataset, frames


@pytest.mark.parametrize("number", range(4))  # axial upwards and downwards, oblique, coronal
@pytest.mark.parametrize("classes", [("background", "liver"), ("background", "liver", "spleen", "kidney")])
def test_a_series_has_the_frames_and_elements_of_highdicom(
    tmp_path: Path, number: int, classes: tuple[str, ...]
) -> None:
    context = phantom_context(tmp_path / "source", number, classes)
    write_seg(tmp_path / "seg.dcm", context, read_sources(context.item))
    found, found_frames = comparable(pydicom.dcmread(tmp_path / "seg.dcm"))
    expected, expected_frames = comparable(by_highdicom(context))
    assert found == expected
    assert found_frames == expected_frames


def test_a_multi_frame_source_has_the_frames_and_elements_of_highdicom(tmp_path: Path) -> None:
    context = multi_frame_context(tmp_path / "source")
    write_seg(tmp_path / "seg.dcm", context, read_sources(context.item))
    found, found_frames = comparable(pydicom.dcmread(tmp_path / "seg.dcm"))
    expected, expected_frames = comparable(by_highdicom(context))
    assert found == expected
    assert found_frames == expected_frames


def test_the_bytes_of_the_frames_are_those_of_pydicom(tmp_path: Path) -> None:
    path = tmp_path / "seg.dcm"
    context = phantom_context(tmp_path / "source", 0, ("background", "liver", "spleen", "kidney"))
    write_seg(path, context, read_sources(context.item))
    dataset = pydicom.dcmread(path)
    copy = Dataset()
    for element in dataset.iterall():  # decode every value, so that none is copied as it was read
        assert element.value is not None or element.is_empty
    copy.update({element.tag: element for element in dataset})
    copy.file_meta = dataset.file_meta
    copy.save_as(tmp_path / "again.dcm", implicit_vr=False, little_endian=True, enforce_file_format=True)
    assert (tmp_path / "again.dcm").read_bytes() == path.read_bytes()


def test_the_index_of_planes_counts_those_with_frames_in_the_order_of_the_source(tmp_path: Path) -> None:
    context = phantom_context(tmp_path / "source", 1, ("background", "liver", "spleen", "kidney"))
    sources = read_sources(context.item)
    write_seg(tmp_path / "seg.dcm", context, sources)
    order = {header.SOPInstanceUID: number for number, header in enumerate(sources.headers)}
    found = set()
    for group in pydicom.dcmread(tmp_path / "seg.dcm").PerFrameFunctionalGroupsSequence:
        source = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        segment, index = group.FrameContentSequence[0].DimensionIndexValues
        assert segment == group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        found.add((order[source], index))
    assert [index for _, index in sorted(found)] == list(range(1, len(found) + 1))
