"""Results on one slide: tiles with probabilities and attention, and the maps drawn from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray as Array

from medvit.models.slide import SlideReading
from medvit.wsi.tiles import TileGrid


@dataclass(frozen=True)
class SlideFinding:
    """Tiles of a slide and a model's prediction for them.

    `mpp` (microns per pixel) and `shape` (H, W) are those of the slide at level 0.
    """

    grid: TileGrid
    reading: SlideReading
    classes: tuple[str, ...]
    shape: tuple[int, int]
    mpp: float

    @property
    def side(self) -> float:
        """Side of a tile in pixels of level 0."""
        return self.grid.side(self.mpp)

    def top(self, count: int) -> Int[Array, "k"]:
        """Return the `count` tiles with the most attention, in descending order, without overlaps."""
        return self.highest(self.reading.attention, count)

    def highest(self, values: Float[Array, "n"], count: int) -> Int[Array, "k"]:
        """Return the `count` tiles with the highest values, in descending order.

        A tile that overlaps a tile with a higher value is skipped.
        """
        chosen: list[int] = []
        for index in np.argsort(-values, kind="stable"):
            apart = np.abs(self.grid.xy[chosen] - self.grid.xy[index]).max(axis=1) if chosen else np.array([np.inf])
            if apart.min() >= self.side - 1:
                chosen.append(int(index))
            if len(chosen) == count:
                break
        return np.array(chosen)

    def heat_classes(self) -> Sequence[int]:
        """Return the classes that get a map: all, or only the second if there are two."""
        return [1] if len(self.classes) == 2 else range(len(self.classes))


@dataclass(frozen=True)
class HeatMap:
    """Value of each cell (rows, columns) of a slide; NaN outside of the tiles.

    Cells are squares of `cell` pixels of level 0 that start at the origin of level 0, whose pixel size is `mpp`. If
    tiles overlap, a cell has their mean.
    """

    values: Float[Array, "r c"]
    cell: float
    mpp: float


def attention_map(finding: SlideFinding) -> HeatMap:
    """Return a map of attention ranks.

    The rank of a tile is the fraction of tiles with less attention; tiles with equal attention are ranked by their
    order in the grid.
    """
    order = np.argsort(np.argsort(finding.reading.attention, kind="stable"), kind="stable")
    return tile_map(finding, (order + 1) / len(order))


def class_map(finding: SlideFinding, label: int) -> HeatMap:
    """Return a map of a class: its probability for each tile, predicted as if the tile were the whole slide."""
    return tile_map(finding, finding.reading.scores[:, label])


def tile_map(finding: SlideFinding, values: Float[Array, "n"]) -> HeatMap:
    """Return a map of one value per tile."""
    overlap = float(finding.grid.facts.get("overlap", "0"))
    cell = finding.side * (1.0 - overlap)
    span = max(1, round(finding.side / cell))
    shape = tuple(int(np.ceil(length / cell)) + span for length in finding.shape)
    sums, counts = np.zeros(shape), np.zeros(shape)
    columns, rows = np.round(finding.grid.xy / cell).astype(int).T
    for down in range(span):
        for across in range(span):
            np.add.at(sums, (rows + down, columns + across), values)
            np.add.at(counts, (rows + down, columns + across), 1.0)
    mean = np.divide(sums, counts, out=np.full(shape, np.nan), where=counts > 0)
    height, width = (max(1, int(np.ceil(length / cell - 1e-3))) for length in finding.shape)
    return HeatMap(mean[:height, :width], cell, finding.mpp)
