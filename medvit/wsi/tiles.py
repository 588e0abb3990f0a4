"""Tiles of slides that contain tissue: `tiles/IMAGE_ID.parquet` in a dataset, one row per tile.

A row has the pseudonym of the slide, the upper left corner in pixels of level 0, the fraction of tissue, and flags. The
pixels remain in the slide file. Rows are in the order of the file, so that reading them passes through the file once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float32, Int64, UInt8
from numpy import ndarray as Array

from medvit.errors import DataError
from medvit.files.atomic import replacing

FOLDER = "tiles"
Magnification = Literal["40x", "20x", "10x", "5x"]
MPP: Mapping[Magnification, float] = {"40x": 0.25, "20x": 0.5, "10x": 1.0, "5x": 2.0}
"""Microns per pixel of each scanner magnification."""
SAME_SCALE = 0.05
"""Relative deviation from the requested scale up to which a slide level is used as it is; scanners of the same nominal
magnification (20x) differ by as much.
"""
TileFlag = Literal["blurred", "pen"]
BLURRED, PEN = 1, 2
"""Bits of `TileGrid.flags` for tiles that are out of focus, and for tiles with marker ink."""
TILE_FLAGS: Mapping[TileFlag, int] = {"blurred": BLURRED, "pen": PEN}
TISSUE_MM2 = "tissue_mm2"
"""Key in `TileGrid.facts`: the total area of tissue on the slide, in mm², inside and outside tiles."""

_FACTS = b"medvit_tiles"
_SCHEMA = pa.schema(
    [
        ("slide", pa.dictionary(pa.int32(), pa.string())),
        ("x", pa.int64()),
        ("y", pa.int64()),
        ("tissue", pa.float32()),
        ("flags", pa.uint8()),
    ]
)


@dataclass(frozen=True)
class TileGrid:
    """Tiles of one slide: corners `xy` (N, 2) in pixels of level 0, sides of `size` pixels at `mpp` microns each.

    `tissue` (N,) is the fraction of each tile that is tissue; `flags` (N,) are the bits `BLURRED` and `PEN`. `facts`
    are other short notes on how the grid was made.
    """

    xy: Int64[Array, "n 2"]
    size: int
    mpp: float
    tissue: Float32[Array, "n"]
    flags: UInt8[Array, "n"]
    facts: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.xy)

    def has(self, flag: int) -> Bool[Array, "n"]:
        """Return which tiles have at least one of the flags in `flag`."""
        return np.asarray(self.flags & np.uint8(flag)) > 0

    def only(self, chosen: Bool[Array, "n"]) -> TileGrid:
        """Return the chosen tiles."""
        return replace(self, xy=self.xy[chosen], tissue=self.tissue[chosen], flags=self.flags[chosen])

    def side(self, slide_mpp: float) -> float:
        """Return the side length of a tile in pixels of level 0, for a slide with `slide_mpp` microns per pixel."""
        return self.size * self.mpp / slide_mpp

    def write(self, folder: Path, image_id: str) -> None:
        """Write the tile list into a dataset folder, atomically."""
        path = _path(folder, image_id)
        path.parent.mkdir(exist_ok=True)
        slides = pa.DictionaryArray.from_arrays(np.zeros(len(self), np.int32), [image_id])
        columns = [slides, *self.xy.T, self.tissue, self.flags]
        metadata = json.dumps({"size": self.size, "mpp": self.mpp, "facts": dict(self.facts)}, sort_keys=True)
        table = pa.table(list(map(pa.array, columns)), schema=_SCHEMA.with_metadata({_FACTS: metadata.encode()}))
        with replacing(path) as partial:
            pq.write_table(table, partial, compression="zstd")

    @classmethod
    def read(cls, folder: Path, image_id: str) -> TileGrid:
        """Read the tile list of a slide in a dataset folder.

        Raises:
            DataError: If the dataset has no tile list for the slide, or the file is damaged.
        """
        path = _path(folder, image_id)
        if not path.is_file():
            raise DataError(f"{folder} has no tile list of slide {image_id}; ingest the slides again")
        try:
            table = pq.read_table(path)
            metadata = json.loads(table.schema.metadata[_FACTS])
            xy = np.stack([table["x"].to_numpy(), table["y"].to_numpy()], axis=1)
            return cls(
                xy,
                metadata["size"],
                metadata["mpp"],
                table["tissue"].to_numpy(),
                table["flags"].to_numpy(),
                metadata["facts"],
            )
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError):
            raise DataError(f"the tiles of slide {image_id} in {folder} are damaged; ingest the slides again") from None


def _path(folder: Path, image_id: str) -> Path:
    return folder / FOLDER / f"{image_id}.parquet"
