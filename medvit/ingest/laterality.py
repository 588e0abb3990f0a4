"""Which eye an image is of: from DICOM elements or the words of its path, never guessed; contradictions are refused.

Two eyes of a person are alike, so a split must not part them: where nothing else says whose an image is, images whose
paths differ in the word for the side alone are of one patient.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator

from medvit.config import Config
from medvit.errors import DataError
from medvit.readers.laterality import MODALITIES, eye_said
from medvit.records import Candidate, Item, Patient, place_in_file

LATERALITY, VIEW = "laterality", "view"
"""Keys of `Row.attributes`: right or left; macula, disc, disc-macula or lesion."""

SIDE_WORDS: Mapping[str, str] = {"od": "right", "right": "right", "os": "left", "left": "left"}
"""Words of a path that say which eye: oculus dexter is the right one. Single letters are taken only where
`laterality_from` points at them, since they may mean anything."""
POINTED_WORDS: Mapping[str, str] = {**SIDE_WORDS, "r": "right", "l": "left", "re": "right", "le": "left"}
VIEW_WORDS: Mapping[str, str] = {
    "macula": "macula",
    "fovea": "macula",
    "macular": "macula",
    "disc": "disc",
    "disk": "disc",
    "onh": "disc",
    "optic": "disc",
}
_WORD = re.compile(r"[A-Za-z]+")
_SIDE = re.compile(rf"(?<![A-Za-z])(?:{'|'.join(SIDE_WORDS)})(?![A-Za-z])", re.IGNORECASE)


class LateralityError(DataError):
    """An image of which two things say that it is of different eyes."""

    code = "laterality"


def one_group(text: str) -> str:
    """Return the text of a regular expression of one group, unchanged.

    Raises:
        ValueError: If it is none.
    """
    try:
        num_groups = re.compile(text).groups
    except re.error as error:
        raise ValueError(f"expected a regular expression, but {error}") from None
    if num_groups != 1:
        raise ValueError(f"expected one group, as in 'patient-(\\d+)', found {num_groups}")
    return text


GroupPattern = Annotated[str, AfterValidator(one_group)]


class EyeConfig(Config):
    """What is known of images of the eye, modality OP or OPT, beyond their pixels."""

    laterality_from: GroupPattern | None = None
    """Regular expression whose one group is the side in a path: R, L, OD, OS, right or left. Unset: whole words."""
    view_from: GroupPattern | None = None
    """Regular expression whose one group says macula or disc in a path. Unset: whole words of the file name."""
    not_fundus: Literal["refuse", "flag"] = "refuse"
    """Color photographs of modality OP that show no fundus: refuse them, or take and flag them."""


def eye_attributes(candidate: Candidate, modality: str, config: EyeConfig) -> dict[str, str]:
    """Return side and center of the eye in an image of modality OP or OPT, as far as they are known.

    Raises:
        LateralityError: If two elements, or an element and the path, differ on the side, or if it shows both eyes.
    """
    if modality not in MODALITIES:
        return {}
    said = eye_said(candidate.item)
    side = _agreed({**said.sides, **_named(candidate, config)}, candidate.item)
    view = said.view or _view(candidate.paths[0], config)
    return {key: word for key, word in ((LATERALITY, side), (VIEW, view)) if word}


def paired(
    candidates: Sequence[Candidate], modality: str, *, folders_are_classes: bool = False
) -> tuple[Candidate, ...]:
    """Return the candidates, images of the eye whose paths differ in the word for the side alone being of one patient.

    Those of known patients stay as they are. `modality` is meant where a file says none. Where folders are classes, in
    which the eyes of a patient may differ, names alone decide.
    """
    return tuple(_paired(one, one.item.modality or modality, folders_are_classes) for one in candidates)


def _paired(candidate: Candidate, modality: str, folders_are_classes: bool) -> Candidate:
    first = PurePosixPath(candidate.paths[0])
    path = (first if len(candidate.paths) == 1 else first.parent).as_posix()  # of slices, their folder
    is_known = candidate.patient.is_known_elsewhere or candidate.patient.id != path + place_in_file(candidate.item)
    if modality not in MODALITIES or is_known or candidate.item.index is not None:
        return candidate
    name = PurePosixPath(path)
    stem = _SIDE.sub("", name.stem)
    if stem == name.stem or not re.search(r"\w", stem.replace("_", "")):
        return candidate  # without a side in its name, or with nothing else in it
    both = stem if folders_are_classes else (name.parent / stem).as_posix()
    return replace(candidate, patient=Patient(both, is_assumed=True))


def _named(candidate: Candidate, config: EyeConfig) -> dict[str, frozenset[str]]:
    """Return what the paths of its files say of the side; of slices, the name of their folder counts as theirs does."""
    names = {PurePosixPath(path).parent.as_posix() for path in candidate.paths} if len(candidate.paths) > 1 else ()
    found = {side for path in (*candidate.paths, *names) for side in _sides_in(path, config)}
    return {"its path": frozenset(found)} if found else {}


def _sides_in(path: str, config: EyeConfig) -> set[str]:
    if config.laterality_from is not None:
        match = re.search(config.laterality_from, path)
        word = (match.group(1) or "").casefold() if match else ""
        if match and word not in POINTED_WORDS:
            raise LateralityError(
                "what scanning.eye.laterality_from finds in its path is no side; expected R, L, OD or OS"
            )
        return {POINTED_WORDS[word]} if match else set()
    *folders, name = PurePosixPath(path).parts
    words = [word.casefold() for word in _WORD.findall(PurePosixPath(name).stem)]
    return {SIDE_WORDS[word] for word in (*words, *(folder.casefold() for folder in folders)) if word in SIDE_WORDS}


def _view(path: str, config: EyeConfig) -> str:
    if config.view_from is not None:
        match = re.search(config.view_from, path)
        words = [(match.group(1) or "").casefold()] if match else []
    else:
        words = [word.casefold() for word in _WORD.findall(PurePosixPath(path).stem)]
    return "-".join(sorted({VIEW_WORDS[word] for word in words if word in VIEW_WORDS}))


def _agreed(said: Mapping[str, frozenset[str]], item: Item) -> str:
    sides = {side for those in said.values() for side in those}
    if len(sides) == 1 and "both" not in sides:
        return sides.pop()
    if not sides:
        return ""
    told = [f"{who} says {' and '.join(sorted(those, reverse=True))}" for who, those in said.items()]
    raise LateralityError(
        f"{', '.join(told)}; expected {'a volume' if item.kind == 'volume' else 'an image'} of one eye: correct what "
        "is wrong, or leave it out"
    )
