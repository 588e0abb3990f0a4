"""Locations of the slides of a dataset, stored only next to the site's key, since file names may name patients.

`KEY.slides/DATASET.json`, with file mode 0600, maps the pseudonym of each slide to its files, and contains the pixel
size (microns per pixel) of slides whose files lack it.
"""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray as Array
from pydantic import Field

from medvit.config import Config, Positive
from medvit.errors import DataError, OutputError
from medvit.files.private import write_private
from medvit.records import Row, TileRow
from medvit.wsi.slide import Slide, open_slide
from medvit.wsi.tiles import SAME_SCALE, TILE_FLAGS, Magnification, TileFlag, TileGrid

MAX_OPEN = 128
"""Number of slides that a process keeps open: twice as many as the slides whose tiles are interleaved in training."""


class SlidesConfig(Config):
    """Locations of the slide files, which are not copied into the dataset."""

    key: Path = Field(default=Path("~/.medvit/site.key"), json_schema_extra={"private": True})
    """Key file that was given to ingest. The locations of the slides are recorded beside it, in KEY.slides/."""
    folder: Path | None = Field(default=None, json_schema_extra={"private": True})
    """Current folder of the slides, if they were moved after ingest. Files are found in this folder by their names.
    Unset: the recorded locations.
    """
    skip_tiles: tuple[TileFlag, ...] = ()
    """Exclude tiles that ingest marked with any of these flags."""

    def usable(self, grid: TileGrid) -> TileGrid:
        """Return the tiles of a slide without those that `skip_tiles` excludes."""
        unwanted = sum(TILE_FLAGS[name] for name in set(self.skip_tiles))
        return grid.only(~grid.has(unwanted)) if unwanted else grid


class MixedSlidesConfig(SlidesConfig):
    """Locations of the slide files, and magnifications of the training tiles."""

    magnifications: Mapping[Magnification, Positive] = {}
    """Sampling probability of each magnification, such as {40x: 0.2, 20x: 0.4, 10x: 0.2, 5x: 0.2} (Virchow2). Centers
    of tiles and their size in pixels do not change. Empty: the magnification of the tiles in the dataset.
    """


@dataclass(frozen=True)
class SlideFiles:
    """Files of a slide, and its microns per pixel if the user gave them."""

    files: tuple[str, ...]
    mpp: float | None = None


def write_locations(key: Path, dataset: str, places: Mapping[str, SlideFiles]) -> Path:
    """Add the locations of slides, keyed by pseudonym, to the file of a dataset; return its path (mode 0600).

    Raises:
        OutputError: If the locations cannot be written.
    """
    path = _path(key, dataset)
    try:
        known = _read(path) | dict(places)
        text = json.dumps({name: asdict(place) for name, place in sorted(known.items())}, indent=1)
        write_private(path, [text.encode("utf-8", "surrogateescape")])
    except OSError as error:
        raise OutputError(
            f"the locations of slides cannot be written: {error.strerror}; give another key=..."
        ) from None
    return path


def open_row(row: Row, key: Path, folder: Path | None = None) -> Slide:
    """Open the slide of a manifest row of kind slide; it remains open in this process for the next call.

    Raises:
        DataError: If the location is unknown, if the file there is missing or a different slide, or if it cannot be
            read.
    """
    kept = _open_slides()
    name = (str(key), str(folder), row.dataset, row.image_id)
    if name in kept:
        kept.move_to_end(name)
        return kept[name]
    kept[name] = _open(row, key, folder)
    if len(kept) > MAX_OPEN:
        kept.popitem(last=False)[1].close()
    return kept[name]


