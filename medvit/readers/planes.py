"""The planes of a DICOM file, one or many, and their pixels: what is alike for slices, frames and tiles of mosaics."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medvit.errors import UnreadableError
from medvit.readers import frames, mosaic
from medvit.readers.dicom_header import Header, check, header_of, load, read_elements
from medvit.readers.dicom_pixels import Frame, decode, decode_frame
from medvit.samples import Item, Values

if TYPE_CHECKING:
    pass

FUNCTIONAL_GROUPS = 0x5200_9230


def read_planes(path: Path) -> tuple[Header, ...]:
    """A header for every plane of a file, without pixels.

    Raises:
        NotAnImageError: If the file holds no image.
        UnreadableError: If it cannot be read, or claims more pixels than it can hold.
        GeometryError: If it is a mosaic and does not say where its slices lie.
    """
    dataset = read_elements(path)
    header = header_of(dataset, path)
    check(header)
    if header.is_mosaic:
        return mosaic.tiles(header, read_elements(path, mosaic.TAGS))
    if "NumberOfFrames" not in dataset:
        return (header,)
    return frames.frames(header, read_elements(path, frames.TAGS))


def read_pixels(item: Item) -> list[tuple[Header, Frame]]:
    """The planes of an item and their pixels, in the order of the item.

    Raises:
        DataError: One of its kinds, if a file cannot be read, or is no longer what it was.
    """
    wanted: dict[int, list[int | None]] = defaultdict(list)
    for number, frame in item.frames or [(n, None) for n in range(len(item.files))]:
        wanted[number].append(frame)
    found: dict[tuple[int, int | None], tuple[Header, Frame]] = {}
    for number, chosen in wanted.items():
        for frame, plane in zip(chosen, _decoded(item.files[number], chosen, item.values), strict=True):
            found[number, frame] = plane
    return [found[place] for place in item.frames or [(n, None) for n in range(len(item.files))]]


def hash_pixels(path: Path) -> str:
    """SHA-256 over the decoded pixels of a file and what their values mean: equal whatever the transfer syntax.

    Raises:
        UnreadableError: If the pixels cannot be decoded.
    """
    chosen = [plane.frame for plane in read_planes(path)]
    digest = hashlib.sha256()
    for _, frame in _decoded(path, chosen):
        digest.update(repr((frame.pixels.dtype.str, frame.pixels.shape, frame.slope, frame.intercept)).encode())
        digest.update(frame.pixels.tobytes())
    return digest.hexdigest()


def _decoded(path: Path, chosen: Sequence[int | None], values: Values = "stored") -> list[tuple[Header, Frame]]:
    dataset = load(path)
    header = header_of(dataset, path)
    check(header)
    if header.is_mosaic:
        tiles, whole = mosaic.tiles(header, dataset), decode(dataset)
        return [(_plane(tiles, n), mosaic.cut(whole, n or 0, tiles[0].rows, tiles[0].columns)) for n in chosen]
    if header.frames == 1 and FUNCTIONAL_GROUPS not in dataset:
        return [(header, decode(dataset, values)) for _ in chosen]
    planes = frames.frames(header, dataset)
    return [(_plane(planes, n), decode_frame(dataset, n or 0, values)) for n in chosen]


def _plane(planes: Sequence[Header], number: int | None) -> Header:
    if not 0 <= (number or 0) < len(planes):
        raise UnreadableError("the file has fewer frames than when it was found; find the files again")
    return planes[number or 0]
