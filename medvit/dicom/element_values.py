"""Values of single elements as plain Python values; malformed values do not raise errors.

For some elements, only the terms that the standard defines are accepted (`Terms`): a scanner or a person may write any
text into these elements, and their values appear in manifests, cards and MLflow. A text that is not a defined term is
replaced by the term for "other", with one warning. Texts of other elements are kept only if they consist of the plain
characters of product names and share no word with the elements that name a person in the same file (`product_text`).
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import permutations
from typing import TYPE_CHECKING, NamedTuple

from medvit.dicom.direct.fast_dataset import FastDataset
from medvit.dicom.direct.fast_values import tag_of

if TYPE_CHECKING:
    from pydicom import Dataset

log = logging.getLogger("medvit")

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._/+()\\-]{0,39}")
_LONG_NUMBER = re.compile(r"\d{6}")
_DATE = re.compile(r"\d{4}([-./ ]\d{1,2}){2}|(\d{1,2}[-./ ]){2}\d{4}|\d{1,2}([-/])\d{1,2}\3\d{2}")
"""Pattern of a date. It excludes dates with dots and a two-digit year, which might be version numbers."""
_WORD = re.compile(r"[^\W_]{2,}")
_AS_TEXT = (None, b"PN", b"LO", b"SH", b"ST", b"LT", b"UT", b"UC", b"DA", b"DT")
"""Value representations (VR) whose bytes are the text. None stands for a file without explicit VRs, in which the
standard defines the VR of each element.
"""
MAX_NAMES = 4
"""Maximum number of words of a patient's name that are compared."""
PERSONAL = (
    "PatientName",
    "PatientID",
    "OtherPatientIDs",
    "PatientAddress",
    "PatientBirthDate",
    "AccessionNumber",
    "InstitutionName",
    "InstitutionAddress",
    "StationName",
    "ReferringPhysicianName",
    "OperatorsName",
    "PerformingPhysicianName",
    "StudyID",
    "StudyDate",
    "DeviceSerialNumber",
)


class PersonalWords(NamedTuple):
    """Words that may name a person, in lower case.

    `words` are the words of all elements that name people or places. `name` are the first two words of the patient's
    name. `joined` are pairs of words of the patient's name, written without a space.
    """

    words: frozenset[str]
    name: frozenset[str]
    joined: tuple[str, ...]


def numbers(dataset: Dataset, keyword: str, how_many: int) -> tuple[float, ...] | None:
    """Return the numbers of an element; None if the element is missing, or does not have exactly `how_many` numbers."""
    try:
        values = tuple(float(value) for value in dataset.get(keyword) or ())
    except (TypeError, ValueError):
        return None
    return values if len(values) == how_many else None


def text(dataset: Dataset, keyword: str) -> str:
    """Return the text of an element; empty if the element is missing."""
    value = dataset.get(keyword)
    return "" if value is None else str(value).strip()


