"""Coded terms of DICOM for classes, so that a viewer can distinguish a liver from a lesion."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

from medvit.errors import ConfigError
from medvit.writers import Concept

LABEL_LENGTH, VALUE_LENGTH = 64, 16
PRIVATE_SCHEME = "99MEDVIT"
"""Coding scheme of class names that are not in the dictionary; `99` marks private ones (DICOM PS3.16 sec. 8)."""
ANATOMICAL = Concept("SCT", "91723000", "Anatomical Structure")
ABNORMAL = Concept("SCT", "49755003", "Morphologically Abnormal Structure")
ABNORMAL_WORDS = re.compile(
    r"tumou?r|lesion|cancer|carcinoma|neoplasm|nodule|metasta|edema|necrosis|hemorrhage|cyst", re.I
)


def property_type(name: str, codes: Mapping[str, str]) -> Concept:
    """Return the coded term of a class.

    The term in `codes` comes first, then the term of the same name in DICOM's SNOMED CT dictionary. For other classes,
    a private term is made.

    Raises:
        ConfigError: If the given code is not `SCHEME:VALUE:MEANING`.
    """
    if name in codes:
        return _parse(name, codes[name])
    return _known(name) or Concept(PRIVATE_SCHEME, _private_value(name), label_of(name))


def property_types(classes: Sequence[str], codes: Mapping[str, str]) -> dict[str, Concept]:
    """Return the coded term of each class.

    Private code values that would be equal, such as those of `<5 mm` and `>5 mm`, are distinguished by a hash.
    """
    found = {name: property_type(name, codes) for name in classes}
    times = Counter(concept.value for concept in found.values() if concept.scheme == PRIVATE_SCHEME)
    return {
        name: replace(concept, value=f"{concept.value[: VALUE_LENGTH - 9]}_{_hash(name)}")
        if concept.scheme == PRIVATE_SCHEME and name not in codes and times[concept.value] > 1
        else concept
        for name, concept in found.items()
    }


def label_of(name: str) -> str:
    """Return the name of a class as a DICOM label: one value of at most 64 characters (PS3.5 6.2, LO).

    A backslash, which would divide the label into two values, becomes a slash. Truncated names are distinguished by a
    hash.
    """
    text = " ".join(re.sub(r"[\x00-\x1f\x7f]", " ", name.replace("\\", "/")).split())
    return text if len(text) <= LABEL_LENGTH else f"{text[: LABEL_LENGTH - 9]} {_hash(name)}"


def property_category(name: str) -> Concept:
    """Return the category of a class by its name: anatomy or abnormal tissue."""
    return ABNORMAL if ABNORMAL_WORDS.search(name) else ANATOMICAL


def check_codes(codes: Mapping[str, str], classes: tuple[str, ...]) -> None:
    """Check given codes before any study is processed.

    Raises:
        ConfigError: If a code cannot be read or its class is unknown to the model.
    """
    for name, text in codes.items():
        _parse(name, text)
        if name not in classes:
            raise ConfigError(f"codes names the class {name!r}; the model has {', '.join(classes)}")


def _parse(name: str, text: str) -> Concept:
    parts = [part.strip() for part in text.split(":", 2)]
    if (
        len(parts) != 3
        or not all(parts)
        or "\\" in text
        or max(len(parts[0]), len(parts[1])) > 16
        or len(parts[2]) > 64
    ):
        raise ConfigError(f"codes.{name} is {text!r}; expected SCHEME:VALUE:MEANING, as in SCT:10200004:Liver")
    return Concept(*parts)


@cache
def _known(name: str) -> Concept | None:
    from pydicom.sr.codedict import codes

    keyword = "".join(word.capitalize() for word in re.findall(r"[A-Za-z0-9]+", name))
    if not keyword or keyword not in codes.SCT.dir(keyword):
        return None
    code = getattr(codes.SCT, keyword)
    return Concept(code.scheme_designator, code.value, code.meaning)


def _private_value(name: str) -> str:
    # A code value is at most 16 characters of a limited set (DICOM PS3.5 sec. 6.2, SH).
    return re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_").upper()[:VALUE_LENGTH] or "CLASS"


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:8].upper()
