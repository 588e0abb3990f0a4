"""Planes of a DICOM file and their pixels; a plane is a slice, a frame or a mosaic tile."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medvit.dicom.checks import check
from medvit.dicom.direct.fast_dataset import FastDataset
from medvit.dicom.direct_read import read_native
from medvit.dicom.file import open_elements
from medvit.dicom.header import Header, header_of, load, read_elements
from medvit.dicom.pixels import Frame, decode, decode_frame, narrowed_frames
from medvit.errors import MedvitError, UnreadableError
from medvit.files.guard import decoding
from medvit.files.head import FileHead
from medvit.files.limits import check_allowed, is_uncompressed
from medvit.records import Item, Values
from medvit.series import frames, mosaic

if TYPE_CHECKING:
    from pydicom import Dataset

ALIGNMENT = 64
"""Bytes per cache line."""


def read_planes(path: Path, beginning: FileHead | None = None) -> tuple[Header, ...]:
    """Return a header for every plane of a file, without pixels; `beginning` is read if it is not given.

    Raises:
        NotAnImageError: If the file contains no image.
        UnreadableError: If the file cannot be read, or declares more pixels than it contains.
        GeometryError: If the file is a mosaic that lacks the position of its slices.
    """
    dataset = read_elements(path, beginning=beginning)
    header = header_of(dataset, path, None if beginning is None else beginning.size)
    return _planes(header, dataset, lambda tags: read_elements(path, tags, beginning))


def read_pixels(item: Item) -> list[tuple[Header, Frame]]:
    """Read the planes of an item and their pixels, in the order of the item.

    64-bit floating-point values are converted together (`measured.narrowed_together`).

    Raises:
        DataError: If a file cannot be read or has changed.
    """
    planes = _stored_pixels(item)
    return list(zip((plane for plane, _ in planes), narrowed_frames([frame for _, frame in planes]), strict=True))


def _stored_pixels(item: Item) -> list[tuple[Header, Frame]]:
    if item.headers:
        return list(zip(item.headers, _known_frames(item), strict=True))
    wanted: dict[int, list[int | None]] = defaultdict(list)
    for number, frame in item.frames or [(n, None) for n in range(len(item.files))]:
        wanted[number].append(frame)
    found: dict[tuple[int, int | None], tuple[Header, Frame]] = {}
    for number, chosen in wanted.items():
        for frame, plane in zip(chosen, _decoded(item.files[number], chosen, item.values, item.mapping), strict=True):
            found[number, frame] = plane
    return [found[place] for place in item.frames or [(n, None) for n in range(len(item.files))]]


def hash_pixels(path: Path) -> str | None:
    """Return the SHA-256 over the decoded pixels of a file and the meaning of its values; None if decoding fails.

    The hash is the same in any transfer syntax.
    """
    digest = hashlib.sha256()
    try:
        with decoding("the pixels"):
            decoded = _decoded(path, [plane.frame for plane in read_planes(path)])
    except MedvitError:  # reading will raise the error
        return None
    for _, frame in decoded:
        digest.update(repr((frame.pixels.dtype.str, frame.pixels.shape, frame.slope, frame.intercept)).encode())
        digest.update(frame.pixels.tobytes())
    return digest.hexdigest()


def _known_frames(item: Item) -> Iterator[Frame]:
    """Yield the frame of each file of an item, for single-frame files whose headers were read before."""
    packed = [header for header in item.headers if not is_uncompressed(header.transfer_syntax)]
    check_allowed(sum(map(_plane_bytes, packed)), sum(header.num_bytes for header in packed))
    # One buffer for all files: a buffer per file would be requested from the system, and zeroed by it, each time.
    places = _places(item.headers)
    room = np.empty(max(stop for _, stop in places), np.uint8).data
    for path, known, (start, stop) in zip(item.files, item.headers, places, strict=True):
        yield _known_frame(path, known, room[start:stop], item)


def _plane_bytes(plane: Header) -> int:
    """Return the number of bytes of a plane's decoded pixels."""
    return plane.rows * plane.columns * max(plane.samples, 1) * -(-max(plane.bits, 1) // 8)


def _places(headers: Sequence[Header]) -> list[tuple[int, int]]:
    """Return the start and end of each file's pixels in one buffer for all files.

    Compressed files occupy no bytes of the buffer.
    """
    lengths = [header.num_bytes if is_uncompressed(header.transfer_syntax) else 0 for header in headers]
    ends = list(accumulate(-(-length // ALIGNMENT) * ALIGNMENT for length in lengths))
    starts = [0, *ends[:-1]]
    fronts = [header.native.start for header in headers if header.native is not None]
    if len(fronts) == len(headers):
        # Pixels at equal distances are stacked without a copy; an odd number of lines keeps them off each other's
        # cache lines.
        front = -(-max(fronts) // ALIGNMENT) * ALIGNMENT
        behind = max(length - start for length, start in zip(lengths, fronts, strict=True))
        distance = ((front + behind) // ALIGNMENT + 1 | 1) * ALIGNMENT
        if distance * len(headers) <= 2 * ends[-1]:
            starts = [number * distance + front - start for number, start in enumerate(fronts)]
    return [(start, start + length) for start, length in zip(starts, lengths, strict=True)]


def _known_frame(path: Path, known: Header, room: memoryview, item: Item) -> Frame:
    found = read_native(path, known.native, room) if known.native is not None and item.values != "displayed" else None
    return decode(_as_known(path, known, room), item.values, item.mapping) if found is None else found


def _as_known(path: Path, known: Header, room: memoryview) -> FastDataset | Dataset:
    dataset = open_elements(path, room) if room else load(path)
    instance = dataset.get("SOPInstanceUID") or dataset.file_meta.get("MediaStorageSOPInstanceUID") or ""
    size = (dataset.get("Rows"), dataset.get("Columns"))
    if str(instance) != known.instance or size != (known.rows, known.columns):
        raise UnreadableError("the file changed after it was scanned; run the command again")
    return dataset


def _decoded(
    path: Path, chosen: Sequence[int | None], values: Values = "stored", mapping: str = ""
) -> list[tuple[Header, Frame]]:
    if None in chosen:
        dataset, planes = _open(path)
        if not is_uncompressed(planes[0].transfer_syntax):
            check_allowed(_plane_bytes(planes[0]), planes[0].num_bytes)
        return [(_plane(planes, 0), decode(dataset, values, mapping)) for _ in chosen]
    dataset, planes = _kept_open(path, path.stat().st_mtime_ns)
    if not is_uncompressed(planes[0].transfer_syntax):
        check_allowed(len(chosen) * _plane_bytes(planes[0]), planes[0].num_bytes)
    if planes[0].is_mosaic:
        whole = decode(dataset, values, mapping)
        return [(_plane(planes, n), mosaic.cut(whole, n or 0, planes[0].rows, planes[0].columns)) for n in chosen]
    return [(_plane(planes, n), decode_frame(dataset, n or 0, values, mapping)) for n in chosen]


def _open(path: Path) -> tuple[Dataset, tuple[Header, ...]]:
    dataset = load(path)
    return dataset, _planes(header_of(dataset, path), dataset, lambda _: dataset)


@lru_cache(maxsize=1)
def _kept_open(path: Path, changed_ns: int) -> tuple[Dataset, tuple[Header, ...]]:
    """Return the data set and headers of a multi-frame file.

    The result is cached, because the next requested volume is usually in the same file.
    """
    return _open(path)


def _planes(
    header: Header, dataset: FastDataset | Dataset, more: Callable[[tuple[int, ...]], FastDataset | Dataset]
) -> tuple[Header, ...]:
    """Return the headers of all planes of an instance: slices, frames or mosaic tiles.

    `more` reads additional elements from the file, which only multi-frame instances and mosaics require.
    """
    check(header)
    if header.is_mosaic:
        return mosaic.tiles(header, more(mosaic.TAGS))
    if "NumberOfFrames" not in dataset:
        return (header,)
    return frames.frames(header, more(frames.TAGS))


def _plane(planes: Sequence[Header], number: int | None) -> Header:
    if not 0 <= (number or 0) < len(planes):
        raise UnreadableError("the file has fewer frames than when it was scanned; run the command again")
    return planes[number or 0]
