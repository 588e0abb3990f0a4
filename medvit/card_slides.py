"""The part of a data card on slides: how many tiles each has, and a picture of where they lie."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from medvit.card_plots import FOLDER
from medvit.manifest import Manifest
from medvit.page import Table, markdown_table
from medvit.samples import Row
from medvit.tiles import BLURRED, PEN, TileGrid
from medvit.tiles import FOLDER as TILES

SHOWN = 24
"""Slides that are shown and listed one by one."""
HEADER = ("slide", "split", "pixels", "microns per pixel", "tiles", "tissue, mm²", "blurred", "under ink")


def sections(manifest: Manifest, folder: Path) -> Iterator[str]:
    """The part in Markdown, if the dataset has slides; their pictures are copied into `card` in `folder`.

    Raises:
        DataError: If the dataset has lost the tiles of a slide.
    """
    slides = [row for row in manifest if row.kind == "slide"]
    if not slides:
        return
    grids = [TileGrid.read(manifest.folder, row.image_id) for row in slides]
    first = grids[0]
    said = (
        f"{sum(map(len, grids)):,} tiles of {first.size} x {first.size} pixels on {len(slides)} slides, "
        f"{first.mpp:.3g} microns per pixel, overlap {first.facts.get('overlap', '0')}, with tissue on "
        f"{float(first.facts.get('min_tissue', '0')):.0%} or more. Pixels stay in the files of the slides. A tile's "
        "area of tissue is counted once for each tile that it is in."
    )
    lines = [_line(row, grid) for row, grid in list(zip(slides, grids, strict=True))[:SHOWN]]
    parts = ["## Slides", said, markdown_table(Table(HEADER, lines))]
    parts += [f"And {len(slides) - SHOWN} more."] if len(slides) > SHOWN else []
    parts.append(
        "Left the slide at low power; right what was found: glass dimmed, ink yellow, tiles framed in blue, in violet "
        "where blurred, in yellow where under ink."
    )
    shown = [_picture(manifest, row, folder) for row in slides[:SHOWN]]
    yield "\n\n".join([*parts, "\n".join(filter(None, shown))])


def _line(row: Row, grid: TileGrid) -> list[object]:
    _, height, width = row.shape
    area = float(np.sum(grid.tissue, dtype=np.float64)) * (grid.size * grid.mpp / 1000) ** 2
    mpp = f"{row.mpp or 0.0:.4g}"
    flagged = [int(grid.has(flag).sum()) for flag in (BLURRED, PEN)]
    return [row.image_id, row.split, f"{width} x {height}", mpp, len(grid), f"{area:.2f}", *flagged]


def _picture(manifest: Manifest, row: Row, folder: Path) -> str:
    source, name = manifest.folder / TILES / f"{row.image_id}.png", Path(FOLDER) / f"slide-{row.image_id}.png"
    if not source.is_file():
        return ""
    (folder / FOLDER).mkdir(exist_ok=True)
    shutil.copyfile(source, folder / name)
    return f"![{row.image_id}]({name.as_posix()})"
