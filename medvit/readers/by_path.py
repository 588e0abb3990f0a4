"""Images by path, for use from Python: list those in a folder or file, and read one."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from medvit import readers
from medvit.errors import DataError, NotAnImageError
from medvit.readers.image_stack import StacksConfig
from medvit.readers.options import GeometryConfig, ValuesConfig
from medvit.records import Item, Refusal
from medvit.series.resampling import Geometry
from medvit.sources import folder
from medvit.types import Image

log = logging.getLogger("medvit")


def find(
    path: str | Path, *, geometry: GeometryConfig | Geometry = "refuse", stacks: StacksConfig | None = None
) -> tuple[Item, ...]:
    """Return the images in a file, or in a folder and below it; reads no pixels.

    Refused files are logged as a warning with its reason. `geometry` and `stacks` are those of `medvit ingest`.

    Raises:
        DataError: If there is no such path, or no file below it.
    """
    items, refusals = _found(path, geometry, stacks)
    _warn(refusals)
    return items


def read(image: str | Path | Item, *, values: ValuesConfig | None = None) -> Image:
    """Return an image with its pixels: one that was found, or the only one of a file or folder.

    Files beside it that are not images are counted in a warning.

    `values` are those to read where a DICOM file offers several; `predictor.config.values` are those that a model was
    trained on. Unset: as stored.

    Raises:
        DataError: If the path holds no image, more than one, or files that cannot be taken and may belong to it; or if
            the image cannot be read as asked for.
    """
    item = image if isinstance(image, Item) else _only(image)
    found = readers.read(item if values is None else values.of(item))
    if found.fallback:
        raise DataError(f"the files lack what {found.fallback} needs; omit values to read them as stored")
    return found


def _only(path: str | Path) -> Item:
    items, refusals = _found(path, "refuse", None)
    if len(items) > 1:
        raise DataError(f"the path holds {len(items)} images; expected one: read each of medvit.find(path)")
    others = [refusal for refusal in refusals if refusal.code == NotAnImageError.code]
    lost = [refusal for refusal in refusals if refusal not in others]
    if lost:
        reasons = "; ".join(dict.fromkeys(refusal.reason for refusal in lost))
        raise DataError(
            f"files of the path cannot be taken: {reasons}; medvit.find(path) gives the images without them"
        )
    if not items:
        raise DataError("the path holds no image of a known format")
    _warn(others)
    return items[0]


def _warn(refusals: Iterable[Refusal]) -> None:
    for refusal in refusals:
        log.warning("%d files are not taken (%s): %s", len(refusal.files), refusal.code, refusal.reason)


def _found(
    path: str | Path, geometry: GeometryConfig | Geometry, stacks: StacksConfig | None
) -> tuple[tuple[Item, ...], tuple[Refusal, ...]]:
    local = folder.local(Path(path))
    found = list(readers.find(local.files, geometry=geometry, stacks=stacks))
    refusals = [*local.refusals, *(one for one in found if isinstance(one, Refusal))]
    return tuple(one for one in found if isinstance(one, Item)), tuple(refusals)
