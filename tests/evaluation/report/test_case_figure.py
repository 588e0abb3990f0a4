"""Pictures of cases: planes, letters and scale bars of known images."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image as Pillow

from medvit.evaluation.report import case_figure
from medvit.evaluation.report.case_figure import CaseImage, case_pictures
from medvit.records import IGNORED


def volume(truth, found=None, spacing=(1.0, 1.0, 1.0)) -> CaseImage:
    pixels = np.arange(float(truth.shape[2]))[None, None, None] * np.ones((1, *truth.shape))
    return CaseImage(pixels, truth, np.zeros_like(truth) if found is None else found, spacing, "mm")


def test_planes_pass_through_the_largest_error_and_not_through_ignored_voxels() -> None:
    truth = np.zeros((9, 9, 9), np.uint8)
    truth[:, :, 5:] = IGNORED
    truth[4, 4, 2] = 1
    planes = case_figure._planes(volume(truth))
    axial = planes[0].cut(volume(truth).pixels[0])
    assert np.unique(axial).tolist() == [2.0]


def test_letters_name_the_edge_where_the_voxels_of_that_side_are() -> None:
    """Axes are RAS+: the last voxel of an axis is the most right, anterior or superior one."""
    truth = np.zeros((7, 8, 9), np.uint8)
    truth[3, 4, 5] = 1
    sides = {"R": (6, 4, 5), "L": (0, 4, 5), "A": (3, 7, 5), "P": (3, 0, 5), "S": (3, 4, 8), "I": (3, 4, 0)}
    for plane in case_figure._planes(volume(truth)):
        cut = plane.cut
        for letter, edge in zip(plane.letters, ("left", "right", "top", "bottom"), strict=True):
            marked = np.zeros_like(truth)
            marked[sides[letter]] = 1
            (row,), (column,) = np.nonzero(cut(marked))
            height, width = cut(marked).shape
            place = {"left": column == 0, "right": column == width - 1, "top": row == 0, "bottom": row == height - 1}
            assert place[edge], (letter, edge)


def test_volumes_of_unknown_orientation_have_no_letters() -> None:
    planes = case_figure._planes(replace(volume(np.zeros((4, 4, 4), np.uint8)), has_sides=False))
    assert [plane.letters for plane in planes] == ["", "", ""]
    assert [plane.title for plane in planes] == ["plane 1", "plane 2", "plane 3"]


@pytest.mark.parametrize("ndim", [2, 3])
def test_truth_is_outlined_and_prediction_filled_in_the_color_of_the_class(ndim: int) -> None:
    truth, found = np.zeros((32,) * ndim, np.uint8), np.zeros((32,) * ndim, np.uint8)
    truth[4:14, 4:28] = 1
    found[18:28, 4:28] = 2
    case = CaseImage(np.zeros((1, *truth.shape)), truth, found, (1.0,) * ndim, "mm")
    small, large = case_pictures("case-1", "x", case)
    for picture in (small, large):
        with Pillow.open(io.BytesIO(picture.png)) as shown:
            pixels = np.asarray(shown.convert("RGB")).astype(int)
        red_green = pixels[..., 0] - pixels[..., 2]
        assert (red_green > 150).sum() > 20  # outline of class 1, orange
        assert (red_green < -30).sum() > 50  # area of class 2, blue
    assert small.width < large.width
