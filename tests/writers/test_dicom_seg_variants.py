"""Fractional and label map segmentations are read back by highdicom on the voxels of their source."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest

from medvit.errors import UnsupportedError
from medvit.geometry import Affine, lps_to_ras
from medvit.types import Image
from medvit.writers.dicom_parts.source_instances import read_sources
from medvit.writers.dicom_seg import EMPTY
from medvit.writers.dicom_seg_fractional import write_fractional
from medvit.writers.dicom_seg_labelmap import write_label_map
from medvit.writers.outputs import Outputs
from tests.plugins.mr_series import AXIAL, CORONAL, TILTED, SeriesMaker
from tests.writers.test_bit_packing import write_series
from tests.writers.test_dicom_seg import CLASSES, asymmetric, context_of, errors_of


def on_grid_of(image: Image, volume: hd.Volume, dtype: type = np.uint8) -> np.ndarray:
    """Values of a volume that highdicom reads, on the grid of an image."""
    assert image.affine is not None
    array = volume.array[..., None] if volume.array.ndim == 3 else volume.array
    at = np.argwhere((array > 0).any(axis=-1))
    found = Affine(lps_to_ras(volume.affine))
    whole = np.zeros((*image.pixels.shape[1:], array.shape[-1]), dtype)
    whole[tuple(np.round(image.affine.inverse()(found(at))).astype(int).T)] = array[tuple(at.T)]
    return whole


@pytest.mark.parametrize("iop", [AXIAL, CORONAL, TILTED])
def test_a_label_map_is_read_back_by_highdicom(
    make_series: SeriesMaker, tmp_path: Path, iop: tuple[float, ...]
) -> None:
    item, image = make_series(iop=iop)
    prediction = asymmetric(image)
    assert write_label_map(tmp_path / "seg.dcm", context_of(item, prediction), read_sources(item)) == []
    seg = hd.seg.segread(tmp_path / "seg.dcm")
    assert seg.segmentation_type == hd.seg.SegmentationTypeValues.LABELMAP
    found = on_grid_of(image, seg.get_volume(combine_segments=True))
    assert np.array_equal(found[..., 0], prediction.mask)
    numbers = {number: seg.get_segment_description(number).segment_label for number in seg.segment_numbers}
    assert {number: numbers[number] for number in (1, 2, 3)} == dict(enumerate(CLASSES[1:], start=1))


@pytest.mark.parametrize("size", [(8, 10), (35, 51)])
@pytest.mark.parametrize("num_classes", [2, 4])
def test_probabilities_are_read_back_by_highdicom(tmp_path: Path, size: tuple[int, int], num_classes: int) -> None:
    item, image = write_series(tmp_path / "source", *size, 5)
    maps = np.random.default_rng(0).integers(0, 256, (num_classes - 1, *image.pixels.shape[1:])).astype(np.uint8)
    maps[0, ..., 2] = 0
    prediction = replace(asymmetric(image), classes=CLASSES[:num_classes], voxel_probabilities=maps)
    prediction = replace(prediction, mask=np.minimum(prediction.mask, num_classes - 1))
    assert write_fractional(tmp_path / "seg.dcm", context_of(item, prediction), read_sources(item)) == []
    assert errors_of(tmp_path / "seg.dcm") == []
    seg = hd.seg.segread(tmp_path / "seg.dcm")
    assert seg.number_of_segments == num_classes - 1
    found = on_grid_of(image, seg.get_volume(rescale_fractional=False))
    np.testing.assert_array_equal(np.moveaxis(found, -1, 0), maps)
    scaled = on_grid_of(image, seg.get_volume(rescale_fractional=True), float)
    np.testing.assert_allclose(np.moveaxis(scaled, -1, 0), maps / 255, atol=1e-6)
    assert int(seg.NumberOfFrames) == 5 * (num_classes - 1) - 1


def test_nothing_found_is_an_object_and_is_reported(make_series: SeriesMaker, tmp_path: Path) -> None:
    item, image = make_series()
    empty = np.zeros(image.pixels.shape[1:], np.uint8)
    context = context_of(item, replace(asymmetric(image), mask=empty, voxel_probabilities=np.stack([empty] * 3)))
    for write in (write_fractional, write_label_map):
        assert write(tmp_path / "seg.dcm", context, read_sources(item)) == [EMPTY]
        assert not pydicom.dcmread(tmp_path / "seg.dcm").pixel_array.any()


def test_regions_have_no_probabilities_of_classes(make_series: SeriesMaker, tmp_path: Path) -> None:
    item, image = make_series()
    with pytest.raises(UnsupportedError, match="it predicts overlapping regions"):
        write_fractional(tmp_path / "seg.dcm", context_of(item, asymmetric(image)), read_sources(item))


def test_the_objects_of_one_result_have_different_uids(make_series: SeriesMaker, tmp_path: Path) -> None:
    item, image = make_series()
    prediction = asymmetric(image)
    assert prediction.mask is not None
    context = context_of(item, replace(prediction, voxel_probabilities=np.stack([prediction.mask] * 3)))
    names = ("dicom_seg", "dicom_seg_fractional", "dicom_seg_labelmap")
    assert Outputs.of(names, "segmentation").write(context, tmp_path) == []
    found = [pydicom.dcmread(path) for path in tmp_path.glob("*.dcm")]
    assert {one.SegmentationType for one in found} == {"BINARY", "FRACTIONAL", "LABELMAP"}
    assert len({one.SOPInstanceUID for one in found} | {one.SeriesInstanceUID for one in found}) == 6
    assert len({one.SegmentSequence[-1].TrackingUID for one in found}) == 1


def test_variants_are_written_on_request_only() -> None:
    assert not Outputs.of(None, "segmentation").needs_probabilities
    assert Outputs.of(["dicom_seg_fractional"], "segmentation").needs_probabilities
