"""What files that are no DICOM say beside their pixels: tables, JSON, header fields of volumes, notes in pictures.

Programs write names and dates there: the descrip of a NIfTI, the extensions behind its header (of which one kind is a
whole DICOM header), comments of MetaImage and NRRD, EXIF, XMP and IPTC of photographs, the texts of a PNG.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from html import unescape
from pathlib import Path
from typing import Any

from medvit.deidentification.identifiers import KEPT, MAX_BINARY, STRICT, IdentifyingValue, is_personal, texts, values
from medvit.deidentification.profile import CLEANED
from medvit.errors import MedvitError
from medvit.files.guard import decoding
from medvit.readers import itk, itk_header, nifti
from medvit.readers.image import FORMATS

CELL = "a cell of a table"

DICOM_EXTENSION = 2
"""Code of a NIfTI extension that holds DICOM elements."""
_FREE_FIELDS = ("descrip", "intent_name")
_NAMING_FIELDS = ("db_name", "aux_file", "patient_id", "scannum", "originator", "generated")
"""Of NIfTI, and of Analyze before it."""

SUB_DIRECTORIES = (0x8769, 0x8825)
"""Where EXIF has the exposure and the place (CIPA DC-008, 4.6.3)."""
EXIF_DATES = (0x0132, 0x9003, 0x9004, 0x001D)
EXIF_WIDE = range(0x9C9B, 0x9CA0)
"""Title, comment, author, keywords and subject as Windows writes them, in UTF-16."""
EXIF_HARMLESS = frozenset((0x010F, 0x0110, 0x0131, 0x9000, 0xA000, 0xA433, 0xA434))
"""Makers, models, programs, and versions of the format."""
CHARACTER_CODE_BYTES = 8
"""How long the name of the character code before an EXIF UserComment is."""
USER_COMMENT = 0x9286

IPTC_DATES = ((2, 30), (2, 55), (2, 62))
IPTC_HARMLESS = ((1, 90), (2, 0), (2, 65), (2, 70))
"""Character set, version of the record, and the program with its version (IPTC-IIM 4.2)."""

_TECHNICAL = """
exif icc_profile version compression transparency background extension adobe photoshop dpi gamma srgb jfif jfif_version
jfif_unit jfif_density progressive progression interlace duration loop chromaticity software mp mpoffset adobe_transform
bits xmp
"""
NOT_NOTES = frozenset(_TECHNICAL.split())
"""What Pillow tells of a picture that is no note, or is read apart."""

_XML_TEXT = re.compile(r">([^<>]*\w[^<>]*)<|=\s*[\"']([^\"'<>]*\w[^\"'<>]*)[\"']")
_HEADER_LINE = re.compile(r"#\s*(?P<comment>.+)|(?P<key>[\w .-]+?)\s*(?::=|:|=)\s*(?P<value>.+)")
_GRID = """
objecttype ndims binarydata binarydatabyteordermsb compresseddata compresseddatasize transformmatrix offset
centerofrotation anatomicalorientation elementspacing elementsize dimsize elementtype elementnumberofchannels elementmin
elementmax headersize elementbyteordermsb elementdatafile orientation origin position rotation modality type dimension
sizes spacings kinds endian encoding space centerings thicknesses labels units spaceunits spacedirections spaceorigin
measurementframe spacedimension lineskip byteskip axismins axismaxs datafile
"""
FIELDS_OF_THE_GRID = frozenset(_GRID.split())
"""Fields of MetaImage and NRRD, without spaces, that tell of the grid alone."""


def embedded(file: Path, head: bytes) -> Iterator[IdentifyingValue]:
    """The texts of a file that is no DICOM, of which `head` are the first bytes; of a damaged file what can be read."""
    name = file.name.lower()
    if name.endswith(".csv"):
        yield from _until_an_error(_cells(file))
    elif name.endswith(".json"):
        yield from _until_an_error(_of_json(file))
    elif name.endswith((*itk.HEADERS, ".nrrd.gz")) or head.startswith(b"NRRD000"):
        yield from _until_an_error(_of_itk(file))
    elif name.endswith((".hdr", ".hdr.gz")) or nifti.READER.sniff(file, head):
        yield from _until_an_error(_of_nifti(file))
    else:
        yield from _until_an_error(_of_picture(file))


def _until_an_error(found: Iterator[IdentifyingValue]) -> Iterator[IdentifyingValue]:
    try:
        with decoding("the texts of a file"):
            yield from found
    except MedvitError:
        return


def _note(text: str, place: str) -> IdentifyingValue:
    return IdentifyingValue(text.strip(), place, "", is_descriptor=True)


def _name(text: str, place: str) -> IdentifyingValue:
    return IdentifyingValue(text.strip(), place, "", is_descriptor=False)


def _day(text: str, place: str) -> IdentifyingValue:
    return IdentifyingValue(re.sub(r"\D", "", text)[:8], place, "DA", is_descriptor=False)


def _cells(file: Path) -> Iterator[IdentifyingValue]:
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        header = stream.readline()
        stream.seek(0)
        for line in csv.DictReader(stream, delimiter=max(",;\t", key=header.count)):
            for column, cell in line.items():
                if isinstance(column, str) and isinstance(cell, str) and is_personal(column.strip()):
                    yield _name(cell, CELL)


def _of_json(file: Path) -> Iterator[IdentifyingValue]:
    yield from _fields(json.loads(file.read_bytes()), "")


def _fields(value: Any, key: str) -> Iterator[IdentifyingValue]:
    """Of JSON, as converters name them: a keyword of DICOM says whether the profile keeps it, else its name tells."""
    from pydicom.datadict import dictionary_VR, tag_for_keyword

    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _fields(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from _fields(inner, key)
    elif isinstance(value, str | int) and not isinstance(value, bool):
        tag, place = tag_for_keyword(key), f"JSON {key}"
        vr = dictionary_VR(tag) if tag is not None else ""
        if vr in ("DA", "DT"):
            yield _day(str(value), place)
        elif tag is None and is_personal(key):
            yield _note(str(value), place)
        elif tag is not None and vr != "TM" and STRICT.action(tag, vr) not in KEPT:
            yield IdentifyingValue(str(value).strip(), place, vr, is_descriptor=key in CLEANED["descriptors"])


def _of_nifti(file: Path) -> Iterator[IdentifyingValue]:
    import nibabel as nib

    header: Any = nib.load(file).header
    for field in (*_FREE_FIELDS, *_NAMING_FIELDS):
        if field in header:
            text = bytes(header[field]).split(b"\0")[0].decode("utf-8", "replace")
            yield (_note if field in _FREE_FIELDS else _name)(text, f"NIfTI {field}")
    for extension in getattr(header, "extensions", ()):
        content = extension.get_content()
        if extension.get_code() == DICOM_EXTENSION and not isinstance(content, bytes | str):
            yield from values(content)
        else:
            yield from (_note(text, "a NIfTI extension") for text in texts(content))


def _of_itk(file: Path) -> Iterator[IdentifyingValue]:
    with file.open("rb") as stream:
        content = stream.read(itk_header.MAX_HEADER_BYTES)
    for line in re.split(rb"\r?\n", content):
        if line.startswith(b"NRRD000"):
            continue
        match = _HEADER_LINE.fullmatch(line.decode("utf-8", "replace").strip())
        if match is None:
            return  # an empty line ends the header of a NRRD, voxels that of a MetaImage
        key = re.sub(r"\W", "", match["key"] or "").casefold()
        if match["comment"] or key not in FIELDS_OF_THE_GRID:
            yield _note(match["comment"] or match["value"], "a header field")
        if key == "elementdatafile":
            return


def _of_picture(file: Path) -> Iterator[IdentifyingValue]:
    from PIL import Image as Pillow

    with Pillow.open(file, formats=FORMATS) as picture:
        exif = picture.getexif()
        yield from _exif(exif)
        for directory in SUB_DIRECTORIES:
            yield from _exif(exif.get_ifd(directory))
        yield from _iptc(picture)
        yield from _notes(picture.info)
        yield from _xmp(picture.info.get("xmp"))
        if picture.format == "PNG":
            picture.load()  # texts may lie behind the pixels
            yield from _notes(picture.info)
            yield from _xmp(picture.info.get("xmp"))


def _exif(tags: Mapping[int, Any]) -> Iterator[IdentifyingValue]:
    for tag, value in tags.items():
        place = f"EXIF {tag:#06x}"
        for text in _exif_texts(tag, value):
            if tag in EXIF_DATES:
                yield _day(text, place)
            elif text.strip() and tag not in EXIF_HARMLESS:
                yield _note(text, place)


def _exif_texts(tag: int, value: Any) -> Iterable[str]:
    if tag in EXIF_WIDE and isinstance(value, bytes | tuple):
        return [bytes(value).decode("utf-16-le", "replace").strip("\0")]
    if tag == USER_COMMENT and isinstance(value, bytes) and value.startswith(b"UNICODE"):
        wide = value[CHARACTER_CODE_BYTES:]
        return [wide.decode(code, "replace").strip("\0") for code in ("utf-16-le", "utf-16-be")]
    if isinstance(value, str | bytes):
        return texts(value)
    return ()


def _iptc(picture: Any) -> Iterator[IdentifyingValue]:
    from PIL.IptcImagePlugin import getiptcinfo

    for record, held in (getiptcinfo(picture) or {}).items():
        place = f"IPTC {record[0]}:{record[1]:03d}"
        for content in held if isinstance(held, list) else [held]:
            text = content.decode("utf-8", "replace")
            if record in IPTC_DATES:
                yield _day(text, place)
            elif record not in IPTC_HARMLESS:
                yield _name(text, place)


def _notes(notes: Mapping[Any, Any]) -> Iterator[IdentifyingValue]:
    for key, value in notes.items():
        if isinstance(value, str | bytes) and str(key).lower() not in NOT_NOTES:
            if str(key).lower().startswith("raw profile type"):  # in hex, as ImageMagick writes it, after a length
                value = bytes.fromhex("".join(str(value).split()[2:]))
            elif str(key).lower() == "xml:com.adobe.xmp":
                yield from _xmp(value)
                continue
            yield from (_note(text, "a note in a picture") for text in texts(value))


def _xmp(packet: bytes | str | None) -> Iterator[IdentifyingValue]:
    if not packet:
        return
    whole = packet.decode("utf-8", "replace") if isinstance(packet, bytes) else packet
    for match in _XML_TEXT.finditer(whole[:MAX_BINARY]):
        text = unescape(match[1] or match[2])
        if "://" not in text:
            yield _note(text, "XMP")
            if re.match(r"\d{4}-\d\d-\d\d(T|$)", text.strip()):
                yield _day(text, "XMP")
