"""Laterality of eye images, from DICOM elements or words in the path.

The laterality is never guessed, and contradictory sources are refused.

The two eyes of a person are similar, so they must be in the same split. Without patient identifiers, images whose paths
differ only in the word for the side are therefore assigned to the same patient.
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
from medvit.readers.laterality import MODALITIES, stated_eye
from medvit.records import Candidate, Item, Patient, place_in_file

LATERALITY, VIEW = "laterality", "view"
"""Keys of `Row.attributes`. The first has the value right or left, the second macula, disc, disc-macula or lesion."""

SIDE_WORDS: Mapping[str, str] = {"od": "right", "right": "right", "os": "left", "left": "left"}
"""Words of a path that name an eye: oculus dexter is the right one. Single letters such as R and L may mean anything,
so they count only if `laterality_from` captures them.
"""
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
    """Error for an image whose DICOM elements and path do not agree on one eye."""

    code = "laterality"


def one_group(text: str) -> str:
    """Return a regular expression unchanged after checking that it has exactly one group.

    Raises:
        ValueError: If the text is not a regular expression with exactly one group.
    """
    try:
        num_groups = re.compile(text).groups
    except re.error as error:
        raise ValueError(f"expected a regular expression, but {error}") from None
    if num_groups != 1:
        raise ValueError(
            f"expected a regular expression with one group, as in 'patient-(\\d+)'; found {num_groups} groups"
        )
    return text


GroupPattern = Annotated[str, AfterValidator(one_group)]


class EyeConfig(Config):
    """Options for eye images (modality OP or OPT): side and view, and photographs that do not show a fundus."""

    laterality_from: GroupPattern | None = None
    """Regex with one group that captures the side of the eye from the path: R, L, OD, OS, right or left. Unset: the
    side is found if it is a separate word of the path.
    """
    view_from: GroupPattern | None = None
    """Regex with one group that captures macula or disc from the path. Unset: the view is found if it is a separate
    word of the file name.
    """
    not_fundus: Literal["refuse", "flag"] = "refuse"
    """Handling of color photographs (modality OP) that do not show a fundus. refuse: exclude them. flag: keep them with
    the flag not_fundus.
    """


def eye_attributes(candidate: Candidate, modality: str, config: EyeConfig) -> dict[str, str]:
    """Return the side of the eye and the view (macula or disc) of an image of modality OP or OPT, if they are known.

    Raises:
        LateralityError: If two elements, or an element and the path, name different sides, or if the image shows both
            eyes.
    """
    if modality not in MODALITIES:
        return {}
    stated = stated_eye(candidate.item)
    side = _agreed({**stated.sides, **_named(candidate, config)}, candidate.item)
    view = stated.view or _view(candidate.paths[0], config)
    return {key: word for key, word in ((LATERALITY, side), (VIEW, view)) if word}


def paired(
    candidates: Sequence[Candidate], modality: str, *, folders_are_classes: bool = False
) -> tuple[Candidate, ...]:
    """Assign eye images whose paths differ only in the word for the side to the same patient.

    Images of known patients are unchanged. `modality` applies to files that do not state one. If folders are classes,
    only file names are compared, because the two eyes of a patient may be of different classes.
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
    """Return the sides (R, L) that the paths of an image's files name, with the key `its path`; empty without sides.

    If the image has several files, the name of their folder is also searched.
    """
    names = {PurePosixPath(path).parent.as_posix() for path in candidate.paths} if len(candidate.paths) > 1 else ()
    found = {side for path in (*candidate.paths, *names) for side in _sides_in(path, config)}
    return {"its path": frozenset(found)} if found else {}


def _sides_in(path: str, config: EyeConfig) -> set[str]:
    if config.laterality_from is not None:
        match = re.search(config.laterality_from, path)
        word = (match.group(1) or "").casefold() if match else ""
        if match and word not in POINTED_WORDS:
            raise LateralityError(
                "scanning.eye.laterality_from captures a text that does not name a side; expected R, L, OD or OS"
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


def _agreed(stated: Mapping[str, frozenset[str]], item: Item) -> str:
    sides = {side for those in stated.values() for side in those}
    if len(sides) == 1 and "both" not in sides:
        return sides.pop()
    if not sides:
        return ""
    statements = [f"{who} names {' and '.join(sorted(those, reverse=True))}" for who, those in stated.items()]
    raise LateralityError(
        f"{', '.join(statements)}; expected {'a volume' if item.kind == 'volume' else 'an image'} of one eye: correct "
        "the wrong value, or exclude the image"
    )
