"""Needles of an audit: the identifying values of a source, in the forms in which they may occur elsewhere.

For DICOM files, these are all values that the basic profile removes (`medvit.deidentification.identifiers`); for other
images, the texts that their readers find in addition to pixels (`Reader.texts`); for tables and texts, everything
(`medvit.audit.documents`); and for all files, the names of the file and its folders. Two groups are excluded and
counted. The first is values that would be found anywhere (`medvit.audit.rarity`). The second is values that the files
also contain in elements that identify nobody: the manufacturer, for example, or a repetition time that is repeated in
the name of the protocol.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote

from medvit import readers
from medvit.audit import rarity
from medvit.audit.documents import document_values
from medvit.audit.names import PATIENT_NAMES, Shape, is_placeholder, is_word, name_forms
from medvit.audit.names import written_forms as written_names
from medvit.deidentification.dates import written_forms
from medvit.deidentification.identifiers import STRICT, IdentifyingValue, identifying
from medvit.deidentification.profile import DATES, TEXT, Action, Profile
from medvit.deidentification.vocabulary import removed, words_of
from medvit.dicom.acquisition import quantities
from medvit.dicom.file import begins_as_dicom
from medvit.dicom.header import load
from medvit.errors import MedvitError, NotAnImageError
from medvit.files.guard import decoding
from medvit.readers import HEAD_BYTES
from medvit.readers.slide import is_part_of_slide
from medvit.records import FileText

FILE_NAME = "a file or folder name"


@dataclass(frozen=True)
class Needle:
    """Text to search for, in lower case.

    `source` names the element that contains it, but not the value of the element.
    """

    text: str = field(repr=False)
    source: str
    is_date: bool = False
    is_in_copy: bool = True
    """Whether the value is searched for in a de-identified copy too, because the copy must not contain it."""
    is_weak: bool = False
    """Whether the value is dropped if the files also contain it in an element that identifies nobody."""
    shape: Shape = "text"
    """Rule by which the needle is found: anywhere, as a word, as two adjacent words, or alone in a cell or a line."""
    is_common: bool = False
    """Whether the value names a patient by a word that is common in texts."""

    @property
    def description(self) -> str:
        """Source element of the needle, with a remark if a finding of the needle may be a coincidence."""
        return f"{self.source}, which may be a coincidence" if self.is_weak or self.is_common else self.source

    def joined(self, other: Needle, text: str) -> Needle:
        """Merge this needle with `other`, which comes from a second element with the same `text`.

        The result is weak only if both needles are weak. If one of them is weak, the other one alone decides whether a
        de-identified copy may contain the text.
        """
        decisive = [needle for needle in (self, other) if not needle.is_weak] or [self, other]
        return Needle(
            text,
            min(self.source, other.source),
            all(needle.is_date for needle in decisive),
            any(needle.is_in_copy for needle in decisive),
            self.is_weak and other.is_weak,
            self.shape if self.shape == other.shape else "text",
            self.is_common and other.is_common,
        )


@dataclass(frozen=True)
class IdentifyingValues:
    """Identifying values of one file, and its patient.

    `shown` are the texts of the file that identify nobody. `patient` and `patient_id` are empty if the file is not
    DICOM.
    """

    values: tuple[IdentifyingValue, ...] = ()
    gone: frozenset[str] = field(default=frozenset(), repr=False)
    """Texts that the profile of the de-identified copy removes."""
    shown: frozenset[str] = field(default=frozenset(), repr=False)
    patient: str = field(default="", repr=False)
    patient_id: str = field(default="", repr=False)
    unread: str = ""
    """Why the file could not be read completely; empty if it could."""


@dataclass(frozen=True)
class Needles:
    """All texts to search for (needles) of a source; `by_text` maps a text to its needle.

    `num_files` is the number of files of the source, and `num_excluded` the number of values that are not searched for.
    `dates` are the dates (VR DA) of each patient.
    """

    by_text: Mapping[str, Needle] = field(repr=False)
    num_files: int
    num_excluded: int
    dates: Mapping[str, frozenset[str]] = field(repr=False)
    patients: frozenset[str] = field(default=frozenset(), repr=False)
    """PatientIDs in the DICOM files of the source."""
    unread: Mapping[str, int] = field(default_factory=dict)
    """Number of files that could not be read completely, for each reason."""


@dataclass(frozen=True)
class ReadValues:
    """Function object that reads the identifying values of one file.

    `profile` is the de-identification profile of the de-identified copy.
    """

    profile: Profile

    def __call__(self, file: Path) -> IdentifyingValues:
        """Return the identifying values of a file, which may be an image or a document.

        If the file cannot be read completely, `unread` in the result states the reason.
        """
        found: list[FileText] = []
        try:
            found.extend(readers.texts(file))  # which yields the values before an error
        except NotAnImageError:
            return IdentifyingValues() if is_part_of_slide(file) else _of_document(file)
        except MedvitError as error:
            return self._of_texts(found, file, str(error))
        return self._of_texts(found, file)

    def _of_texts(self, found: Sequence[FileText], file: Path, unread: str = "") -> IdentifyingValues:
        """Return the identifying values among the texts `found` in a file.

        For a DICOM file, the result also contains the patient, the texts that the profile removes, and the texts that
        identify nobody. `unread` is the reason if the file could not be read completely.
        """
        of_dicom = [text for text in found if text.tag is not None]
        gone = frozenset(text.text for text in of_dicom if identifying(text, self.profile) is not None)
        identifying_ones = tuple(dict.fromkeys(value for value in map(identifying, found) if value is not None))
        shown = frozenset(text.text for text in of_dicom if _is_shown(text))
        if not of_dicom or not _begins_as_dicom(file):
            return IdentifyingValues(identifying_ones, gone, shown, unread=unread)
        try:
            with decoding("the DICOM header"):
                dataset = load(file, stop_before_pixels=True)
                patient_id = str(dataset.get("PatientID") or "").strip()
                patient = patient_id or str(dataset.get("PatientName") or "").strip()
                shown |= frozenset(quantities(dataset).values())
        except MedvitError as error:
            return IdentifyingValues(identifying_ones, gone, shown, unread=unread or str(error))
        return IdentifyingValues(identifying_ones, gone, shown, patient, patient_id, unread)


def _of_document(file: Path) -> IdentifyingValues:
    found: list[IdentifyingValue] = []
    try:
        found.extend(document_values(file))
    except MedvitError as error:
        return IdentifyingValues(tuple(dict.fromkeys(found)), unread=str(error))
    return IdentifyingValues(tuple(dict.fromkeys(found)))


def _begins_as_dicom(file: Path) -> bool:
    with file.open("rb") as stream:
        return begins_as_dicom(stream.read(HEAD_BYTES))


def _is_shown(text: FileText) -> bool:
    """Return whether even the strictest de-identification profile keeps a text, so that it identifies nobody."""
    if text.tag is None or text.tag >> 16 & 1 or (text.vr not in TEXT and text.vr != "CS"):
        return False
    return STRICT.action(text.tag, text.vr) in (Action.KEEP, Action.CODE)


def collect_needles(
    names: Sequence[Path],
    root: Path,
    found: Iterable[IdentifyingValues],
    ignored: Sequence[str] = (),
    *,
    num_files: int,
    dataset: str = "",
    classes: Collection[str] = (),
) -> Needles:
    """Return the identifying values (needles) in the names and the contents of the `num_files` files of a source.

    Words in `ignored` are excluded. The names of `classes` are excluded where the source may contain them by chance, as
    in a table, but not where they name a patient. `dataset` is the name of the dataset; the name of the source folder
    is excluded if it is part of that name.
    """
    class_forms = {form for text in classes for form in (" ".join(text.casefold().split()), *words_of(text))}
    collector = _Collector({word for text in ignored for word in words_of(text)}, class_forms)
    unread: Counter[str] = Counter()
    for one in found:
        collector.add(one)
        unread.update([one.unread] if one.unread else [])
    is_known = set(words_of(root.absolute().name)) <= set(words_of(dataset))
    for name in _names(names, root) | (set() if is_known else {root.absolute().name}):
        collector.words(name, Needle("", FILE_NAME, is_weak=True))
        collector.phrase(name, Needle("", FILE_NAME, is_weak=True))
    needles = collector.finish()
    dates = {patient: frozenset(days) for patient, days in collector.dates.items()}
    return Needles(needles, num_files, collector.num_excluded(), dates, frozenset(collector.patients), unread)


def forms(text: str) -> set[str]:
    """Return the forms in which programs may write a text: (de)composed letters, and escapes of JSON and of URLs."""
    if text.isascii():
        return {text}
    composed, parted = unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text)
    escaped = {json.dumps(composed)[1:-1], ascii(composed)[1:-1], str(composed.encode())[2:-1], quote(composed).lower()}
    return {composed, parted, *escaped}


class _Collector:
    """Collector of values to search for (needles); values that are too common are only counted."""

    def __init__(self, ignored: set[str], classes: set[str]) -> None:
        self._ignored, self._classes = ignored, classes
        self._needles: dict[str, Needle] = {}
        self._passed: set[str] = set()
        self._shown: set[str] = set()
        self.dates: dict[str, set[str]] = {}
        self.patients: set[str] = set()

    def add(self, found: IdentifyingValues) -> None:
        self._shown |= found.shown
        self.patients |= {found.patient_id} - {""}
        for value in found.values:
            is_weak = value.is_descriptor or value.vr in ("UN", "OB", "OW", "CS") or value.element.endswith(" private")
            is_gone = value.text in found.gone or value.vr == ""
            name = Needle("", value.element, value.vr in ("DA", "DT"), is_gone, is_weak)
            self._value(value, name)
            if name.is_date and found.patient:
                self.dates.setdefault(found.patient, set()).add(value.text[:8])

    def words(self, text: str, needle: Needle) -> None:
        for word in words_of(text):
            self._put(word, needle, is_rare=rarity.is_rare(word))

    def phrase(self, text: str, needle: Needle) -> None:
        folded = " ".join(text.casefold().split())
        is_rare = any(map(rarity.is_rare, words_of(folded)))
        if not needle.is_weak and rarity.is_number_in_parts(folded):
            self._put("".join(words_of(folded)), needle, is_rare=True)
            is_rare = True
        self._put(folded, needle, is_rare=is_rare and len(folded) >= rarity.MIN_PHRASE)

    def finish(self) -> Mapping[str, Needle]:
        shown = {word for text in self._shown for word in words_of(text)} | {text.casefold() for text in self._shown}
        harmless = {text for text in shown & self._needles.keys() if self._needles[text].is_weak}
        self._passed |= harmless
        self._needles = {text: needle for text, needle in self._needles.items() if text not in harmless}
        return self._needles

    def num_excluded(self) -> int:
        return len(self._passed - self._needles.keys())

    def _value(self, value: IdentifyingValue, needle: Needle) -> None:
        if value.vr == "UI":
            self._put(value.text, needle, is_rare=len(value.text) > rarity.MIN_PHRASE)
        elif value.vr in DATES:
            for form in written_forms(value.text):
                self._put(form.casefold(), needle, is_rare=True)
            if value.vr != "DA" and len(value.text.rstrip("0.")) > 8:
                self._put(value.text, needle, is_rare=True)
        elif value.vr == "PN" or "^" in value.text:
            self._person(value, needle)
        elif not value.is_descriptor or removed(value.text):
            self.phrase(value.text, needle)
            if value.vr not in ("UN", "OB", "OW"):
                is_prose = value.is_descriptor or value.vr in ("LT", "ST", "UT")
                # Words that a copy keeps, such as HippoCrop, name nobody.
                text = removed(value.text) if value.is_descriptor else value.text
                self.words(rarity.identifying_part(text) if is_prose else text, needle)

    def _person(self, value: IdentifyingValue, needle: Needle) -> None:
        is_name = value.vr == "PN"
        if is_name and is_placeholder(value.text) and not re.search(r"\d", value.text):
            self._passed.update(words_of(value.text))
            return
        for form in written_names(value.text):
            words = words_of(form)
            # Two words of which one is short are searched for as words: "li wei" is in "reli weighted", too.
            is_rare = (is_name and len(words) > 1 and all(map(is_word, words))) or any(map(rarity.is_rare, words))
            self._put(form, needle, is_rare=is_rare and len(form) >= rarity.MIN_PHRASE)
        if value.element.endswith(PATIENT_NAMES):
            for one in name_forms(value.text):
                # As strict as for any name, even if a harmless element or the name of a class has the same text.
                strict = replace(needle, is_weak=False, shape=one.shape, is_common=one.is_common)
                self._put(one.text, strict, is_rare=True)
            self.words(" ".join(word for word in words_of(value.text) if word.isdigit()), needle)
        else:
            self.words(value.text, needle)

    def _put(self, text: str, needle: Needle, *, is_rare: bool) -> None:
        if not text.strip():
            return
        if not is_rare or text in self._ignored or (needle.is_weak and text in self._classes):
            self._passed.add(text)
            return
        for form in forms(text):
            self._needles[form] = self._needles.get(form, needle).joined(needle, form)


def _names(files: Sequence[Path], root: Path) -> set[str]:
    found = set[str]()
    for file in files:
        relative = file.relative_to(root) if file.is_relative_to(root) else Path(file.name)
        found.update(part.encode(errors="replace").decode() for part in relative.parent.parts)
        found.add(re.sub(r"\.(nii\.gz|[A-Za-z0-9]{1,5})$", "", relative.name).encode(errors="replace").decode())
    return found
