"""Character sets of DICOM texts (PS3.3 C.12.1.1.2): conversion of headers, so that libraries write all characters."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from medvit.errors import UnsupportedError

if TYPE_CHECKING:
    from pydicom import DataElement, Dataset
    from pydicom.dataelem import RawDataElement

UTF_8 = "ISO_IR 192"
DEFAULT = ("", "ISO_IR 6", "ISO 2022 IR 6")
"""Names of the default repertoire, ASCII, which is declared by omitting the attribute (PS3.3 C.12.1.1.2)."""
ALONE = (*(f"ISO_IR {number}" for number in (13, 100, 101, 109, 110, 126, 127, 138, 144, 148, 166, 192)), "GB18030")
"""Character sets without code extensions that highdicom accepts and pydicom encodes."""
LATIN_9 = {"ISO_IR 203": "iso8859_15", "ISO 2022 IR 203": "iso8859_15"}
"""Names of Latin-9 (DICOM CP 1959), which pydicom does not know -> Python encoding."""
SPELLINGS = {
    "ASCII": "",
    "USASCII": "",
    "LATIN1": "ISO_IR 100",
    "ISO88591": "ISO_IR 100",
    "UTF8": UTF_8,
    "UNICODE": UTF_8,
    "GB18030": "GB18030",
    "GBK": "GBK",
    "GB2312": "ISO 2022 IR 58",
}
"""Nonstandard name that devices write, in capitals without punctuation -> DICOM defined term."""
REPLACED = "\ufffd"
"""Replacement character of a decoder for bytes outside of the character set."""
IDENTITY = ("PatientName", "PatientID", "IssuerOfPatientID", "AccessionNumber", "StudyID")
"""Texts that link a result to its patient and study."""


TEXTS = ("LO", "LT", "PN", "SH", "ST", "UC", "UT")
"""Value representations whose texts are in the declared character set (PS3.5 6.1.2.2)."""
COPIED_GROUPS = (0x0008, 0x0010, 0x0012, 0x0020, 0x0032, 0x0040)
"""DICOM groups with the texts of patient, study, trial and specimen that highdicom copies."""


def settle(header: Dataset, *, to_utf_8: bool = False) -> str:
    """Convert the texts of a header to a character set that highdicom accepts: its own if possible, else UTF-8.

    A misspelt name of a character set is read as the intended one. If no character set is declared, texts that are not
    ASCII are read as UTF-8 if valid, else as Latin-1, and the returned note states which; otherwise, the note is empty.
    Texts other than `IDENTITY` that are invalid in the declared character set are removed.

    Raises:
        UnsupportedError: If name or IDs of the patient are invalid in the declared character set.
    """
    declared = str(header.get("SpecificCharacterSet") or "")
    terms = _terms(header)
    undeclared = _undeclared(header) if terms == ("",) else ""
    stays = not to_utf_8 and not undeclared and len(terms) == 1 and (terms == ("",) or terms[0] in ALONE)
    if not stays or terms[0] != declared:
        _decode(header, [undeclared] if undeclared else _encodings(terms), is_rewritten=not stays)
    _remove_lost(header, terms)
    if not stays:
        header.SpecificCharacterSet = UTF_8
    elif terms == ("",):
        header.pop("SpecificCharacterSet", None)
    else:
        header.SpecificCharacterSet = terms[0]
    return f"the source declares no character set for its texts, which were read as {undeclared}" if undeclared else ""


def _undeclared(header: Dataset) -> str:
    """Return the encoding of non-ASCII texts in a header without a declared character set.

    The result is empty if all texts are ASCII. Only texts at the top of the header are checked: those that highdicom
    copies.
    """
    found = b""
    for tag in header.keys():  # noqa: SIM118 (raw elements)
        element = header.get_item(tag)
        if element is not None and element.tag.group in COPIED_GROUPS and _representation(element) in TEXTS:
            value = element.value
            found += value if isinstance(value, bytes) else str(value or "").encode("latin_1", "replace")
    if found.isascii():
        return ""
    try:
        found.decode("utf-8")
    except UnicodeDecodeError:
        return "Latin-1"
    return "UTF-8"


def _terms(header: Dataset) -> tuple[str, ...]:
    """Return the defined terms of (0008,0005) SpecificCharacterSet, corrected; one empty term if it is missing."""
    from pydicom.charset import STAND_ALONE_ENCODINGS

    value = header.get("SpecificCharacterSet")
    found = [value] if value is None or isinstance(value, str) else list(value)
    terms = tuple(_spelt(str(term or "")) for term in found) or ("",)
    if all(term in DEFAULT for term in terms):
        return ("",)
    if terms[0] in STAND_ALONE_ENCODINGS:  # these have no code extensions (PS3.5 6.1.2.5.4)
        return terms[:1]
    return tuple(term for term in terms if term not in STAND_ALONE_ENCODINGS)


def _spelt(term: str) -> str:
    plain = re.sub(r"[^A-Z0-9]", "", term.upper())
    match = re.fullmatch(r"ISO(2022)?(?:IR)?(\d{1,3})", plain)
    if match:
        return f"ISO 2022 IR {match[2]}" if match[1] else f"ISO_IR {match[2]}"
    return SPELLINGS.get(plain, term.strip())


def _encodings(terms: Sequence[str]) -> list[str]:
    """Return the Python encodings with which pydicom decodes texts under these terms.

    The only encoding is ASCII if the declaration is missing or contains an unknown term.
    """
    from pydicom.charset import python_encoding

    known = {**python_encoding, **LATIN_9}
    return ["ascii"] if tuple(terms) == ("",) or set(terms) - set(known) else [known[term] for term in terms]


def _decode(dataset: Dataset, encodings: list[str], *, is_rewritten: bool) -> None:
    """Decode all texts with the given encodings, also within sequences, whose items may declare their own encodings."""
    from pydicom.valuerep import PersonName

    dataset.set_original_encoding(*dataset.original_encoding, encodings)
    for element in _elements(dataset, (*TEXTS, "SQ")):
        if element.VR == "SQ":
            for item in element.value:
                own = _encodings(_terms(item)) if "SpecificCharacterSet" in item else encodings
                _decode(item, own, is_rewritten=is_rewritten)
                item.pop("SpecificCharacterSet", None)
        elif element.VR == "PN" and is_rewritten and not element.is_empty:  # else a name keeps its original bytes
            names = [PersonName(str(name)) for name in (element.value if element.VM > 1 else [element.value])]
            element.value = names if element.VM > 1 else names[0]


def _remove_lost(header: Dataset, terms: Sequence[str]) -> None:
    for element in _elements(header, TEXTS):
        if element.tag.group not in COPIED_GROUPS or REPLACED not in str(element.value):
            continue
        if element.keyword in IDENTITY:
            declared = "\\".join(terms) or "none, which means ASCII"
            raise UnsupportedError(
                f"{element.keyword} contains bytes outside of the character set that the file declares "
                f"({declared}); a result would name another patient"
            )
        del header[element.tag]


def _elements(dataset: Dataset, representations: Sequence[str]) -> Iterator[DataElement]:
    """Return the elements that have one of these value representations.

    Elements of other value representations are not read. Unreadable elements are removed.
    """
    for tag in list(dataset.keys()):
        element = dataset.get_item(tag)
        if element is None or _representation(element) not in representations:
            continue
        try:
            yield dataset[tag]
        except (ValueError, TypeError, KeyError, NotImplementedError, OverflowError):
            del dataset[tag]


def _representation(element: DataElement | RawDataElement) -> str:
    from pydicom.datadict import dictionary_has_tag, dictionary_VR

    return str(element.VR or (dictionary_VR(element.tag) if dictionary_has_tag(element.tag) else "UN"))
