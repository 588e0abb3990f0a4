from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
import pytest

from medvit.errors import UnsupportedError
from medvit.inference.study_job import StudyJob
from medvit.models.image import AppliesTo
from medvit.readers import find, read
from medvit.types import Image, Prediction
from medvit.writers import Study
from medvit.writers.dicom_parts.source_instances import read_sources
from medvit.writers.dicom_seg import write_seg
from tests.dicom.multiframe import counted, frame_group, write_multiframe
from tests.writers.test_dicom_seg import CLASSES, MAKER, context_of, errors_of, mask_of


class PlainNames:
    """Names of a test: the identifiers themselves."""

    def study(self, identifier: str, *, patient: str | None = None) -> str:
        return identifier if patient is None else f"{identifier} {patient}"

    def series(self, identifier: str) -> str:
        return identifier


def write_two_times(path: Path) -> Path:
    groups = [
        frame_group((0.0, 0.0, float(k)), content={"TemporalPositionIndex": n + 1}) for k in (2, 0, 1) for n in range(2)
    ]
    return write_multiframe(path, counted(6), groups)


def test_a_segmentation_refers_to_the_frames_of_the_time_it_was_made_of(tmp_path: Path):
    items = list(find([write_two_times(tmp_path / "source.dcm")]))
    image = read(items[1])
    mask = np.zeros(image.pixels.shape[1:], dtype=np.uint8)
    mask[1:3, 0:2, 0], mask[4, 3, 2] = 1, 3
    write_seg(
        tmp_path / "seg.dcm",
        context_of(items[1], Prediction(CLASSES, mask=mask, affine=image.affine)),
        read_sources(items[1]),
    )
    assert np.array_equal(mask_of(tmp_path / "seg.dcm", image), mask)
    assert errors_of(tmp_path / "seg.dcm") == []
    referred = {
        source.ReferencedFrameNumber
        for group in hd.seg.segread(tmp_path / "seg.dcm").PerFrameFunctionalGroupsSequence
        for derivation in group.DerivationImageSequence
        for source in derivation.SourceImageSequence
    }
    assert referred == {2, 4}  # the second time at the heights 2 and 0, frames counted from 1


def test_slices_of_several_multi_frame_instances_get_no_segmentation(tmp_path: Path):
    files = [
        write_multiframe(tmp_path / f"{k}.dcm", counted(1), [frame_group((0.0, 0.0, float(k)))], InstanceNumber=k + 1)
        for k in range(3)
    ]
    (item,) = find(files)
    with pytest.raises(UnsupportedError, match="frames of 3 instances"):
        read_sources(item)


def test_a_study_to_which_no_segmentation_can_refer_still_gets_its_mask_and_says_why(tmp_path: Path):
    files = [
        write_multiframe(tmp_path / f"{k}.dcm", counted(1), [frame_group((0.0, 0.0, float(k)))], InstanceNumber=k + 1)
        for k in range(3)
    ]
    (tmp_path / "out").mkdir()

    def predict(image: Image) -> Prediction:
        return Prediction(CLASSES, mask=np.ones(image.pixels.shape[1:], np.uint8), affine=image.affine)

    job = StudyJob(predict, AppliesTo(kind="volume"), PlainNames(), MAKER)
    result = job(Study("s-1", tuple(find(files))), tmp_path / "out")
    assert result.status == "done"
    assert "there is no DICOM segmentation: the slices are frames of 3 instances" in result.reason
    assert sorted(result.outputs) == ["mask.nii.gz", "preview.png"]
