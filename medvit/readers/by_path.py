"""Access to images by path, for use from Python: list the images in a folder or file, and read one."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from medvit import readers
from medvit.errors import DataError, NotAnImageError
from medvit.readers.channels import ChannelsConfig, combined
from medvit.readers.image_stack import StacksConfig
from medvit.readers.options import GeometryConfig, ValuesConfig
from medvit.records import Item, Refusal
from medvit.series.resampling import Geometry
from medvit.sources import folder
from medvit.types import Image

log = logging.getLogger("medvit")


def find(
    path: str | Path,
    *,
    geometry: GeometryConfig | Geometry = "refuse",
    stacks: StacksConfig | None = None,
    channels: ChannelsConfig | None = None,
) -> tuple[Item, ...]:
    """Return the images in a file, or in a folder and its subfolders, without reading pixels.

    Refused files are logged as warnings with the reason. `geometry`, `stacks` and `channels` mean the same
    as in `medvit ingest`.

    Raises:
        DataError: If the path does not exist, or the folder contains no files.
    """
    items, refusals = _found(path, geometry, stacks, channels)
    _warn(refusals)
    return items


def read(image: str | Path | Item, *, values: ValuesConfig | None = None) -> Image:
    """Read an image with its pixels: an item from `find`, or the only image in a file or folder.

    Other files in the folder that are not images are counted in a warning.

    `values` selects the pixel values if a DICOM file offers several kinds; `predictor.config.values` is the selection
    that a model was trained on. If `values` is unset, stored values are read.

    Raises:
        DataError: If the path does not contain exactly one image, if it contains unusable files that may belong to the
            image, or if the image cannot be read as requested.
    """
    item = image if isinstance(image, Item) else _only(image)
    found = readers.read(item if values is None else values.of(item))
    if found.fallback:
        raise DataError(
            f"the DICOM files lack the elements that {found.fallback} requires; omit values to read the stored pixel "
            "values"
        )
    return found


def _only(path: str | Path) -> Item:
    items, refusals = _found(path, "refuse", None, None)
    if len(items) > 1:
        raise DataError(
            f"the path contains {len(items)} images; expected one: list them with medvit.find(path) and read each"
        )
    others = [refusal for refusal in refusals if refusal.code == NotAnImageError.code]
    lost = [refusal for refusal in refusals if refusal not in others]
    if lost:
        reasons = "; ".join(dict.fromkeys(refusal.reason for refusal in lost))
        raise DataError(
            f"some files of the path were refused: {reasons}; medvit.find(path) lists the images that can be read"
        )
    if not items:
        raise DataError("the path contains no image of a supported format")
    _warn(others)
    return items[0]


def _warn(refusals: Iterable[Refusal]) -> None:
    for refusal in refusals:
        log.warning("%d files were refused (%s): %s", len(refusal.files), refusal.code, refusal.reason)


def _found(
    path: str | Path,
    geometry: GeometryConfig | Geometry,
    stacks: StacksConfig | None,
    channels: ChannelsConfig | None,
) -> tuple[tuple[Item, ...], tuple[Refusal, ...]]:
    local = folder.local(Path(path))
    found = list(combined(readers.find(local.files, geometry=geometry, stacks=stacks), channels, local.root))
    refusals = [*local.refusals, *(one for one in found if isinstance(one, Refusal))]
    return tuple(one for one in found if isinstance(one, Item)), tuple(refusals)
