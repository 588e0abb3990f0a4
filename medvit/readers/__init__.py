"""Readers of image formats, one per file; a reader refuses a file with a reason rather than guess.

A format is a module of this package, or of another package that extends it (`medvit.registry`), with a constant
`READER`. A reader *sniffs* a file by its name and its first 512 bytes, *finds* the images in files of its format
without reading pixels, yields the *texts* that a file contains in addition to pixels, and *reads* one image: volumes
(C, I, J, K) in RAS+ order with an affine in mm, pixels in their stored type with `slope`, `intercept` and `unit`. LPS
coordinates do not leave this package. To add a reader, add a file and its test (docs/how-to/add-a-reader.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Bool
from numpy import ndarray as Array

from medvit.errors import DataError, NotAnImageError, UnreadableError
from medvit.files.guard import decoding
from medvit.files.head import FileHead, read_head
from medvit.geometry import check_grid
from medvit.readers.fields_of_view import fields_among, inside, pair_fields
from medvit.readers.image_stack import Slices, StacksConfig, stacked
from medvit.readers.label_maps import LabelMap, attach, pair_masks
from medvit.readers.options import GeometryConfig
from medvit.records import Extent, FileText, Item, Refusal
from medvit.registry import occupants
from medvit.series.resampling import Geometry
from medvit.types import Image

VERSION = 4
"""Version of this package. Increment it if the values read from a file change: an update of a dataset then rereads the
files.
"""
HEAD_BYTES = 512
"""Bytes of a file that a reader sees to decide whether it recognizes the format."""
FIRST = "slide"
"""Format that is tried before all others."""


@runtime_checkable
class Reader(Protocol):
    """Reader of one file format, or of a family of formats."""

    name: str

    def sniff(self, path: Path, head: bytes) -> bool:
        """Return whether the file appears to be of this format, by its first `HEAD_BYTES` bytes or its suffix."""

    def find(self, files: Sequence[Path]) -> Iterator[Item | Refusal]:
        """Find the images in files of this format without reading pixels.

        Each file is part of items, or of a refusal.
        """

    def read(self, item: Item) -> Image:
        """Read the pixels of one image.

        Raises:
            DataError: If the pixels or their geometry contradict the header.
        """

    def texts(self, path: Path) -> Iterator[FileText]:
        """Yield every free text and identifier that a file of this format can contain, even those unused by `read`.

        Raises:
            DataError: If some texts cannot be read; readable texts are yielded first.
        """


@runtime_checkable
class MaskReader(Protocol):
    """Reader of a format whose files may be label maps of other images."""

    def read_mask(self, path: Path, image: Item | None = None) -> LabelMap:
        """Read the label map in a file, without scaling. If the file has an affine, the result is in RAS+ order.

        If the file does not define its grid, the geometry options that were given for `image` are used.
        """


@runtime_checkable
class SizedReader(Protocol):
    """Reader of a format whose header gives the size of an image."""

    def extent(self, item: Item) -> Extent:
        """Return size and spacing of an image, from its header alone.

        Raises:
            DataError: If the header does not give size and spacing.
        """


@runtime_checkable
class GridReader(Protocol):
    """Reader of a format in which a file may define its grid twice, or not at all."""

    def with_grid(self, grid: GeometryConfig) -> Reader:
        """Return the same reader with options for files that define their grid twice, or not at all."""


@runtime_checkable
class SeriesReader(Protocol):
    """Reader of a format where several files form one image.

    `look` reads the headers of each file, in any process; `join` then forms the images.
    """

    header_type: type
    """Type of the header of a plane: a frozen dataclass of plain values, with the path of the file in `file`."""

    def look(self, path: Path, beginning: FileHead) -> Sequence[Any] | Refusal:
        """Return the headers of the planes in a file, or a refusal; `beginning` has the first bytes of the file."""

    def join(self, headers: Sequence[Any]) -> Iterator[Item | Refusal]:
        """Yield the images that the planes with these headers form, and the refusals."""

    def with_geometry(self, geometry: Geometry) -> SeriesReader:
        """Return the same reader, with `geometry` as the handling of slices that do not form a regular grid."""


@dataclass(frozen=True)
class ScannedFile:
    """Result of scanning a file: the name of its reader.

    If files of this format can form one image together, the result also has the headers of the planes in the file, or
    the reason why the file is refused.
    """

    path: Path = field(repr=False)
    reader: str = ""
    headers: tuple[Any, ...] = field(default=(), repr=False)
    refusal: Refusal | None = field(default=None, repr=False)


ScanFiles = Callable[[Sequence[Path]], Iterable[ScannedFile]]
"""Function that scans files and returns the results in their order; it may use several processes or a cache."""


def readers() -> tuple[Reader, ...]:
    """Return all readers, slides first, then by name. A file is read by the first reader whose `sniff` accepts it."""
    return _slides_first(occupants(__name__, "READER"))


@cache
def _slides_first(found: tuple[Reader, ...]) -> tuple[Reader, ...]:
    # A slide is a TIFF or DICOM by its first bytes, so it is looked for before those.
    return tuple(sorted(found, key=lambda reader: (reader.name != FIRST, reader.name)))


def reader(name: str) -> Reader:
    """Return the reader with a given name, as in `Item.reader`.

    Raises:
        DataError: If no reader has this name, for example for an item found by another version of medvit.
    """
    for known in readers():
        if known.name == name:
            return known
    raise DataError(f"no reader is named {name!r}; known are {', '.join(known.name for known in readers())}")


def scan_file(path: Path, beginning: FileHead | None = None) -> ScannedFile:
    """Detect the format of a file, and read its headers if files of the format form series.

    If `beginning` is not given, it is read from the file.
    """
    if beginning is None:
        try:
            beginning = read_head(path)
        except OSError as error:
            return ScannedFile(path, refusal=_unopened(path, error))
    known = _sniff(path, beginning)
    if isinstance(known, Refusal):
        return ScannedFile(path, refusal=known)
    series_reader = _series_readers().get(known.name)
    if series_reader is None:
        return ScannedFile(path, known.name)
    seen = series_reader.look(path, beginning)
    if isinstance(seen, Refusal):
        return ScannedFile(path, known.name, refusal=seen)
    return ScannedFile(path, known.name, tuple(seen))


def scan_each(files: Sequence[Path]) -> Iterator[ScannedFile]:
    """Scan files one after the other, in this process."""
    return map(scan_file, files)


def find(
    files: Sequence[Path],
    *,
    geometry: GeometryConfig | Geometry = "refuse",
    look: ScanFiles = scan_each,
    stacks: StacksConfig | None = None,
    mask_folder: Sequence[str] = (),
    field_of_view_folder: Sequence[str] = (),
) -> Iterator[Item | Refusal]:
    """Find the images in files with their label maps, and the refused files with reasons.

    Every file is in an item or a refusal.

    `geometry` decides whether images that do not form a regular grid are refused, resampled to one, or kept as 2D
    images. With `stacks`, the 2D images of a folder form one volume. A multi-frame file may be part of several items.
    Label maps are in folders whose names are in `mask_folder`, or next to their images as `medvit.readers.label_maps`
    defines. Fields of view of images are in folders whose names are in `field_of_view_folder`; every image with a label
    map then needs one.
    """
    folders = mask_folder, field_of_view_folder
    yield from stacked(_each(files, GeometryConfig.of(geometry), look, *folders), stacks)


def _each(
    files: Sequence[Path],
    geometry: GeometryConfig,
    look: ScanFiles,
    mask_folder: Sequence[str],
    field_of_view_folder: Sequence[str],
) -> Iterator[Item | Refusal]:
    groups: dict[str, list[Path]] = {known.name: [] for known in readers()}
    headers: dict[str, list[Any]] = {known.name: [] for known in readers()}
    for seen in look(sorted(dict.fromkeys(files), key=lambda file: file.parts)):  # as paths, which compare slowly
        if seen.refusal is not None:
            yield seen.refusal
        elif seen.headers:
            headers[seen.reader] += seen.headers
        else:
            groups[seen.reader].append(seen.path)
    pairable = [file for known in readers() if isinstance(known, MaskReader) for file in groups[known.name]]
    fields = fields_among(pairable, field_of_view_folder)
    pairing = pair_masks(sorted(set(pairable) - fields), mask_folder)
    images = [file for file in pairable if file not in fields | pairing.label_maps]
    seen_parts = pair_fields(images, fields, field_of_view_folder)
    yield from (*pairing.refused, *seen_parts.refused)
    for known in readers():
        if known.name in _series_readers():
            joining = _series_readers()[known.name].with_geometry(geometry.irregular)
            yield from joining.join(headers.pop(known.name))
            continue
        asked = known.with_grid(geometry) if isinstance(known, GridReader) else known
        no_images = pairing.label_maps | fields
        for found in asked.find([file for file in groups[known.name] if file not in no_images]):
            with_mask = _with_mask(found, pairing.masks.get(found.files[0]))
            yield _with_field(with_mask, seen_parts.masks.get(found.files[0])) if fields else with_mask


def read(item: Item) -> Image:
    """Read the pixels of an image, and its label map if it has one.

    Raises:
        DataError: If the pixels cannot be used; the message names neither a path nor a patient.
    """
    with decoding(f"the {item.kind}"):
        image = reader(item.reader).read(item)
        if image.affine is not None:
            check_grid(image.affine, image.pixels.shape)
    return with_mask(image, item)


def with_mask(image: Image, item: Item) -> Image:
    """Return the image of an item with the label map of the item, if it has one.

    Raises:
        DataError: If the label map cannot be used.
    """
    if item.mask is None:
        return image
    labels = _read_mask(item.mask, item)
    with decoding("the label map"):
        return attach(image, labels)


def extent(item: Item) -> Extent | None:
    """Return size and spacing of an image without reading its pixels; None if its format has no such header.

    Raises:
        DataError: If the header does not give size and spacing.
    """
    known = reader(item.reader)
    if not isinstance(known, SizedReader):
        return None
    with decoding(f"the header of the {item.kind}"):
        return known.extent(item)


def read_masks(item: Item) -> list[LabelMap]:
    """Read the stored label maps of an image.

    The list has no label map, one, or, for a stack of 2D images, one per image of the stack.

    Raises:
        DataError: If the pixels cannot be used; the message names neither a path nor a patient.
    """
    return [_read_mask(file, item) for file in mask_files(item)]


def read_field(item: Item, image: Image) -> Bool[Array, "*s"] | None:
    """Return which pixels of an image are inside its field of view; None if it has no file of it.

    Raises:
        DataError: If the file cannot be used; the message names neither a path nor a patient.
    """
    if item.field_of_view is None:
        return None
    try:
        stored = _read_mask(item.field_of_view, item)
    except DataError as error:
        raise DataError(f"the file of the field of view cannot be read as a label map: {error}") from None
    with decoding("the field of view"):
        return inside(image, stored)


def mask_files(item: Item) -> tuple[Path, ...]:
    """Return the files of the label maps of an image."""
    if item.mask is not None:
        return (item.mask,)
    return tuple(file for known in item.headers if isinstance(known, Slices) for file in known.masks)


def _read_mask(path: Path, item: Item) -> LabelMap:
    with decoding("the label map"):
        known = _sniff(path, read_head(path))
    if not isinstance(known, MaskReader):
        raise UnreadableError("the format of the label map does not support label maps")
    with decoding("the label map"):
        return known.read_mask(path, item)


def texts(path: Path) -> Iterator[FileText]:
    """Yield the texts that a file contains in addition to pixels, using the reader of its format.

    Raises:
        NotAnImageError: If no reader recognizes the format.
        DataError: If some texts cannot be read; readable texts are yielded first.
    """
    with decoding("the texts of a file"):
        beginning = read_head(path)
        if not beginning.content:
            return
        known = _sniff(path, beginning)
        if isinstance(known, Refusal):
            raise NotAnImageError(known.reason)
        yield from known.texts(path)


def _series_readers() -> dict[str, SeriesReader]:
    return _of_series(readers())


@cache
def _of_series(known: tuple[Reader, ...]) -> dict[str, SeriesReader]:
    return {one.name: one for one in known if isinstance(one, SeriesReader)}


def _unopened(file: Path, error: OSError) -> Refusal:
    return Refusal((file,), UnreadableError.code, f"the file cannot be opened: {error.strerror}")


def _sniff(file: Path, beginning: FileHead) -> Reader | Refusal:
    head = beginning.content[:HEAD_BYTES]
    if not head:
        return Refusal((file,), UnreadableError.code, "the file is empty")
    known = next((known for known in readers() if known.sniff(file, head)), None)
    return known or Refusal((file,), NotAnImageError.code, "neither its name nor its first bytes show a known format")


def _with_mask(found: Item | Refusal, mask: Path | None) -> Item | Refusal:
    if mask is None:
        return found
    if isinstance(found, Item):
        return replace(found, mask=mask)
    return replace(found, files=(*found.files, mask), reason=f"{found.reason} (its label map is excluded with it)")


def _with_field(found: Item | Refusal, field: Path | None) -> Item | Refusal:
    """Return an item with its field of view; an item that has a label map but no field of view is refused."""
    if isinstance(found, Refusal):
        return found if field is None else replace(found, files=(*found.files, field))
    if field is None and found.mask is not None:
        reason = "the image has a label map but no field of view in the folders of scanning.field_of_view_folder"
        return Refusal((*found.files, found.mask), DataError.code, f"{reason}; add the file, or remove the label map")
    return replace(found, field_of_view=field)
