"""Section of a data card on slides: patients, number of tiles, and a picture of the tile positions."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from medvit.cards.plots import FOLDER
from medvit.dataset.manifest import Manifest
from medvit.document import Table, markdown_table
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


def sections(manifest: Manifest, folder: Path) -> Iterator[str]:
    """Yield the section in Markdown if the dataset has slides; their pictures are copied into `card` in `folder`.

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
    parts = ["## Slides", summary, *_by_label(both), markdown_table(Table(HEADER, lines))]
    parts += [f"And {len(slides) - SHOWN} more."] if len(slides) > SHOWN else []
    parts.append(
        "Left the slide at low power; right the segmentation: glass dimmed, ink yellow, tiles framed in blue, "
        "in violet if blurred, in yellow if under ink."
    )
    shown = [_picture(manifest, row, folder) for row in slides[:SHOWN]]
    yield "\n\n".join([*parts, "\n".join(filter(None, shown))])


def _count(slides: Sequence[Row]) -> str:
    return f"{len(slides)} slide{'s' * (len(slides) != 1)} of {PatientCount.of(slides)}"


def _by_label(slides: Sequence[tuple[Row, TileGrid]]) -> Iterator[str]:
    """Yield, for each label of slides, a table with slides, patients and tiles per class."""
    for key in sorted({key for row, _ in slides for key in row.labels}):
        classes = sorted({row.labels[key] for row, _ in slides if key in row.labels})
        lines: list[list[object]] = []
        for name in [*classes, None]:
            chosen = [(row, len(grid)) for row, grid in slides if row.labels.get(key) == name]
            tiles = [number for _, number in chosen]
            patients = PatientCount.of(row for row, _ in chosen).cell
            if chosen:
                title = "without" if name is None else name
                lines.append([title, len(chosen), patients, f"{sum(tiles):,}", f"{np.median(tiles):g}"])
        if len(classes) <= MAX_CLASSES:
            yield markdown_table(Table((f"`{key}`", "slides", "patients", "tiles", "tiles a slide, median"), lines))


def _line(row: Row, grid: TileGrid) -> list[object]:
    _, height, width = row.shape
    area = f"{float(grid.facts[TISSUE_MM2]):.2f}" if TISSUE_MM2 in grid.facts else "unknown"
    mpp = f"{row.mpp or 0.0:.4g}"
    labels = ", ".join(row.labels[key] for key in sorted(row.labels)) or "none"
    flagged = [int(grid.has(flag).sum()) for flag in (BLURRED, PEN)]
    named = [row.image_id, row.patient_id, row.split, labels]
    return [*named, f"{width} x {height}", mpp, len(grid), area, *flagged]


def _picture(manifest: Manifest, row: Row, folder: Path) -> str:
    source, name = manifest.folder / TILES / f"{row.image_id}.png", Path(FOLDER) / f"slide-{row.image_id}.png"
    if not source.is_file():
        return ""
    (folder / FOLDER).mkdir(exist_ok=True)
    shutil.copyfile(source, folder / name)
    return f"![{row.image_id}]({name.as_posix()})"