def texts(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """Return the texts of a multi-valued element; empty if the element is missing."""
    value = dataset.get(keyword) or ()
    return (value.strip(),) if isinstance(value, str) else tuple(str(part).strip() for part in value)


def count(dataset: Dataset, keyword: str, default: int) -> int:
    """Return the whole number of an element; `default` if it is missing, -1 if it is not a whole number."""
    try:
        value = dataset.get(keyword)
        return default if value is None or value == "" else int(value)
    except (TypeError, ValueError):
        return -1


_MODALITIES = """
ANN AR ASMT AU BDUS BI BMD CFM CR CT CTPROTOCOL DMS DG DOC DX ECG EEG EMG EOG EPS ES FID GM HC HD IO IOL IVOCT IVUS KER
KO LEN LS MG MR M3D NM OAM OCT OP OPM OPT OPTBSV OPTENF OPV OSS OT PA PLAN POS PR PT PX REG RESP RF RG RTDOSE RTIMAGE
RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SEG SM SMR SR SRF STAIN TEXTUREMAP TG US VA XA XAPROTOCOL XC
AS CD CF CP CS DD DF DM DS EC FA FS LP MA MS OPR ST VF
"""
"""Modality codes of PS3.3 C.7.3.1.1.1; those in the last line are retired."""
_RESCALE_TYPES = "OD HU US MGML Z_EFF ED EDW HU_MOD PCT"
_PET_UNITS = """
CNTS NONE CM2 CM2ML PCNT CPS BQML MGMINML UMOLMINML MLMING MLG 1CM UMOLML PROPCNTS PROPCPS MLMINML MLML GML STDDEV
"""


def derived_uid(keyword: str, header: Dataset) -> str:
    """Derive a stable value for the UID element `keyword` of a study, series or frame of reference that lacks it.

    DICOM results of predictions use this UID, and a de-identified copy uses the pseudonym of this UID. `header` is the
    header of the first instance of an image. The UID depends on the frame of reference and also on the patient, because
    scanners and tools that omit UIDs often repeat frames of reference.
    """
    from pydicom.uid import generate_uid

    # One study per frame of reference is the closest guess that joins the series of one visit.
    anchor = header.get("FrameOfReferenceUID") or header.SOPInstanceUID
    patient = filter(None, (text(header, "PatientID"), text(header, "IssuerOfPatientID")))
    own = "" if keyword == "StudyInstanceUID" else str(header.get("SeriesNumber", ""))
    return str(generate_uid(entropy_srcs=[keyword, str(anchor), own, *patient]))


@dataclass(frozen=True)
class Terms:
    """Terms that the standard defines for one element, and the replacement for any other text."""

    element: str
    section: str
    terms: frozenset[str]
    otherwise: str = ""
    in_copies: str = ""
    """Replacement in a de-identified copy, for elements that must not be empty."""

    def of(self, text: str) -> str:
        """Return a text in capitals if it is a term or empty; any other text becomes `otherwise`, with a warning."""
        term = text.strip().upper()
        if not term or term in self.terms:
            return term
        _warn(self)
        return self.otherwise

    def in_copy(self, text: str) -> str:
        """Return a text for a de-identified copy: unchanged if it is a term or empty, else replaced by `in_copies`."""
        return text if text.strip().upper() in self.terms or not text.strip() else self.in_copies


MODALITY = Terms("(0008,0060) Modality", "C.7.3.1.1.1", frozenset(_MODALITIES.split()), "OT", "OT")
RESCALE_TYPE = Terms("(0028,1054) RescaleType", "C.11.1.1.2", frozenset(_RESCALE_TYPES.split()), "", "US")
MODALITY_LUT_TYPE = Terms("(0028,3004) ModalityLUTType", "C.11.1.1.2", RESCALE_TYPE.terms, "", "US")
PET_UNITS = Terms("(0054,1001) Units", "C.8.9.1.1.3", frozenset(_PET_UNITS.split()), "", "NONE")
SCANNING_SEQUENCE = Terms(
    "(0018,0020) ScanningSequence", "C.8.3.1.1.1", frozenset(("SE", "IR", "GR", "EP", "RM")), "", "RM"
)

BY_KEYWORD: Mapping[str, Terms] = {
    "Modality": MODALITY,
    "RescaleType": RESCALE_TYPE,
    "ModalityLUTType": MODALITY_LUT_TYPE,
    "Units": replace(PET_UNITS, terms=PET_UNITS.terms | RESCALE_TYPE.terms),
    "ScanningSequence": SCANNING_SEQUENCE,
}
"""Keyword of an element -> its terms."""


@cache
def _warn(terms: Terms) -> None:
    taken = f"as {terms.otherwise}" if terms.otherwise else "as unset"
    log.warning("%s of some files is not a term of DICOM PS3.3 %s; it is read %s", terms.element, terms.section, taken)


def joined_text(value: object) -> str:
    """Return the value of an element as text; several values are joined by a backslash."""
    if value is None:
        return ""
    parts = value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else [value]
    return "\\".join(str(part).strip() for part in parts)


def _written(dataset: FastDataset | Dataset, keyword: str) -> str:
    """Return the text of an element as stored.

    ASCII text is not decoded by pydicom: decoding person names would take most of the time.
    """
    raw = dataset.raw(tag_of(keyword)) if isinstance(dataset, FastDataset) else None
    if raw is not None and raw[0] in _AS_TEXT and raw[1].isascii() and b"\x1b" not in raw[1]:
        return raw[1].decode()
    return joined_text(dataset.get(keyword))


def personal_words(dataset: FastDataset | Dataset) -> PersonalWords:
    """Return the words that name people and places, among them the words of the patient's name."""
    words = {word for keyword in PERSONAL for word in _WORD.findall(_written(dataset, keyword)) if len(word) > 2}
    name = [_forms(word) for word in _WORD.findall(_written(dataset, "PatientName"))]
    joined = {one + other for a, b in permutations(name[:MAX_NAMES], 2) for one in a for other in b}
    return PersonalWords(
        frozenset(form for word in words for form in _forms(word)),
        frozenset(form for forms in name[:2] for form in forms) if len(name) > 1 else frozenset(),
        tuple(text for text in joined if len(text) > 4),
    )


def _forms(word: str) -> tuple[str, ...]:
    """Return a word in lower case, and its form without accents if it has accents."""
    folded = word.casefold()
    if folded.isascii():
        return (folded,)
    bare = "".join(c for c in unicodedata.normalize("NFKD", folded) if not unicodedata.combining(c))
    return folded, bare, folded.replace("ä", "ae").replace("ö", "oe").replace("ü", "ue")


def product_text(text: str, personal: PersonalWords) -> str:
    """Return a text unchanged if it looks like the name of a product or technique, else an empty string.

    Texts that may name a person, or that contain a long number or a date, give an empty string.
    """
    words = {word.casefold() for word in _WORD.findall(text)}
    is_name = words & personal.words or len(words & personal.name) > 1
    is_joined = any(joined in word for word in words for joined in personal.joined)
    is_plain = _PLAIN.fullmatch(text) and not _LONG_NUMBER.search(text) and not _DATE.search(text)
    return text if is_plain and not is_name and not is_joined else ""
