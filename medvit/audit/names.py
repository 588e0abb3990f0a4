"""Names of patients in the forms in which they may occur elsewhere.

A word of three letters or more is searched for as a whole word, even if it is common in texts (Long, King, White); such
a finding is marked as a possible coincidence. Shorter words and single ideographs (Li, Wu, An) occur in any text, so
they are searched for only next to another word of the same name, or, if they are the whole name, alone in a cell or a
line.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from typing import Literal

from medvit.audit import rarity
from medvit.deidentification.vocabulary import words_of

Shape = Literal["text", "word", "pair", "whole"]
"""Matching rule of a form: `text` anywhere, but a number or short word only if it is not part of a longer one; `word`
as a whole word; `pair` as two adjacent words; `whole` alone in a cell or a line.
"""

PATIENT_NAMES = ("PatientName", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName")
MIN_WORD = 3
"""Minimum letters of a word in Latin letters that is searched for by itself; in other alphabets, the minimum is
`rarity.MIN_SIGNS`.
"""
MAX_WORDS = 6
"""Maximum number of words of a name that are paired with each other."""
_PLACEHOLDERS = """
anon anonym anonymous anonymized anonymised deidentified de identified no name noname none unknown unnamed removed
patient subject phantom test case study person demo sample dummy xxx
"""
PLACEHOLDERS = frozenset(_PLACEHOLDERS.split())
"""Words of placeholder names, such as `Test^Patient`, which identify nobody."""


_WITHOUT_STROKES = str.maketrans({"\u0131": "i", "ø": "o", "ł": "l", "đ": "d", "æ": "ae", "œ": "oe"})
"""Replacements of letters that Unicode does not decompose. The first letter is the dotless i, which has the same
capital as i.
"""


@dataclass(frozen=True)
class NameForm:
    """One form of a name, in lower case.

    `shape` is its matching rule. `is_common` states whether the form may occur elsewhere by chance.
    """

    text: str
    shape: Shape = "text"
    is_common: bool = False


def name_forms(name: str) -> Iterator[NameForm]:
    """Yield the forms of a name, which may be written as in DICOM (VR PN) or as in prose.

    A name that consists of placeholder words has no forms.
    """
    for group in name.casefold().split("="):
        words = [word for word in words_of(group) if not word.isdigit()]
        if not words or is_placeholder(group):
            continue
        for word in words:
            if is_word(word):
                yield from (NameForm(form, "word", not rarity.is_rare(word)) for form in spellings(word))
        if len(words) == 1 and not is_word(words[0]):
            yield NameForm(words[0], "whole", is_common=True)
        for one, other in permutations(words[:MAX_WORDS], 2):
            if not (is_word(one) and is_word(other)):
                yield NameForm(f"{one} {other}", "pair", is_common=True)
            if not one.isascii() and len(one + other) >= rarity.MIN_SIGNS and not one[0].isascii():
                yield NameForm(one + other)


def written_forms(name: str) -> Iterator[str]:
    """Yield the written forms of a DICOM person name (PS3.5 6.2.1), such as `doe^jane`, in lower case.

    These are the name as it is and, if it has a family and a given name, both in either order with several separators.
    """
    for group in name.casefold().split("="):
        parts = [part.strip() for part in group.split("^") if part.strip()]
        yield group.strip("^ ")
        if len(parts) > 1:
            family, given = parts[0], parts[1]
            yield from (f"{family} {given}", f"{given} {family}", f"{family}, {given}", f"{family}_{given}")
            yield from (f"{given}_{family}", f"{family}{given}", f"{given}{family}")


def is_placeholder(name: str) -> bool:
    """Return whether a name consists of placeholder words."""
    words = [word for word in words_of(name) if not word.isdigit()]
    return bool(words) and all(word in PLACEHOLDERS for word in words)


def is_word(word: str) -> bool:
    """Return whether a word of a name is long enough to be searched for alone."""
    return len(word) >= (MIN_WORD if _is_latin(word) else rarity.MIN_SIGNS)


def spellings(word: str) -> set[str]:
    """Return a word, and its form without accents if it has accents."""
    if word.isascii() or not _is_latin(word):
        return {word}
    whole = word.translate(_WITHOUT_STROKES)
    bare = "".join(sign for sign in unicodedata.normalize("NFKD", whole) if not unicodedata.combining(sign))
    german = word.replace("ä", "ae").replace("ö", "oe").replace("ü", "ue")
    return {word, *(form for form in (bare, german) if form.isascii())}


def _is_latin(word: str) -> bool:
    return all(sign.isascii() or "LATIN" in unicodedata.name(sign, "") for sign in word)
