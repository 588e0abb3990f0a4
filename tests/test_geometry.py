"""Voxels keep their world positions for any order of their axes."""

from __future__ import annotations

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from medvit.errors import GeometryError
from medvit.geometry import Affine, like, lps_to_ras, resampled_grid, rescaled, stacked_to_ras, to_ras

SHAPE = (3, 4, 5)
ALL_48_ORIENTATIONS = ["".join(codes) for axes in permutations(["RL", "AP", "SI"]) for codes in product(*axes)]


def stored_as(codes: str) -> tuple[np.ndarray, Affine]:
    """Voxels (3, 4, 5) in RAS+ turned into another order of axes, and their affine."""
    voxels = np.arange(60).reshape(SHAPE)
    image = nib.Nifti1Image(voxels.astype(np.int32), oblique().matrix)
    turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes))
    turned = image.as_reoriented(turn)
    return np.asarray(turned.dataobj), Affine(turned.affine)


def oblique() -> Affine:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", [12, -7, 20], degrees=True).as_matrix() * [0.7, 1.1, 3.0]
    matrix[:3, 3] = [-31.0, 12.5, 40.0]
    return Affine(matrix)


def world_of(voxels: np.ndarray, affine: Affine) -> dict[int, tuple[float, ...]]:
    """Value of a voxel -> its position, to a thousandth of a mm."""
    indices = np.stack(np.meshgrid(*map(np.arange, voxels.shape), indexing="ij"), axis=-1)
    return dict(zip(voxels.ravel().tolist(), map(tuple, affine(indices).reshape(-1, 3).round(3) + 0.0), strict=True))


@pytest.mark.parametrize("is_even", [True, False])
@pytest.mark.parametrize("codes", ALL_48_ORIENTATIONS)
def test_planes_are_stacked_as_if_turned_afterwards(codes: str, is_even: bool) -> None:
    voxels, affine = stored_as(codes)
    expected, expected_affine = to_ras(voxels, affine)
    planes = [voxels[:, :, n] for n in range(voxels.shape[2])]
    if not is_even:  # one of them is elsewhere in memory
        planes[1] = planes[1].copy()
    stacked, stacked_affine = stacked_to_ras(planes, affine)
    np.testing.assert_array_equal(stacked, expected)
    np.testing.assert_array_equal(stacked_affine.matrix, expected_affine.matrix)
    assert stacked.flags.c_contiguous


@pytest.mark.parametrize("codes", ALL_48_ORIENTATIONS)
def test_turning_to_ras_keeps_every_voxel_in_place(codes: str) -> None:
    voxels, affine = stored_as(codes)
    turned, turned_affine = to_ras(voxels, affine)
    assert turned_affine.orientation == "RAS"
    assert turned.shape == SHAPE
    assert world_of(turned, turned_affine) == world_of(voxels, affine)


@pytest.mark.parametrize("codes", ALL_48_ORIENTATIONS)
def test_turning_to_ras_and_back_is_the_identity(codes: str) -> None:
    voxels, affine = stored_as(codes)
    turned, turned_affine = to_ras(voxels, affine)
    assert np.array_equal(like(turned, turned_affine, affine), voxels)


def test_leading_axes_are_left_alone() -> None:
    voxels, affine = stored_as("PIL")
    both, _ = to_ras(np.stack([voxels, -voxels]), affine)
    assert np.array_equal(both[1], -to_ras(voxels, affine)[0])


def test_grids_that_differ_by_more_than_an_order_of_axes_are_refused() -> None:
    voxels, affine = stored_as("RAS")
    with pytest.raises(GeometryError, match="differ by more than their order and direction"):
        like(voxels, affine, Affine.from_spacing((1, 1, 1)))


def test_a_grid_shifted_by_half_a_voxel_is_refused() -> None:
    voxels = np.zeros(SHAPE)
    with pytest.raises(GeometryError):
        like(voxels, Affine.from_spacing((1, 1, 1), (0.5, 0, 0)), Affine.from_spacing((1, 1, 1)))


def test_lps_to_ras_is_its_own_inverse() -> None:
    matrix = oblique().matrix
    assert np.array_equal(lps_to_ras(lps_to_ras(matrix)), matrix)
    assert Affine(lps_to_ras(np.eye(4))).orientation == "LPS"


def test_an_affine_is_a_copy_in_float64_that_cannot_be_changed() -> None:
    matrix = np.eye(4, dtype=np.float32)
    affine = Affine(matrix)
    matrix[0, 0] = 7
    assert affine.matrix.dtype == np.float64
    assert affine.matrix[0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        affine.matrix[0, 0] = 7


@pytest.mark.parametrize(
    "matrix",
    [np.eye(3), np.diag([1.0, 1.0, np.nan, 1.0]), np.diag([1.0, 1.0, 0.0, 1.0])],
    ids=["shape", "not finite", "singular"],
)
def test_a_matrix_that_places_no_voxels_is_refused(matrix: np.ndarray) -> None:
    with pytest.raises(GeometryError):
        Affine(matrix)


def test_spacing_and_volume_of_an_oblique_voxel() -> None:
    assert np.allclose(oblique().spacing_mm, (0.7, 1.1, 3.0), atol=1e-9)  # mm
    assert np.isclose(oblique().voxel_ml, 0.7 * 1.1 * 3.0 / 1000)  # mL


def test_the_inverse_leads_back() -> None:
    points = np.random.default_rng(0).normal(size=(10, 3))
    assert np.allclose(oblique().inverse()(oblique()(points)), points, atol=1e-9)  # voxels


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (0.5, 2.0, 3.3), (2.9, 2.9, 2.9)])
def test_a_resampled_grid_covers_exactly_the_same_field_of_view(spacing_mm: tuple[float, float, float]) -> None:
    shape, affine = (20, 31, 9), oblique()
    new_shape, new_affine = resampled_grid((1, *shape), affine, spacing_mm)
    for corner in product((0, 1), repeat=3):
        face = np.array(corner) * shape - 0.5
        new_face = np.array(corner) * new_shape - 0.5
        assert np.allclose(affine(face), new_affine(new_face), atol=1e-9)  # mm


def test_rescaling_to_the_same_shape_changes_nothing() -> None:
    assert rescaled(oblique(), (4, 5, 6), (4, 5, 6)).is_close(oblique(), tolerance_mm=1e-12)
