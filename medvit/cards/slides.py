"""Section of a data card on slides: patients, number of tiles, and a picture of the tile positions."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image as Pillow

from medvit.dataset.manifest import Manifest
from medvit.document import Block, Outside, Picture, Section, Table
from medvit.patients import PatientCount
from medvit.records import Row
from medvit.wsi.tiles import BLURRED, PEN, TISSUE_MM2, TileGrid
from medvit.wsi.tiles import FOLDER as TILES

SHOWN = 24
"""Maximum number of slides that are shown and listed individually."""
MAX_CLASSES = 32
"""Maximum number of classes of a label for which slides are counted by class."""
HEADER = (
    "slide",
    "patient",
    "split",
    "labels",
    "pixels",
    "microns per pixel",
    "tiles",
    "tissue, mm²",
    "blurred",
    "under ink",
)


def sections(manifest: Manifest) -> Iterator[Section]:
    """Yield the section if the dataset has slides.

    Raises:
        DataError: If the tile list of a slide is missing from the dataset.
    """
    slides = [row for row in manifest if row.kind == "slide"]
    if not slides:
        return
    grids = [TileGrid.read(manifest.folder, row.image_id) for row in slides]
    first = grids[0]
    both = list(zip(slides, grids, strict=True))
    summary = (
        f"{sum(map(len, grids)):,} tiles of {first.size} x {first.size} pixels on {_count(slides)}, "
        f"{first.mpp:.3g} microns per pixel, overlap {first.facts.get('overlap', '0')}, with tissue on "
        f"{float(first.facts.get('min_tissue', '0')):.0%} or more. Pixels remain in the files of the slides."
    )
    lines = [_line(row, grid) for row, grid in both[:SHOWN]]
    blocks: list[Block] = [summary, *_by_label(both), Table(HEADER, lines)]
    blocks += [f"And {len(slides) - SHOWN} more."] if len(slides) > SHOWN else []
    blocks.append(
        "Left the slide at low power; right the segmentation: glass dimmed, ink yellow, tiles framed in blue, "
        "in violet if blurred, in yellow if under ink."
    )
    pictures = [picture for row in slides[:SHOWN] if (picture := _picture(manifest, row))]
    blocks += [pictures] if pictures else []
    yield Section("Slides", blocks)


def _count(slides: Sequence[Row]) -> str:
    return f"{len(slides)} slide{'s' * (len(slides) != 1)} of {PatientCount.of(slides)}"


def _by_label(slides: Sequence[tuple[Row, TileGrid]]) -> Iterator[Table]:
    """Yield, for each label of slides, a table with slides, patients and tiles per class."""
    for key in sorted({key for row, _ in slides for key in row.labels}):
        classes = sorted({row.labels[key] for row, _ in slides if key in row.labels})
        lines: list[list[object]] = []
        for name in [*classes, None]:
            chosen = [(row, len(grid)) for row, grid in slides if row.labels.get(key) == name]
            tiles = [number for _, number in chosen]
            patients = PatientCount.of(row for row, _ in chosen).cell
            if chosen:
                title = "without" if name is None else Outside(name)
                lines.append([title, len(chosen), patients, f"{sum(tiles):,}", f"{np.median(tiles):g}"])
        if len(classes) <= MAX_CLASSES:
            yield Table((Outside(key), "slides", "patients", "tiles", "tiles a slide, median"), lines)


def _line(row: Row, grid: TileGrid) -> list[object]:
    _, height, width = row.shape
    area = f"{float(grid.facts[TISSUE_MM2]):.2f}" if TISSUE_MM2 in grid.facts else "unknown"
    mpp = f"{row.mpp or 0.0:.4g}"
    labels = Outside(", ".join(row.labels[key] for key in sorted(row.labels)) or "none")
    flagged = [int(grid.has(flag).sum()) for flag in (BLURRED, PEN)]
    named = [row.image_id, row.patient_id, row.split, labels]
    return [*named, f"{width} x {height}", mpp, len(grid), area, *flagged]


def _picture(manifest: Manifest, row: Row) -> Picture | None:
    path = manifest.folder / TILES / f"{row.image_id}.png"
    if not path.is_file():
        return None
    png = path.read_bytes()
    with Pillow.open(io.BytesIO(png)) as picture:
        width = picture.width
    return Picture(f"slide-{row.image_id}", f"{row}, and its tiles", png, width)
