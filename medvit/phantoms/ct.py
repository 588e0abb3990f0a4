"""Small synthetic CT of the lower chest and abdomen with labeled organs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int16, UInt8
from numpy import ndarray as Array
from scipy.ndimage import gaussian_filter

from medvit.geometry import Affine

CLASSES = ("background", "liver", "spleen", "kidney")
"""Names of the label-map values 0, 1, 2, 3."""

SHAPE = (48, 48, 32)
AIR_HU, LUNG_HU, FAT_HU, MUSCLE_HU, BONE_HU = -1000.0, -830.0, -100.0, 45.0, 330.0
RIB_GAP_MM, VERTEBRA_MM = 34.0, 30.0


@dataclass(frozen=True)
class CtPhantom:
    """Voxels in RAS+: `hu` in Hounsfield units, `labels` indexing `CLASSES`, and their affine."""

    hu: Int16[Array, "i j k"]
    labels: UInt8[Array, "i j k"]
    affine: Affine


@dataclass(frozen=True)
class _Canvas:
    """Volume being drawn: world coordinates of each voxel in mm along its axes, HU values, labels."""

    generator: np.random.Generator
    points_mm: Float[Array, "i j k 3"]
    hu: Float[Array, "i j k"]
    labels: UInt8[Array, "i j k"]

    def paint(self, region: Bool[Array, "i j k"], hu: float, label: int = 0) -> None:
        """Fill a region, replacing earlier values and labels."""
        self.hu[region] = hu
        self.labels[region] = label

    def blob(
        self, center_mm: tuple[float, ...], radii_mm: tuple[float, ...], wobble: float = 0.15
    ) -> Bool[Array, "i j k"]:
        """Return the mask of an ellipsoid whose center, size, tilt and surface vary from patient to patient."""
        draw = self.generator
        radii = np.array(radii_mm) * draw.uniform(0.82, 1.18, 3)
        center = np.array(center_mm) + draw.normal(0, 5, 3)
        rotation = _rotation(draw.normal(0, 0.15, 3))
        distance = self._distance(center, rotation / radii)
        surface = gaussian_filter(draw.standard_normal(distance.shape), 3)
        return distance + wobble * surface / surface.std() < 1

    def _distance(self, center_mm: Float[Array, "3"], scaled: Float[Array, "3 3"]) -> Float[Array, "i j k"]:
        """Return the length of `(point - center) @ scaled` for each voxel, from the coordinates along the axes."""
        x, y, z = (self.points_mm[..., axis] for axis in range(3))
        i, j, k = x[:, :1, :1] - center_mm[0], y[:1, :, :1] - center_mm[1], z[:1, :1, :] - center_mm[2]
        return np.sqrt(sum((i * a + j * b + k * c) ** 2 for a, b, c in scaled.T))

    def tube(self, center_mm: tuple[float, float], radius_mm: float) -> Bool[Array, "i j k"]:
        """Return the mask of a slightly winding cylinder along the body."""
        height = self.points_mm[..., 2]
        sway = 6 * np.sin(height / self.generator.uniform(50, 90) + self.generator.uniform(0, 6))
        offset = np.hypot(self.points_mm[..., 0] - center_mm[0] - sway, self.points_mm[..., 1] - center_mm[1])
        return offset < radius_mm


def ct(generator: np.random.Generator, shape: tuple[int, int, int] = SHAPE) -> CtPhantom:
    """Return one patient in the portal venous phase.

    Liver, spleen and kidneys differ from adjacent tissue by 10 to 100 HU, with noise of 18 to 34 HU, streaks, lesions,
    gas, and vessels of similar density, so that a threshold cannot segment them.
    """
    in_plane_mm, between_slices_mm = generator.uniform((6.2, 7.0), (7.2, 8.2))
    spacing = (in_plane_mm, in_plane_mm, between_slices_mm)
    origin = tuple(-(n - 1) / 2 * s for n, s in zip(shape, spacing, strict=True))
    affine = Affine.from_spacing(spacing, origin)
    points = affine(np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1))
    canvas = _Canvas(generator, points, np.full(shape, AIR_HU), np.zeros(shape, np.uint8))
    _torso(canvas)
    _chest(canvas)
    _bowel(canvas)
    _organs(canvas)
    _vessels(canvas)
    hu = gaussian_filter(canvas.hu, 0.55) + _noise(generator, shape) + _streaks(generator, points)
    return CtPhantom(np.clip(np.round(hu), -1024, 3071).astype(np.int16), canvas.labels, affine)


def _torso(canvas: _Canvas) -> None:
    width, depth = canvas.generator.uniform(125, 145), canvas.generator.uniform(92, 108)
    x, y, z = np.moveaxis(canvas.points_mm, -1, 0)
    shell = np.hypot(x / width, y / depth)
    fat = canvas.generator.uniform(0.05, 0.13)
    canvas.paint(shell < 1, FAT_HU)
    canvas.paint(shell < 1 - fat, MUSCLE_HU)
    canvas.paint(shell < 0.82 - fat, canvas.generator.uniform(-60, -20))  # mesenteric fat between the organs
    angle = np.arctan2(x, y)
    rib = np.cos(2 * np.pi * (z + 25 * np.cos(angle)) / RIB_GAP_MM) > 0.55
    canvas.paint(rib & (shell > 0.84 - fat) & (shell < 0.93 - fat) & (z > -40), BONE_HU)
    spine = np.hypot(x / 21, (y + 0.66 * depth) / 18) < 1
    canvas.paint(spine, BONE_HU * 0.75)
    canvas.paint(spine & (np.cos(2 * np.pi * z / VERTEBRA_MM) > 0.85), 90.0)
    canvas.paint(np.hypot(x, y + 0.66 * depth + 25) < 9, 25.0)


def _chest(canvas: _Canvas) -> None:
    for side in (-1, 1):
        canvas.paint(canvas.blob((side * 62, 0, 118 - 5 * side), (47, 68, 84), 0.05), LUNG_HU)
    canvas.paint(canvas.blob((0, 0, 110), (26, 55, 70), 0.1), 30.0)
    canvas.paint(canvas.blob((-20, 22, 88), (45, 38, 36), 0.08), 130.0)


def _bowel(canvas: _Canvas) -> None:
    draw = canvas.generator
    for _ in range(9):
        center = (draw.uniform(-80, 80), draw.uniform(0, 65), draw.uniform(-125, -35))
        gas = draw.random() < 0.25
        canvas.paint(canvas.blob(center, (22, 20, 20)), -650.0 if gas else draw.uniform(10, 80))
    canvas.paint(canvas.blob((-48, 38, 15), (40, 32, 42)), draw.uniform(15, 45))
    canvas.paint(canvas.blob((-45, 58, 18), (20, 12, 22)), -750.0)


def _organs(canvas: _Canvas) -> None:
    draw = canvas.generator
    liver = canvas.blob((62, 5, 8), (66, 72, 62)) | canvas.blob((8, 42, 22), (58, 32, 34))
    # Below the diaphragm organs replace lung and gas; above it they end where the lung begins.
    inside = (canvas.hu > -500) | (np.abs(canvas.points_mm[..., 2]) < 48)
    body = inside & (np.linalg.norm(canvas.points_mm[..., :2] / (114, 82), axis=-1) < 1)
    density = draw.uniform(88, 118)
    canvas.paint(liver & body, density, CLASSES.index("liver"))
    for _ in range(draw.integers(0, 4)):
        center = (draw.uniform(20, 95), draw.uniform(-40, 45), draw.uniform(-30, 45))
        lesion = canvas.blob(center, (12, 12, 13)) & (canvas.labels == CLASSES.index("liver"))
        canvas.hu[lesion] = density - draw.uniform(15, 60)
    canvas.paint(
        canvas.blob((-80, -28, 16), (28, 44, 44)) & body, density + draw.uniform(0, 22), CLASSES.index("spleen")
    )
    sides = [-1, 1] if draw.random() > 0.1 else [int(draw.choice([-1, 1]))]  # one in ten has a single kidney
    for side in sides:
        kidney = canvas.blob((side * 56, -46, -48 - 8 * side), (25, 27, 48), 0.1) & inside
        canvas.paint(kidney, density + draw.uniform(15, 70), CLASSES.index("kidney"))
        sinus = canvas.blob((side * 44, -42, -48 - 8 * side), (9, 12, 20)) & kidney
        canvas.hu[sinus] = draw.uniform(-20, 40)


def _vessels(canvas: _Canvas) -> None:
    canvas.paint(canvas.tube((-12, -36), canvas.generator.uniform(9, 13)), canvas.generator.uniform(120, 190))
    canvas.paint(canvas.tube((20, -30), canvas.generator.uniform(9, 13)), canvas.generator.uniform(95, 150))


def _noise(generator: np.random.Generator, shape: tuple[int, int, int]) -> Float[Array, "i j k"]:
    grain = gaussian_filter(generator.standard_normal(shape), (0.6, 0.6, 0.3))
    return grain / grain.std() * generator.uniform(18, 34)


def _streaks(generator: np.random.Generator, points_mm: Float[Array, "i j k 3"]) -> Float[Array, "i j k"]:
    """Return HU to add: bright and dark streaks in the axial plane through one dense spot, over a few slices."""
    spot = np.array([generator.uniform(-60, 60), generator.uniform(-50, 50), generator.uniform(-80, 60)])
    x, y, z = np.moveaxis(points_mm - spot, -1, 0)
    rays = np.zeros(x.shape)
    for angle in generator.uniform(0, np.pi, 6):
        distance = x * np.sin(angle) - y * np.cos(angle)
        rays += generator.normal(0, 28) * np.exp(-((distance / 7) ** 2))
    return rays * np.exp(-((z / 25) ** 2))


def _rotation(angles: Float[Array, "3"]) -> Float[Array, "3 3"]:
    from scipy.spatial.transform import Rotation

    return Rotation.from_euler("xyz", angles).as_matrix()
