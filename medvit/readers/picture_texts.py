"""Texts in files of 2D images: EXIF, XMP, IPTC, comments, text chunks of PNG, and the tags of all pages of a TIFF."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from html import unescape
from pathlib import Path
from typing import Any

from medvit.readers.dicom_texts import texts
from medvit.records import FileText
from medvit.wsi.tiff_backend import opened

MAX_XML = 2**24
"""Maximum number of characters of XML that are read."""
MAX_PAGES = 1000
"""Maximum number of pages of a TIFF whose tags are read."""

SUB_DIRECTORIES = (0x8769, 0x8825)
"""EXIF directories of exposure and GPS (CIPA DC-008, 4.6.3)."""
EXIF_DATES = (0x0132, 0x9003, 0x9004, 0x001D)
EXIF_WIDE = range(0x9C9B, 0x9CA0)
"""EXIF tags of title, comment, author, keywords and subject, which Windows writes in UTF-16."""
EXIF_HARMLESS = frozenset((0x010F, 0x0110, 0x0131, 0x9000, 0xA000, 0xA433, 0xA434))
"""EXIF tags that cannot name a person: makers, models, programs, and versions of the format."""
CHARACTER_CODE_BYTES = 8
"""Length of the character code before an EXIF UserComment."""
USER_COMMENT = 0x9286

IPTC_DATES = ((2, 30), (2, 55), (2, 62))
IPTC_HARMLESS = ((1, 90), (2, 0), (2, 65), (2, 70))
"""IPTC entries that cannot name a person: character set, version of the record, program and its version (IPTC-IIM 4.2).
"""

_TECHNICAL = """
exif icc_profile version compression transparency background extension adobe photoshop dpi gamma srgb jfif jfif_version
jfif_unit jfif_density progressive progression interlace duration loop chromaticity software mp mpoffset adobe_transform
bits xmp
"""
XMP_TAG, ICC_TAG, TABLES_TAG = 700, 34675, 347
BINARY_TAGS = (ICC_TAG, TABLES_TAG, 33723)
"""Binary TIFF tags that are not searched for texts: color profile, JPEG tables, and IPTC, which is read separately."""
NOT_NOTES = frozenset(_TECHNICAL.split())
"""Entries of Pillow's `info` that are not notes, or are read separately."""

READ_APART = (b"JFIF", b"Exif", b"http://ns.adobe.com/xap", b"ICC_PROFILE", b"MPF", b"Photoshop", b"Adobe", b"Ducky")
"""Prefixes of JPEG application data that is not searched for texts here: decoders need it, or Pillow reads it."""

_XML_TEXT = re.compile(r">([^<>]*\w[^<>]*)<|=\s*[\"']([^\"'<>]*\w[^\"'<>]*)[\"']")


def picture_texts(path: Path, formats: tuple[str, ...]) -> Iterator[FileText]:
    """Yield the texts of an image in a format that Pillow reads; for a damaged image, as many as can be read.

    Raises:
        DataError: If the image cannot be opened, or if its end, which may contain texts, cannot be read.
    """
    from PIL import Image as Pillow

    with Pillow.open(path, formats=formats) as picture:
        exif = picture.getexif()
        yield from _exif(exif)
        for directory in SUB_DIRECTORIES:
            yield from _exif(exif.get_ifd(directory))
        yield from _iptc(picture)
        yield from _notes(picture.info)
        yield from xml_texts(picture.info.get("xmp"))
        if picture.format in ("JPEG", "MPO"):
            yield from _segments(getattr(picture, "applist", ()))
        if picture.format == "PNG":
            picture.load()  # texts may follow the pixels
            yield from _notes(picture.info)
            yield from xml_texts(picture.info.get("xmp"))
        if picture.format == "TIFF":
            yield from tiff_texts(path)


def tiff_texts(path: Path) -> Iterator[FileText]:
    """Yield the texts in the tags of all pages of a TIFF."""
    with opened(path) as file:
        for page in file.pages[:MAX_PAGES]:
            for tag in page.tags:
                yield from _tiff_tag(tag.code, tag.value, tag.name)