def tile_row(slide: Row, grid: TileGrid, index: int) -> TileRow:
    """Return the row of one tile of a slide."""
    x, y = (int(place) for place in grid.xy[index])
    known = {one.name: getattr(slide, one.name) for one in fields(Row)}
    return TileRow(
        **known
        | {
            "image_id": f"{slide.image_id}-{x}-{y}",
            "kind": "image",
            "shape": (slide.shape[0], grid.size, grid.size),
            "mpp": grid.mpp,
            "part": f"tile at ({x}, {y})",
            "perceptual_hash": None,
        },
        slide=slide,
        x=x,
        y=y,
    )


def magnified(tile: TileRow, mpp: float) -> TileRow | None:
    """Return a tile with the same center and number of pixels, at about `mpp` microns per pixel.

    The tile is moved if it would extend beyond the slide. The result is None if the slide has a lower resolution than
    `mpp`, or is smaller than such a tile.
    """
    slide = tile.slide
    assert slide is not None
    assert slide.mpp is not None
    assert tile.mpp is not None
    near = [known for known in (tile.mpp, slide.mpp) if abs(known / mpp - 1.0) <= SAME_SCALE]
    wished = near[0] if near else mpp
    before, after = (tile.shape[1] * scale / slide.mpp for scale in (tile.mpp, wished))
    height, width = slide.shape[1:]
    if wished < slide.mpp or after > min(height, width):
        return None
    x, y = (
        min(max(corner + (before - after) / 2, 0.0), length - after)
        for corner, length in ((tile.x, width), (tile.y, height))
    )
    part = f"tile at ({int(x)}, {int(y)}), {wished:.3g} microns a pixel"
    name = f"{slide.image_id}-{int(x)}-{int(y)}-{wished:.3g}"
    return replace(tile, image_id=name, x=int(x), y=int(y), mpp=wished, part=part)


def read_tile(row: TileRow, slides: SlidesConfig) -> UInt8[Array, "3 h w"]:
    """Read the pixels of a tile from the file of its slide.

    Raises:
        DataError: If the slide was moved, or the tile cannot be read.
    """
    assert row.slide is not None
    assert row.mpp is not None
    return open_row(row.slide, slides.key, slides.folder).read(row.x, row.y, row.shape[1], row.mpp)


def _open(row: Row, key: Path, folder: Path | None) -> Slide:
    path = _path(key, row.dataset)
    place = _places(path, path.stat().st_mtime_ns if path.is_file() else 0).get(row.image_id)
    if place is None:
        raise DataError(
            f"{row}: no location of this slide is recorded for this key file; pass the slides.key that ingest used, "
            "or ingest the slides again on this machine"
        )
    files = [Path(file) if folder is None else folder / Path(file).name for file in place.files]
    if not all(file.is_file() for file in files):
        raise DataError(
            f"{row}: the slide file is not at its recorded location; set slides.folder=... to the current folder of "
            "the slides"
        )
    slide = open_slide(files, place.mpp)
    if slide.shape != row.shape[1:] or not np.isclose(slide.mpp, row.mpp or 0.0):
        slide.close()
        raise DataError(
            f"{row}: a different slide is at the recorded location; restore the original file, or ingest the slides "
            "again"
        )
    return slide


def _path(key: Path, dataset: str) -> Path:
    key = key.expanduser()
    return key.with_name(f"{key.name}.slides") / f"{dataset}.json"


@lru_cache(maxsize=16)
def _places(path: Path, changed_ns: int) -> dict[str, SlideFiles]:
    return _read(path)


def _read(path: Path) -> dict[str, SlideFiles]:
    if not path.is_file():
        return {}
    try:
        tree = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
        return {name: SlideFiles(tuple(place["files"]), place["mpp"]) for name, place in tree.items()}
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError("the file of slide locations next to the key is damaged; ingest the slides again") from None


_KEPT: dict[int, OrderedDict[tuple[str, ...], Slide]] = {}


def _open_slides() -> OrderedDict[tuple[str, ...], Slide]:
    """Return the slides that are open in this process.

    They are separate for each process, because a forked process must not share file handles with its parent.
    """
    return _KEPT.setdefault(os.getpid(), OrderedDict())
