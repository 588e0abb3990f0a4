"""Slide tiles read per second, compared with the usual plain loop over OpenSlide's read_region."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8
from numpy import ndarray as Array
from torch.utils.data import DataLoader, Dataset

from benchmarks.timing import alternate, print_rates
from medvit.phantoms.large_slide import write_large
from medvit.records import Row
from medvit.wsi.locations import SlideFiles, open_row, write_locations
from medvit.wsi.slide import open_slide
from medvit.wsi.tiling import in_file_order

SIDE, MPP, SIZE = 40_000, 0.25, 256
"""Side of the slide in pixels, microns per pixel, and side of a tile in pixels."""
COLUMNS, ROWS = 100, 12
"""Tiles per repeat: a band across the tissue."""
WORKERS, BATCH = 2, 32


def run(folder: Path, repeats: int) -> None:
    """Print tiles per second, without and with overlap, and at half the scale of the slide."""
    path = folder / "slide.tif"
    write_large(path, SIDE, mpp=MPP)
    for overlap, zoom in ((0.0, 1), (0.5, 1), (0.75, 1), (0.5, 2)):
        corners = _corners(round(SIZE * zoom * (1 - overlap)))
        tasks = _tasks(path, folder, corners, zoom)
        times = alternate(tasks, repeats=repeats)
        title = f"tiles of {SIZE}² pixels at {MPP * zoom} microns, overlap {overlap:.0%}, of a JPEG slide of {SIDE}²"
        print_rates(title, times, len(corners))


def _corners(stride: int) -> Int64[Array, "n 2"]:
    first = SIDE // 3
    x, y = np.meshgrid(first + stride * np.arange(COLUMNS), first + stride * np.arange(ROWS))
    return np.stack([x.ravel(), y.ravel()], axis=1).astype(np.int64)


def _tasks(path: Path, folder: Path, corners: Int64[Array, "n 2"], zoom: int) -> dict[str, Callable[[Path], object]]:
    slide = open_slide(path)
    row = Row(
        image_id="slide",
        patient_id="patient",
        study_id="study",
        series_id="series",
        modality="SM",
        kind="slide",
        dataset="bench",
        split="train",
        shape=(3, *slide.shape),
        dtype="uint8",
        sha256="",
        mpp=slide.mpp,
    )
    ordered = in_file_order(corners, slide.tile_side)
    slide.close()
    write_locations(folder / "key", "bench", {row.image_id: SlideFiles((str(path),))})
    tiles = _Raw(row, folder / "key", ordered, MPP * zoom)
    loader = DataLoader(tiles, batch_size=BATCH, num_workers=WORKERS, persistent_workers=True)
    return {
        "OpenSlide, plain loop": partial(_plain, path, corners, zoom),
        "medvit, one process": lambda _: [tiles[index] for index in range(len(tiles))],
        f"medvit, {WORKERS} worker processes": lambda _: [len(batch) for batch in loader],
    }


def _plain(path: Path, corners: Int64[Array, "n 2"], zoom: int, _: Path) -> None:
    from openslide import OpenSlide

    with OpenSlide(path) as slide:
        for x, y in corners.tolist():
            region = slide.read_region((x, y), 0, (SIZE * zoom, SIZE * zoom)).convert("RGB")
            np.asarray(region if zoom == 1 else region.resize((SIZE, SIZE)))


class _Raw(Dataset[UInt8[Array, "3 h w"]]):
    def __init__(self, row: Row, key: Path, corners: Int64[Array, "n 2"], mpp: float) -> None:
        self.row, self.key, self.corners, self.mpp = row, key, corners, mpp

    def __len__(self) -> int:
        return len(self.corners)

    def __getitem__(self, index: int) -> UInt8[Array, "3 h w"]:
        x, y = (int(place) for place in self.corners[index])
        return open_row(self.row, self.key).read(x, y, SIZE, self.mpp)
