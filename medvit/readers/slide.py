"""Reader of whole slides: it detects slide files; their regions are read through `medvit.wsi.slide`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from medvit.errors import MedvitError, UnreadableError, UnsupportedError
from medvit.files.guard import decoding, refusal
from medvit.readers.dicom_texts import file_texts
from medvit.readers.image import MAX_PIXELS
from medvit.readers.picture_texts import tiff_texts
from medvit.records import Extent, FileText, Item, Refusal
from medvit.types import Image
from medvit.wsi import dicom_backend
from medvit.wsi.openslide_backend import is_measure, maker_texts, vendor
from medvit.wsi.slide import LARGE, MODALITY, SUFFIXES, TIFF_MAGIC, open_slide
from medvit.wsi.tiff_backend import names_lost_page, opened, short_level

IN_FOLDERS = (".mrxs",)
"""Suffixes of slides whose data are in a folder of the same name."""
_DAY = re.compile(r"(\d{4}|\d{1,2})[-./](\d{1,2})[-./](\d{4}|\d{1,2})")
_NAMING = re.compile(r"(?i)([._ -]|^)(id|guid|uuid|name|barcode|label|accession|patient|case|title|user|operator)\b")
"""Pattern of the keys of vendor metadata whose values may be names or identifiers."""


@dataclass(frozen=True)
class SlideReader:
    """Reader of whole slides, which are read region by region, never as a whole."""

    name: str = "slide"

    def sniff(self, path: Path, head: bytes) -> bool:
        """Return whether the file has a slide suffix, is a DICOM slide, or is a tiled or multi-resolution TIFF."""
        if path.name.lower().endswith(SUFFIXES) or dicom_backend.claims(head):
            return True
        return head.startswith(TIFF_MAGIC) and _is_pyramid(path)

    def find(self, files: Sequence[Path]) -> Iterator[Item | Refusal]:
        """Yield an item per slide."""
        dicom = [file for file in files if dicom_backend.claims(_head(file))]
        yield from dicom_backend.series(dicom, self.name)
        for file in sorted(set(files) - set(dicom)):
            try:
                with decoding("the slide"):
                    _require_slide(file)
            except MedvitError as error:
                yield refusal((file,), error)
            else:
                yield Item(self.name, (file,), "slide", MODALITY)

    def texts(self, path: Path) -> Iterator[FileText]:
        """Yield the texts of a slide: of its DICOM file, its TIFF tags and its vendor's metadata.

        Raises:
            UnreadableError: If the slide format is not supported.
        """
        head = _head(path)
        if dicom_backend.claims(head):
            yield from file_texts(path)
            return
        if path.name.lower().endswith(IN_FOLDERS):
            yield from (_of_maker(f"mirax.{key}", value) for key, value in _index_of(path))
        if head.startswith(TIFF_MAGIC):
            yield from tiff_texts(path)
        elif not vendor(path):
            raise UnreadableError("named as a slide, but its bytes are not of a supported slide format")
        if vendor(path):
            yield from (_of_maker(key, value) for key, value in maker_texts(path).items())

    def extent(self, item: Item) -> Extent:
        """Return the size (H, W) at full resolution, and the pixel size there in microns."""
        slide = open_slide(item.files)
        try:
            return Extent(slide.shape, 3, 8, mpp=slide.mpp)
        finally:
            slide.close()

    def read(self, item: Item) -> Image:
        """Raise an error: a slide is read region by region, through `open_slide`.

        Raises:
            UnsupportedError: Always.
        """
        raise UnsupportedError(
            "the file is a whole slide; expected an ordinary image: ingest slides with `medvit ingest`, which reads "
            "them in tiles"
        )


def is_part_of_slide(path: Path) -> bool:
    """Return whether a file belongs to a slide in MRXS format.

    The data of such a slide are in a folder with the same name as the slide.
    """
    return any(path.parent.with_name(path.parent.name + suffix).is_file() for suffix in IN_FOLDERS)


def _index_of(path: Path) -> Iterator[tuple[str, str]]:
    """Yield keys and values of the text file that indexes the data of an MRXS slide."""
    index = path.with_suffix("") / "Slidedat.ini"
    if index.is_file():
        for line in index.read_text("utf-8-sig", errors="replace").splitlines():
            key, sign, value = line.partition("=")
            if sign and not is_measure(value.strip()):
                yield key.strip(), value.strip()


def _of_maker(key: str, value: str) -> FileText:
    place = f"slide {key}"
    match = _DAY.search(value)
    if match and "date" in key.casefold():
        year, month, day = match.groups() if len(match[1]) == 4 else match.groups()[::-1]
        return FileText(f"{year}{month:>02}{day:>02}", place, "date")
    return FileText(value, place, "name" if _NAMING.search(key) else "note")


def _head(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(512)


def _require_slide(file: Path) -> None:
    if not vendor(file) and not _head(file).startswith(TIFF_MAGIC):
        raise UnreadableError("named as a slide, but its bytes are not of a supported slide format")
    if _head(file).startswith(TIFF_MAGIC) and (wrong := short_level(file)) is not None:
        raise wrong


def _is_pyramid(path: Path) -> bool:
    """Return whether a TIFF has vendor tags, stores one image at several resolutions, or is too large for a photograph.

    A truncated tiled TIFF counts as a slide too, since the missing part may contain its other resolutions.
    """
    maker = vendor(path)
    if maker and maker != "generic-tiff":
        return True
    try:
        with decoding("the TIFF"), opened(path) as file:
            pages = [picture.keyframe for picture in file.series]
            if any(len(picture.levels) > 1 for picture in file.series):
                return True
            if any(page.imagewidth * page.imagelength > (LARGE if page.is_tiled else MAX_PIXELS) for page in pages):
                return True
            return bool(pages) and pages[0].is_tiled and names_lost_page(file)
    except MedvitError:
        return False  # the image reader reports the error


READER = SlideReader()
