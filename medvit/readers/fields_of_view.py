"""Fields of view in separate files: pairing with their images by name, and the pixels inside.

The user names the folders of these files (`scanning.field_of_view_folder=mask`), since nothing distinguishes them from
label maps. A file is 0 outside the field of view and has one other value inside, as in DRIVE.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from numpy import ndarray as Array

from medvit.errors import DataError
from medvit.readers.label_maps import (
    LABEL_SUFFIXES,
    ORPHAN,
    LabelMap,
    Pairing,
    check_one_grid,
    keys_beside,
    keys_in_folder,
    named_folders,
    without_files,
)
from medvit.records import Refusal
from medvit.types import Image

SUFFIXES = (*LABEL_SUFFIXES, "fov", "roi")
"""Endings that mark the file name of a field of view, if they follow `_` or `-`."""
ALONE = "in a folder of scanning.field_of_view_folder, but it has no image; rename or remove it"
SECOND = "a second field of view of one image; remove one of them"

_STEM = re.compile(rf"(.+)[_-](?:{'|'.join(SUFFIXES)})", re.IGNORECASE)


def fields_among(files: Iterable[Path], folders: Sequence[str]) -> frozenset[Path]:
    """Return the files that are fields of view: those in the named folders.

    Raises:
        DataError: If none of the folders contains a file.
    """
    if not folders:
        return frozenset()
    found = frozenset(file for file in files if _keys(file, folders))
    if not found:
        raise without_files(folders, "field_of_view_folder", "fields of view")
    return found


def pair_fields(images: Iterable[Path], fields: Iterable[Path], folders: Sequence[str]) -> Pairing:
    """Pair images with fields of view by their file names.

    A field of view without an image, or a second field of view of the same image, is refused.
    """
    by_key: dict[tuple[str, str], list[Path]] = {}
    for file in sorted(fields):
        for key in _keys(file, folders):
            by_key.setdefault(key, []).append(file)
    pairs: dict[Path, Path] = {}
    seconds: set[Path] = set()
    for image in images:
        named = [file for key in keys_beside(image) for file in by_key.get(key, ())]
        if named:
            pairs[image] = named[0]
            seconds.update(file for file in named if file != named[0])
    refused = []
    for file in sorted(set(fields) - set(pairs.values())):
        code, reason = (DataError.code, SECOND) if file in seconds else (ORPHAN, ALONE)
        refused.append(Refusal((file,), code, reason))
    return Pairing(pairs, tuple(refused))


def inside(image: Image, field: LabelMap) -> Bool[Array, "*s"]:
    """Return which pixels of an image are inside its field of view.

    Raises:
        GeometryError: If image and field of view are not on the same grid.
        DataError: If the field of view contains other values than 0 and one value inside, or is empty.
    """
    check_one_grid(image, field, "field of view")
    values = np.unique(field.labels)
    within = values[values != 0]
    if len(within) != 1:
        raise DataError(
            f"the field of view contains {len(values)} values, {values.min()} to {values.max()}; expected 0 outside "
            "and one other value inside: save it losslessly, without smoothing"
        )
    return np.asarray(field.labels != 0)


def _keys(file: Path, folders: Sequence[str]) -> list[tuple[str, str]]:
    return keys_in_folder(file, named_folders(folders), stem=_STEM)