def _tiff_tag(code: int, value: Any, name: str) -> Iterator[FileText]:
    place = f"TIFF {name}"
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _tiff_tag(0, inner, str(key))
    elif isinstance(value, str):
        if code in EXIF_DATES:
            yield day(value, place)
        elif value.lstrip().startswith("<"):
            yield from xml_texts(value)
        elif code not in EXIF_HARMLESS:
            yield note(value, place)
    elif code == XMP_TAG and isinstance(value, bytes):
        yield from xml_texts(value)
    elif isinstance(value, bytes) and code not in BINARY_TAGS:
        yield from (note(text, place) for text in texts(value))


def note(text: str, place: str) -> FileText:
    """Return a record of a free text found at `place`."""
    return FileText(text.strip(), place)


def name(text: str, place: str) -> FileText:
    """Return a record of a name or identifier found at `place`."""
    return FileText(text.strip(), place, "name")


def day(text: str, place: str) -> FileText:
    """Return a record of a date (the first eight digits of `text`, as YYYYMMDD) found at `place`."""
    return FileText(re.sub(r"\D", "", text)[:8], place, "date")


def _segments(segments: Iterable[tuple[str, bytes]]) -> Iterator[FileText]:
    """Yield comments and application data of a JPEG, except EXIF, XMP and others that are read separately."""
    for marker, content in segments:
        if not content.startswith(READ_APART):
            yield from (note(text, f"{marker} of a JPEG") for text in texts(content))


def _exif(tags: Mapping[int, Any]) -> Iterator[FileText]:
    for tag, value in tags.items():
        place = f"EXIF {tag:#06x}"
        for text in _exif_texts(tag, value):
            if tag in EXIF_DATES:
                yield day(text, place)
            elif text.strip() and tag not in EXIF_HARMLESS:
                yield note(text, place)


def _exif_texts(tag: int, value: Any) -> Iterable[str]:
    if tag in EXIF_WIDE and isinstance(value, bytes | tuple):
        return [bytes(value).decode("utf-16-le", "replace").strip("\0")]
    if tag == USER_COMMENT and isinstance(value, bytes) and value.startswith(b"UNICODE"):
        wide = value[CHARACTER_CODE_BYTES:]
        return [wide.decode(code, "replace").strip("\0") for code in ("utf-16-le", "utf-16-be")]
    if isinstance(value, str | bytes):
        return texts(value)
    return ()


def _iptc(picture: Any) -> Iterator[FileText]:
    from PIL.IptcImagePlugin import getiptcinfo

    for record, held in (getiptcinfo(picture) or {}).items():
        place = f"IPTC {record[0]}:{record[1]:03d}"
        for content in held if isinstance(held, list) else [held]:
            text = content.decode("utf-8", "replace")
            if record in IPTC_DATES:
                yield day(text, place)
            elif record not in IPTC_HARMLESS:
                yield name(text, place)


def _notes(notes: Mapping[Any, Any]) -> Iterator[FileText]:
    for key, value in notes.items():
        if isinstance(value, str | bytes) and str(key).lower() not in NOT_NOTES:
            if str(key).lower().startswith("raw profile type"):  # in hex, as ImageMagick writes it, after a length
                value = bytes.fromhex("".join(str(value).split()[2:]))
            elif str(key).lower() == "xml:com.adobe.xmp":
                yield from xml_texts(value)
                continue
            yield from (note(text, "a note in a picture") for text in texts(value))


def xml_texts(packet: bytes | str | None) -> Iterator[FileText]:
    """Yield the texts and attributes of an XML packet such as XMP."""
    if not packet:
        return
    whole = packet.decode("utf-8", "replace") if isinstance(packet, bytes) else packet
    for match in _XML_TEXT.finditer(whole[:MAX_XML]):
        text = unescape(match[1] or match[2])
        if "://" not in text:
            yield note(text, "XMP")
            if re.match(r"\d{4}-\d\d-\d\d(T|$)", text.strip()):
                yield day(text, "XMP")
