"""DICOM sources for the benchmarks: phantoms, and real studies if they are stored next to the project."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int16
from numpy import ndarray as Array
from scipy.ndimage import gaussian_filter

from medvit.geometry import Affine
from medvit.phantoms.dicom import PhantomPatient, write_ct_series

SHARED_DATA = Path(__file__).parent.parent.parent / "shared" / "data"
REAL = {
    "brain MR, 5 series": "brain-mr-dicom-studies/Study3",
    "CT, 1 series": "torchio-ct-series",
    "PET/CT, JPEG 2000": "totalseg-ct/ct_dicom",
}
"""Name -> folder below the shared data."""


@dataclass(frozen=True)
class Source:
    """Folder of DICOM files, and its size."""

    name: str
    folder: Path

    @property
    def num_bytes(self) -> int:
        """Total bytes of all its files."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    @property
    def num_files(self) -> int:
        """Number of its files."""
        return sum(path.is_file() for path in self.folder.rglob("*"))


def real_sources() -> list[Source]:
    """Return the available real studies; print a line for each missing one."""
    found = []
    for name, place in REAL.items():
        if (SHARED_DATA / place).is_dir():
            found.append(Source(name, SHARED_DATA / place))
        else:
            print(f"skipped: {name}: no ../shared/data/{place} beside the project")
    return found


def phantom_source(folder: Path, *, num_series: int, shape: tuple[int, int, int] = (256, 256, 40)) -> Source:
    """Write CT series of smooth shapes with noise, each of a different patient; `shape` is (columns, rows, slices)."""
    for number in range(num_series):
        affine = Affine.from_spacing((0.8, 0.8, 2.0))
        write_ct_series(
            folder / f"{number:03d}", ct_like(shape, seed=number), affine, subject=PhantomPatient(0, number)
        )
    return Source(f"phantom CT, {num_series} series of {shape[2]} slices of {shape[0]} x {shape[1]}", folder)


def ct_like(shape: tuple[int, int, int], *, seed: int) -> Int16[Array, "i j k"]:
    """Return smooth shapes in air with scanner noise, in HU."""
    rng = np.random.default_rng(seed)
    smooth = gaussian_filter(rng.standard_normal(shape, dtype=np.float32), 8)
    body = np.where(smooth > -0.005, 40 + 4000 * smooth, -1000)
    return (body + rng.normal(0, 12, shape)).clip(-1024, 3000).astype(np.int16)


def photographs(folder: Path, num: int, side: int = 256) -> Path:
    """Return a folder of smooth color images, as PNG."""
    from PIL import Image

    folder.mkdir(parents=True)
    for number in range(num):
        smooth = gaussian_filter(np.random.default_rng(number).standard_normal((side, side, 3)), (6, 6, 0))
        pixels = 255 * (smooth - smooth.min()) / np.ptp(smooth)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:04d}.png")
    return folder
