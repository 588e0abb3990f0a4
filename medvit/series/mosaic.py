"""Siemens mosaics: the slices of a volume tiled into one image, and the position of each.

The position in the header is that of the mosaic's first pixel, as if the whole mosaic were one large slice with the
same center as the slices of the volume. The first pixel of a slice of the volume, which is a tile of the mosaic, is
therefore (mosaic - tile) / 2 pixels from this position in both directions. Only the private CSA header gives the number
of tiles with slices and the direction from the first slice to the others.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Num
from numpy import ndarray as Array

from medvit.dicom.header import Header
from medvit.dicom.pixels import Frame
from medvit.errors import GeometryError
from medvit.series.volume import axes_of

if TYPE_CHECKING:
    from pydicom import Dataset

SLICE_GAP = "SpacingBetweenSlices"
CSA_CREATOR, CSA_GROUP, CSA_IMAGE = "SIEMENS CSA HEADER", 0x0029, 0x10
MR_CREATOR, MR_GROUP, MR_NUM_IMAGES = "SIEMENS MR HEADER", 0x0019, 0x0A
TAGS = (0x0018_0088, 0x0019_0010, 0x0019_100A, 0x0029_0010, 0x0029_0011, 0x0029_1010, 0x0029_1110)
"""Elements read from mosaics only, in the two private blocks that Siemens reserves."""


def tiles(header: Header, dataset: Dataset) -> tuple[Header, ...]:
    """Return one header per slice of a mosaic, in the order of the tiles; `frame` is the index of the tile.

    Raises:
        GeometryError: If the header lacks the number, the direction or the position of the slices.
    """
    csa = _csa(dataset)
    num_slices = _num_slices(dataset, csa)
    side = math.ceil(math.sqrt(num_slices))
    if header.rows % side or header.columns % side:
        raise GeometryError(
            f"a Siemens mosaic of {header.rows} x {header.columns} pixels cannot be divided into {side} x {side} equal "
            "tiles"
        )
    if header.position_mm is None or header.orientation is None or header.spacing_mm is None:
        raise GeometryError("a Siemens mosaic without position, orientation or pixel spacing; its position is unknown")
    rows, columns = header.rows // side, header.columns // side
    row, column, normal = axes_of(header.orientation)
    row_spacing, column_spacing = header.spacing_mm
    first = np.array(header.position_mm)
    first = first + row * column_spacing * (header.columns - columns) / 2.0
    first = first + column * row_spacing * (header.rows - rows) / 2.0
    step = _step_mm(dataset, csa, normal)
    return tuple(
        replace(
            header,
            rows=rows,
            columns=columns,
            frame=number,
            position_mm=tuple(float(part) for part in first + number * step),
        )
        for number in range(num_slices)
    )


def is_open(dataset: Dataset) -> bool:
    """Return whether a mosaic states the number and direction of its slices, so that it can be split."""
    try:
        csa = _csa(dataset)
        return _num_slices(dataset, csa) > 0 and len(csa.get("SliceNormalVector", ())) == 3
    except GeometryError:
        return False


def is_closed(dataset: Dataset) -> bool:
    """Return whether a file is a mosaic that lacks the elements required to split it."""
    return "MOSAIC" in (dataset.get("ImageType") or ()) and not is_open(dataset)


def cut(frame: Frame, number: int, rows: int, columns: int) -> Frame:
    """Return the tile of slice `number`, of `rows` x `columns` pixels; tiles fill the mosaic row by row."""
    across = frame.pixels.shape[-1] // columns
    top, left = number // across * rows, number % across * columns
    return replace(frame, pixels=np.ascontiguousarray(frame.pixels[:, top : top + rows, left : left + columns]))


def _csa(dataset: Dataset) -> dict[str, list[Any]]:
    """Return the non-empty tags of the CSA image header."""
    from nibabel.nicom import csareader

    content = _private(dataset, CSA_GROUP, CSA_CREATOR, CSA_IMAGE)
    if not isinstance(content, bytes) or not content:
        raise GeometryError(
            "a Siemens mosaic without its private CSA header (0029,xx10), as after de-identification; "
            "which tiles are slices is unknown: export it with private elements, or as one slice per instance"
        )
    try:
        read = csareader.read(content)
    except (csareader.CSAReadError, ValueError, IndexError, UnicodeDecodeError):
        raise GeometryError("a Siemens mosaic whose CSA header (0029,xx10) cannot be read") from None
    return {name: tag["items"] for name, tag in read["tags"].items() if tag["items"]}


def _num_slices(dataset: Dataset, csa: dict[str, list[Any]]) -> int:
    numbers = csa.get("NumberOfImagesInMosaic") or [_private(dataset, MR_GROUP, MR_CREATOR, MR_NUM_IMAGES)]
    try:
        number = int(numbers[0])
    except (TypeError, ValueError):
        number = 0
    if number < 1:
        raise GeometryError("a Siemens mosaic whose CSA header has no NumberOfImagesInMosaic")
    return number


def _step_mm(dataset: Dataset, csa: dict[str, list[Any]], normal: Num[Array, "3"]) -> Num[Array, "3"]:
    direction = csa.get("SliceNormalVector", ())
    gap_mm = dataset.get(SLICE_GAP)
    if len(direction) != 3 or gap_mm is None:
        lacking = "SliceNormalVector in its CSA header" if len(direction) != 3 else "(0018,0088) SpacingBetweenSlices"
        raise GeometryError(f"a Siemens mosaic without {lacking}; the position of its slices is unknown")
    along = float(np.dot(np.array(direction, dtype=float), normal))
    if abs(abs(along) - 1.0) > 0.01:
        raise GeometryError("a Siemens mosaic whose SliceNormalVector is not perpendicular to its slices")
    return normal * math.copysign(float(gap_mm), along)


def _private(dataset: Dataset, group: int, creator: str, element: int) -> Any:
    try:
        return dataset.private_block(group, creator)[element].value
    except KeyError:
        return None
