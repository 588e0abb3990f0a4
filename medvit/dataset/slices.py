"""Slices cut from volumes on demand: a dataset of volumes is read as a dataset of 2D images, without a copy.

Only the stored chunks that a slice intersects are read. A slice has the patient, study, series, labels and label map of
its volume.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self

import numpy as np
from jaxtyping import Int, Num
from numpy import ndarray as Array
from pydantic import Field, model_validator

from medvit.config import Amount, Config
from medvit.dataset.manifest import Manifest
from medvit.dataset.store import Store
from medvit.errors import ConfigError
from medvit.records import Row
from medvit.types import Image

log = logging.getLogger("medvit")

Plane = Literal["axial", "coronal", "sagittal", "acquired"]
ACROSS = {"sagittal": 0, "coronal": 1, "axial": 2}
"""Plane -> axis of a volume (R, A, S) that is perpendicular to it, along which slices are counted."""


class SlicesConfig(Config):
    """Use of the slices of volumes as training images. `slices=axial` is short for `slices.planes=axial`."""

    planes: tuple[Plane, ...] = Field(default=("axial",), min_length=1)
    """Planes of the slices. The value acquired stands for the plane of the scan, which is perpendicular to the axis
    with the largest spacing. If no option in slices is set, whole volumes are used.
    """
    gap_mm: Amount = 0.0
    """Minimum distance in mm between the used slices of a volume, to avoid near duplicates. The value 0 uses every
    slice.
    """
    margin: float = Field(default=0.0, ge=0.0, lt=0.5)
    """Fraction of the slices to exclude at each end of a volume, where they often show only air."""
    neighbors: int = Field(default=0, ge=0, le=8)
    """Neighboring slices on each side to add as channels (2.5D): the value 1 gives three channels. At the ends of a
    volume, the outermost slice is repeated.
    """

    @model_validator(mode="before")
    @classmethod
    def _from_a_word(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"planes": [value]}
        return {"planes": value} if isinstance(value, list | tuple) else value

    def single(self) -> Self:
        """Return the config itself if it names exactly one plane.

        A model that predicts volumes slice by slice requires one plane.

        Raises:
            ConfigError: If the config names several planes.
        """
        if len(self.planes) > 1:
            raise ConfigError(f"slices.planes names {', '.join(self.planes)}; a slice model needs exactly one plane")
        return self

    def of(self, manifest: Manifest) -> Manifest:
        """Return a manifest whose volumes are replaced by their slices; rows of 2D images are unchanged."""
        if not any(row.kind == "volume" for row in manifest):
            log.warning("the option slices is ignored: %s has no volumes", manifest.folder)
            return manifest
        return replace(manifest, rows=tuple(part for row in manifest for part in self._parts(row)))

    def _parts(self, row: Row) -> Iterator[Row]:
        if row.kind != "volume":
            yield row
            return
        own = {field.name: getattr(row, field.name) for field in fields(Row)}
        own |= {"kind": "image", "affine": None, "spacing_mm": None}
        for across in dict.fromkeys(_across(plane, row.spacing_mm) for plane in self.planes):
            first, second = (axis for axis in range(3) if axis != across)
            channels = row.shape[0] * (2 * self.neighbors + 1)
            shape = (channels, row.shape[1 + second], row.shape[1 + first])
            own["neighbors"] = self.neighbors
            own["plane_mm"] = (row.spacing_mm[second], row.spacing_mm[first]) if row.spacing_mm else None
            for number in self._numbers(row, across):
                name = f"{row.image_id}.{across}.{number}"
                yield SliceRow(**own | {"shape": shape, "image_id": name}, across=across, number=number)

    def _numbers(self, row: Row, across: int) -> range:
        count = row.shape[1 + across]
        left_out = int(self.margin * count)
        spacing_mm = row.spacing_mm[across] if row.spacing_mm else math.inf
        step = max(1, math.ceil(self.gap_mm / spacing_mm - 1e-6))
        return range(left_out, count - left_out, step)


@dataclass(frozen=True)
class SliceRow(Row):
    """Slice of a stored volume, as a row of kind image. Its index along the volume axis `across` is `number`.

    Content addresses are those of the volume. Rows and columns are in display orientation: the top is A (axial) or S
    (coronal, sagittal); the left is R (axial, coronal) or A (sagittal).
    """

    across: int = 2
    number: int = 0
    neighbors: int = 0
    plane_mm: tuple[float, float] | None = None
    """Distance between rows and between columns, in mm."""


def stored_pixels(store: Store, row: Row) -> Num[Array, "c *s"]:
    """Return the pixels of a row in their stored type. For a slice, only the slice and its neighbors are read."""
    if not isinstance(row, SliceRow):
        return store.get(row.sha256)
    first, last = max(0, row.number - row.neighbors), row.number + row.neighbors + 1
    region = tuple(slice(first, last) if axis == row.across else slice(None) for axis in range(3))
    return _channels(store.get(row.sha256, (slice(None), *region)), row.across, row.number - first, row.neighbors)


def slices_of(image: Image, config: SlicesConfig) -> Iterator[Image]:
    """Yield every slice of a volume in order, as an image whose channels are the slice and its neighbors.

    `config` must name exactly one plane.
    """
    across = across_of(image, config)
    for number in range(image.pixels.shape[1 + across]):
        pixels = _channels(image.pixels, across, number, config.neighbors)
        yield replace(image, pixels=pixels, kind="image", affine=None, mask=None)


def stacked(planes: Sequence[Int[Array, "h w"]], across: int) -> Int[Array, "i j k"]:
    """Stack the label maps of all slices into a label map of the volume, in its original axis order.

    Slices are in display orientation; `across` is the axis of the volume along which they were cut.
    """
    return np.stack([plane.swapaxes(-1, -2)[::-1, ::-1] for plane in planes], axis=across)


def across_of(image: Image, config: SlicesConfig) -> int:
    """Return the axis of a volume (0 to 2) along which slices are cut, for the first plane in `config`."""
    spacing_mm = None if image.affine is None else image.affine.spacing_mm
    return _across(config.planes[0], spacing_mm)


def stored_mask(store: Store, row: Row) -> Int[Array, "*s"] | None:
    """Return the label map of a row; None without a label map. For a slice, only that slice is read."""
    if row.mask is None:
        return None
    if not isinstance(row, SliceRow):
        return store.get(row.mask)
    return _upright(store.get(row.mask, _region(row)), row.across)


def _region(row: SliceRow) -> tuple[slice, ...]:
    return tuple(slice(row.number, row.number + 1) if axis == row.across else slice(None) for axis in range(3))


def _channels(volume: Num[Array, "c i j k"], across: int, number: int, neighbors: int) -> Num[Array, "d h w"]:
    """Return a slice and its neighbors as channels, in order.

    Beyond the ends of the volume, the outermost slice is repeated.
    """
    last = volume.shape[1 + across] - 1
    numbers = [min(max(number + step, 0), last) for step in range(-neighbors, neighbors + 1)]
    return np.concatenate([_upright(volume.take([n], axis=1 + across), across) for n in numbers])


def _upright(part: Num[Array, "*c i j k"], across: int) -> Num[Array, "*c h w"]:
    """Return a slab as a 2D image in display orientation. It is one voxel thick along `across`, with axes R, A, S."""
    plane = part.squeeze(part.ndim - 3 + across)
    return np.ascontiguousarray(plane[..., ::-1, ::-1].swapaxes(-1, -2))


def _across(plane: Plane, spacing_mm: tuple[float, ...] | None) -> int:
    if plane != "acquired":
        return ACROSS[plane]
    return max((2, 1, 0), key=lambda axis: (spacing_mm or (1.0, 1.0, 1.0))[axis])
