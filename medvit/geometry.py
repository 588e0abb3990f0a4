"""Geometry of volumes: one affine type, which maps voxel indices to RAS+ millimeters in float64.

DICOM and ITK use LPS. The readers and writers of these formats convert with `lps_to_ras`; everything else uses RAS+.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import nibabel as nib
import numpy as np
from jaxtyping import Float, Num, Shaped
from numpy import ndarray as Array
from numpy.lib.stride_tricks import as_strided

from medvit.errors import GeometryError

AXIS_TOLERANCE = 1e-3
"""Largest deviation of direction cosines from an orthonormal frame."""

SHEAR_TOLERANCE_MM = 0.2
"""Maximum deviation of the axes of a grid from right angles, measured at the edge of the grid; a tilt of one degree
makes 1.7 mm over 10 cm.
"""

SHIFT_TOLERANCE = 0.01
"""Largest distance between grids that count as the same, in voxels."""

SCANNER = 1
"""Code of NIfTI affines in scanner coordinates."""

BAND = 8
"""Number of lines of each plane that are transposed at once: this many lines of 40 planes fit into the cache closest to
a core. Measured for CT of 256 or 512 pixels: twice as fast as plane by plane, and up to 1.7 times faster again if the
planes need not be copied.
"""
PAGE_BYTES = 4096
"""Memory addresses this far apart map to the same cache lines."""


@dataclass(frozen=True, eq=False)
class Affine:
    """Map from voxel indices (i, j, k) to world coordinates in mm, RAS+ (first axis to the patient's right).

    The index of a voxel refers to its center. The matrix is (4, 4), float64, copied from its input.

    Raises:
        GeometryError: If the matrix is not (4, 4), not finite, or singular.
    """

    matrix: Float[Array, "4 4"]

    def __post_init__(self) -> None:
        matrix = np.array(self.matrix, dtype=np.float64)
        if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
            raise GeometryError(f"expected a finite affine of shape (4, 4), found {matrix.shape}")
        if abs(np.linalg.det(matrix[:3, :3])) < 1e-12:
            raise GeometryError("the affine is singular: two voxel axes are parallel or a spacing is zero")
        matrix.setflags(write=False)
        object.__setattr__(self, "matrix", matrix)

    @classmethod
    def from_spacing(cls, spacing_mm: tuple[float, ...], origin_mm: tuple[float, ...] = (0.0, 0.0, 0.0)) -> Affine:
        """Return the affine of an axis-aligned grid with the given spacing and first voxel center, in mm."""
        matrix = np.diag([*spacing_mm, 1.0])
        matrix[:3, 3] = origin_mm
        return cls(matrix)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighboring voxel centers along i, j, k, in mm."""
        i, j, k = np.linalg.norm(self.matrix[:3, :3], axis=0)
        return float(i), float(j), float(k)

    @property
    def origin_mm(self) -> tuple[float, float, float]:
        """World position of the center of voxel (0, 0, 0), in mm, RAS+."""
        r, a, s = self.matrix[:3, 3]
        return float(r), float(a), float(s)

    @property
    def orientation(self) -> str:
        """Nearest anatomical direction of each voxel axis, such as `"RAS"` or `"LPS"`."""
        return "".join(nib.orientations.aff2axcodes(self.matrix))

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel, in mL."""
        return float(abs(np.linalg.det(self.matrix[:3, :3]))) / 1000.0

    def inverse(self) -> Affine:
        """Return the inverse map: world coordinates in mm to voxel indices."""
        return Affine(np.linalg.inv(self.matrix))

    def __matmul__(self, other: Affine) -> Affine:
        return Affine(self.matrix @ other.matrix)

    def __call__(self, points: Float[Array, "*n 3"]) -> Float[Array, "*n 3"]:
        """Return the world positions of voxel indices `(..., 3)`, in mm."""
        return np.asarray(points, dtype=np.float64) @ self.matrix[:3, :3].T + self.matrix[:3, 3]

    def is_close(self, other: Affine, tolerance_mm: float = 1e-3) -> bool:
        """Return whether no entry of the two matrices differs by more than `tolerance_mm`."""
        return bool(np.abs(self.matrix - other.matrix).max() <= tolerance_mm)

    def __repr__(self) -> str:
        spacing = ", ".join(f"{s:.3f}" for s in self.spacing_mm)
        origin = ", ".join(f"{o:.1f}" for o in self.origin_mm)
        return f"Affine({self.orientation}, spacing ({spacing}) mm, origin ({origin}) mm)"


def voxel_ml(spacing_mm: Sequence[float]) -> float:
    """Return the volume of one voxel in mL, from its spacing along each axis in mm."""
    return float(np.prod(spacing_mm)) / 1000.0


def check_grid(affine: Affine, shape: tuple[int, ...]) -> None:
    """Check that the last three axes of a volume are at right angles, whatever format it comes from.

    Raises:
        GeometryError: If two axes deviate from a right angle by more than `SHEAR_TOLERANCE_MM` at the edge of the grid.
    """
    drift_mm = drift(affine, shape)
    if drift_mm > SHEAR_TOLERANCE_MM:
        raise GeometryError(
            f"the voxel axes are not at right angles (shear): they deviate by {drift_mm:.2f} mm within the grid; "
            f"expected at most {SHEAR_TOLERANCE_MM} mm; medvit ingest geometry=resample shears it back"
        )


def write_forms(header: nib.Nifti1Header, affine: Affine) -> None:
    """Write an affine into a NIfTI header as the sform, and also as the qform if a qform can represent it.

    A qform cannot represent shear. If it were written nevertheless, readers that prefer the qform would place the
    voxels wrongly.
    """
    header.set_sform(affine.matrix, code=SCANNER)
    header.set_qform(affine.matrix, code=SCANNER)
    if apart(affine, Affine(header.get_qform()), tuple(map(int, header.get_data_shape()[:3]))) > SHIFT_TOLERANCE:
        header.set_qform(None, code=0)


def drift(affine: Affine, shape: tuple[int, ...]) -> float:
    """Return how far the last three axes deviate from right angles at the edge of a grid, in mm.

    The result is 0 for a deviation within `AXIS_TOLERANCE`.
    """
    spacing = np.array(affine.spacing_mm)
    directions = affine.matrix[:3, :3] / spacing
    extents = (np.array(shape[-3:]) - 1) * spacing
    cosines = np.abs(directions.T @ directions - np.eye(3))
    drifts = np.where(cosines > AXIS_TOLERANCE, cosines, 0.0) * np.minimum.outer(extents, extents)
    return float(drifts.max())


def apart(one: Affine, other: Affine, shape: tuple[int, ...]) -> float:
    """Return the largest distance between corresponding corners of two grids, in voxels of the first grid.

    Both grids have the same shape.
    """
    corners = np.array(list(product(*((0, n - 1) for n in shape[-3:]))))
    return float(np.abs(one.inverse()(other(corners)) - corners).max())


def lps_to_ras(matrix: Float[Array, "4 4"]) -> Float[Array, "4 4"]:
    """Convert world axes from LPS (DICOM, ITK) to RAS+, or back: the conversion is its own inverse."""
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix


def to_ras(voxels: Shaped[Array, "*c i j k"], affine: Affine) -> tuple[Shaped[Array, "*c a b d"], Affine]:
    """Permute and flip the last three axes so that they point nearest to R, A, S; voxel values are unchanged.

    Oblique grids remain oblique: only the order and direction of the axes change, and the affine changes with them.
    """
    return _orient(voxels, affine, nib.orientations.io_orientation(affine.matrix))


def ras_extent(shape: Sequence[int], affine: Affine) -> tuple[tuple[int, ...], tuple[float, float, float]]:
    """Return the numbers of voxels and the spacings (mm) along R, A and S of a grid.

    The axes (i, j, k) of the grid may be in any order.
    """
    axes = np.argsort(nib.orientations.io_orientation(affine.matrix)[:, 0])
    right, anterior, superior = (affine.spacing_mm[axis] for axis in axes)
    return tuple(int(shape[axis]) for axis in axes), (right, anterior, superior)


def stacked_to_ras(planes: Sequence[Shaped[Array, "i j"]], affine: Affine) -> tuple[Shaped[Array, "a b d"], Affine]:
    """Stack planes along the third axis and reorder them as `to_ras` does, without an intermediate copy.

    This is fastest for planes whose `i` axis is contiguous in memory, such as transposed images.
    """
    orientation = nib.orientations.io_orientation(affine.matrix)
    axes, shape = orientation[:, 0].astype(int), (*planes[0].shape, len(planes))
    turned = np.empty([shape[n] for n in np.argsort(axes)], planes[0].dtype)
    flips = tuple(slice(None, None, int(sign)) for sign in orientation[:, 1])
    as_given = turned.transpose(axes)[flips]
    if axes[2] == 2:
        _fill_across(as_given, planes)
    else:
        for number, plane in enumerate(planes):
            as_given[:, :, number] = plane
    return turned, Affine(affine.matrix @ nib.orientations.inv_ornt_aff(orientation, shape))


def _fill_across(voxels: Shaped[Array, "i j k"], planes: Sequence[Shaped[Array, "i j"]]) -> None:
    """Copy planes into a volume whose contiguous axis runs across the planes.

    A few neighboring columns of all planes form a band. The bands are copied one after the other, because each fits
    into the CPU cache.
    """
    num_i, num_j = planes[0].shape
    evenly = _evenly_spaced(planes)
    if evenly is not None:
        for start in range(0, num_j, BAND):
            voxels[:, start : start + BAND] = evenly[:, start : start + BAND]
        return
    # Odd rows: voxels of different planes at one position would share a cache line if they were powers of 2 apart.
    room = np.empty((len(planes), BAND, num_i + 32), planes[0].dtype)
    for start in range(0, num_j, BAND):
        band = room[:, : num_j - start, :num_i]
        for number, plane in enumerate(planes):
            band[number] = plane[:, start : start + BAND].T
        voxels[:, start : start + BAND] = band.transpose(2, 1, 0)


def _evenly_spaced(planes: Sequence[Shaped[Array, "i j"]]) -> Shaped[Array, "i j k"] | None:
    """Return planes as one array without a copy if they are evenly spaced in memory, else None.

    None is also returned if the spacing is a multiple of a memory page. Such planes would share cache lines, and
    copying them in bands is faster.
    """
    addresses = [plane.__array_interface__["data"][0] for plane in planes]
    steps = {after - before for before, after in pairwise(addresses)}
    if len(steps) != 1 or len({(plane.dtype, plane.shape, plane.strides) for plane in planes}) != 1:
        return None
    step = steps.pop()
    shape, strides = (*planes[0].shape, len(planes)), (*planes[0].strides, step)
    return None if step % PAGE_BYTES == 0 else as_strided(planes[0], shape, strides, writeable=False)


def like(voxels: Shaped[Array, "*c i j k"], affine: Affine, target: Affine) -> Shaped[Array, "*c a b d"]:
    """Reorder and flip the axes of voxels to match the grid `target`, which differs only in axis order and direction.

    Raises:
        GeometryError: If the voxels of the two grids are not at the same positions.
    """
    step = target.inverse().matrix @ affine.matrix
    rotation = np.round(step[:3, :3])
    if np.abs(step[:3, :3] - rotation).max() > AXIS_TOLERANCE or not (np.abs(rotation).sum(axis=0) == 1).all():
        raise GeometryError(
            f"the voxel axes of two grids differ by more than their order and direction: {affine} and {target}"
        )
    turned, placed = _orient(voxels, affine, nib.orientations.io_orientation(step))
    shift = np.abs(target.inverse()(np.array(placed.origin_mm))).max()
    if shift > SHIFT_TOLERANCE:
        raise GeometryError(f"two grids that should match are {shift:.2f} voxels apart: {affine} and {target}")
    return turned


def _orient(voxels: Array, affine: Affine, orientation: Num[Array, "3 2"]) -> tuple[Array, Affine]:
    num_leading = voxels.ndim - 3
    leading = np.stack([np.arange(num_leading), np.ones(num_leading)], axis=1)
    trailing = orientation + [[num_leading, 0]]
    turned = nib.orientations.apply_orientation(voxels, np.concatenate([leading, trailing]))
    matrix = affine.matrix @ nib.orientations.inv_ornt_aff(orientation, voxels.shape[-3:])
    return np.ascontiguousarray(turned), Affine(matrix)


def resampled_grid(
    shape: tuple[int, ...], affine: Affine, spacing_mm: tuple[float, float, float]
) -> tuple[tuple[int, int, int], Affine]:
    """Return the shape and affine of a grid with nearly the given spacing over exactly the same field of view.

    The outer faces of the two grids coincide on all sides, as in `torch.nn.functional.interpolate` with
    `align_corners=False`; the resulting spacing may therefore differ slightly from the requested one.
    """
    i, j, k = (
        max(1, round(n * own / wanted))
        for n, own, wanted in zip(shape[-3:], affine.spacing_mm, spacing_mm, strict=True)
    )
    return (i, j, k), rescaled(affine, shape, (i, j, k))


def rescaled(affine: Affine, shape: tuple[int, ...], new_shape: tuple[int, ...]) -> Affine:
    """Return the affine of a grid with a different number of voxels over exactly the same field of view."""
    factors = np.array(shape[-3:]) / np.array(new_shape[-3:])
    scale = np.diag([*factors, 1.0])
    scale[:3, 3] = (factors - 1.0) / 2.0
    return affine @ Affine(scale)
