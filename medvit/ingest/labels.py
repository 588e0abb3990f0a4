"""Labels from folders named after classes, or from a table, and annotated classes of label maps by folder.

A class folder is a folder directly below the folder that contains all images, as in `benign/x.png` and
`malignant/y.png`. Folders named after splits are skipped, as in `Training/glioma/x.jpg` and `Testing/glioma/x.jpg`.
Since such a folder may also be named after a patient, folder names are not used by default
(`labeling.from_folders=off`). With `folder`, they are always used, also for volumes. With `auto`, they are used if all
of these conditions are true:

- All images are 2D, have no labels, and are directly in such folders.
- There are two to `MAX_CLASSES` such folders.
- Each folder contains at least `MIN_IMAGES` images and, if files name their patient, several patients.
- No folder is named like a folder of images or masks, or like an identifier (four digits in a row, a comma, a caret).
"""

from __future__ import annotations

import logging
import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Literal

from medvit.dataset.manifest import Manifest
from medvit.dataset.measures import Measure, measured_positives, with_measures
from medvit.engine import EngineConfig
from medvit.errors import DataError
from medvit.ingest.label_cells import composed, look_alikes
from medvit.records import SPLIT_NAMES, Candidate, Row

log = logging.getLogger("medvit")

LabelFrom = Literal["auto", "folder", "off"]

LABEL = "label"
"""Label key of class folders."""
MAX_CLASSES = 50
MIN_IMAGES = 4

_NO_CLASS = re.compile(r"\d{4}|[,^]|^\d*(st|nd)?_?(images?|imgs?|labels?|masks?|segmentations?|manual)(tr|ts)?$", re.I)


def from_folders(candidates: Sequence[Candidate], label_from: LabelFrom) -> tuple[Candidate, ...]:
    """Return the candidates; if `label_from` allows it, the name of the class folder is set as the label `LABEL`.

    Raises:
        DataError: If folders are requested as labels, and the channels of an image are in different folders.
    """
    folders = class_folders(candidates)
    apart = _folders_of_channels(candidates)
    if apart and label_from == "folder":
        raise DataError(
            "labeling.from_folders=folder needs all channels of an image in the folder of one class, but the channels "
            f"of an image are in {' and '.join(apart)}; move the files, or give the labels by labeling.table"
        )
    if label_from == "off":
        if are_classes(candidates, folders):
            log.info(
                "%d folders may be classes; set labeling.from_folders=folder to use their names as labels",
                len(set(folders)),
            )
        return tuple(candidates)
    if label_from == "auto" and (apart or not are_classes(candidates, folders)):
        return tuple(candidates)
    log.info("%d folders are used as classes; labeling.from_folders=off prevents it", len(set(folders)))
    labeled = tuple(
        candidate.with_labels({LABEL: folder}) if folder and not candidate.labels else candidate
        for candidate, folder in zip(candidates, folders, strict=True)
    )
    warn_of_look_alikes(labeled)
    return labeled


def _in_utf8(name: str) -> str:
    """Return a path as UTF-8 text.

    Bytes that are not UTF-8 are escaped, such as %E9. They are not replaced, because two folder names could then become
    the same class.
    """
    return "".join(f"%{ord(one) - 0xDC00:02X}" if 0xDC80 <= ord(one) <= 0xDCFF else one for one in name)


def classes(rows: Iterable[Row]) -> Mapping[str, tuple[str, ...]]:
    """Return the classes of each label in order: numerically if all are numbers, else alphabetically."""
    found: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        for key, name in row.labels.items():
            found[key].add(name)
    return {key: _ordered(found[key]) for key in sorted(found)}


def measured(
    manifest: Manifest,
    measures: Sequence[Measure],
    *,
    instances: Mapping[str, int] | None = None,
    engine: EngineConfig,
) -> Manifest:
    """Return a manifest with labels measured from its label maps; `instances` is the number of instances by image.

    Raises:
        DataError: If there is no label map with named classes, or an image already has a label with the same name.
    """
    if not measures:
        return manifest
    facts = manifest.facts
    rows = with_measures(
        manifest.rows, manifest.store, facts.mask_classes, measures, instances=instances, engine=engine
    )
    positive = {**facts.positive, **measured_positives(measures, facts.mask_classes)}
    return replace(manifest, rows=rows, facts=replace(facts, classes=classes(rows), positive=positive))


def positive_classes(candidates: Iterable[Candidate], given: Mapping[str, str] | str) -> dict[str, str]:
    """Return the positive class of each label.

    `given` is either a mapping from labels to positive classes, or a class that exactly one label has.

    Raises:
        DataError: If no label, or more than one, has the class, or if the label has more than two classes.
    """
    found: dict[str, set[str]] = defaultdict(set)
    for candidate in candidates:
        for key, name in candidate.labels.items():
            found[key].add(name)
    if isinstance(given, str):
        keys = [key for key, names in sorted(found.items()) if given in names]
        if given and len(keys) != 1:
            has = f"{len(keys)} labels have such a class ({', '.join(keys)})" if keys else "no label has such a class"
            raise DataError(
                f"labeling.positive={given}: {has}; name the label too, as in labeling.positive={{LABEL: {given}}}"
            )
        given = dict.fromkeys(keys, given) if given else {}
    for key, name in given.items():
        names = found.get(key, set()) | {name}
        if key not in found or len(names) > 2:
            has = f"it has {', '.join(_ordered(found[key]))}" if key in found else f"found {', '.join(sorted(found))}"
            raise DataError(
                f"labeling.positive names {name!r} of the label {key!r}; expected one of two classes: {has}"
            )
    return dict(given)


def with_annotated(candidates: Sequence[Candidate], folders: Mapping[str, Sequence[str]]) -> tuple[Candidate, ...]:
    """Return the candidates with the annotated classes of the folders that contain them.

    If several of the named folders contain an image, those of the innermost apply.

    Raises:
        DataError: If none of the images is in one of the folders.
    """
    named = {name.casefold(): tuple(classes) for name, classes in folders.items()}
    found = [_annotated_folder(candidate, named) for candidate in candidates]
    unused = [name for name in folders if name.casefold() not in found]
    if unused:
        raise DataError(f"labeling.annotated names the folder {unused[0]!r}, but no image of the source is in it")
    return tuple(
        candidate if folder is None else replace(candidate, annotated=named[folder])
        for candidate, folder in zip(candidates, found, strict=True)
    )


def checked_classes(candidates: Sequence[Candidate], classes: Sequence[str]) -> tuple[Candidate, ...]:
    """Return the candidates with `annotated` unset where it lists all classes; the first class is the background.

    Raises:
        DataError: If `annotated` lists a name that is not a foreground class.
    """
    foreground = tuple(classes[1:])
    known = frozenset(foreground)
    num_unknown = sum(not known >= set(one.annotated or ()) for one in candidates)
    if num_unknown:  # the cells of a table are not shown, because a wrong column may name patients
        raise DataError(
            f"{num_unknown} images have an annotated class that is not a foreground class of labeling.mask_classes; "
            f"expected some of {', '.join(foreground)}"
        )
    return tuple(
        replace(one, annotated=None)
        if one.annotated is None or known <= set(one.annotated)
        else replace(one, annotated=tuple(name for name in foreground if name in one.annotated))
        for one in candidates
    )


def warn_of_look_alikes(candidates: Iterable[Candidate]) -> None:
    """Report classes of a label that differ only in letter case, spaces or leading zeros."""
    found: dict[str, set[str]] = defaultdict(set)
    for candidate in candidates:
        for key, name in candidate.labels.items():
            found[key].add(name)
    for key, names in sorted(found.items()):
        for group in look_alikes(sorted(names)):
            log.warning(
                "the classes %s of %s differ only in letter case, spaces or leading zeros and count as different "
                "classes; if they are the same class, write them the same way",
                ", ".join(map(repr, group)),
                key,
            )


def _ordered(names: Collection[str]) -> tuple[str, ...]:
    try:
        values = {name: float(name) for name in names}
    except ValueError:
        return tuple(sorted(names))
    # A class called nan is a word: as a float it compares with nothing, and the order would depend on hashes.
    are_numbers = all(map(math.isfinite, values.values()))
    return tuple(sorted(names, key=lambda name: (values[name], name))) if are_numbers else tuple(sorted(names))


def class_folders(candidates: Sequence[Candidate]) -> list[str]:
    """Return the class folder of each candidate, whether or not its name is used as a label.

    The class folder is the first folder level of the paths at which the candidates differ. It is empty for a path that
    does not reach this level. Folders named after splits are ignored.
    """
    depth = _class_depth(candidates)
    folders = map(_folders, candidates)
    return [names[depth] if len(names) > depth else "" for names in folders]


def _class_depth(candidates: Sequence[Candidate]) -> int:
    folders = [_folders(candidate) for candidate in candidates]
    depth = 0
    while folders and all(len(names) > depth for names in folders) and len({names[depth] for names in folders}) == 1:
        depth += 1
    return depth


def _folders_of_channels(candidates: Sequence[Candidate]) -> list[str]:
    """Return the folders of the first combined image whose channels are in different class folders; empty if none."""
    end = _class_depth(candidates) + 1
    for candidate in candidates:
        found = {_folder_names(path)[:end] for path in candidate.paths} if candidate.item.channels else set()
        if len(found) > 1:
            return sorted("/".join(names) for names in found)
    return []


def _folders(candidate: Candidate) -> tuple[str, ...]:
    return _folder_names(candidate.paths[0])


def _folder_names(path: str) -> tuple[str, ...]:
    """Return the folders of a path, without those named after splits."""
    parts = PurePosixPath(composed(_in_utf8(path))).parts[:-1]
    return tuple(part for part in parts if part.casefold() not in SPLIT_NAMES)


def are_classes(candidates: Sequence[Candidate], folders: Sequence[str]) -> bool:
    """Return whether the folder of each candidate can be its class, by all rules of `labeling.from_folders=auto`."""
    members: dict[str, list[Candidate]] = defaultdict(list)
    for candidate, folder in zip(candidates, folders, strict=True):
        members[folder].append(candidate)
    return (
        all(candidate.item.kind == "image" and not candidate.labels for candidate in candidates)
        and len({len(_folders(candidate)) for candidate in candidates}) == 1
        and 2 <= len(members) <= MAX_CLASSES
        and all(len(group) >= MIN_IMAGES for group in members.values())
        and not any(not folder or _NO_CLASS.search(folder) for folder in members)
        and not any(_is_of_one_patient(group) for group in members.values())
    )


def _is_of_one_patient(group: Sequence[Candidate]) -> bool:
    return len({candidate.patient for candidate in group}) == 1


def _annotated_folder(candidate: Candidate, named: Mapping[str, object]) -> str | None:
    """Return the name of the innermost folder of an image that is among `named`; None if there is none."""
    parts = (part.casefold() for part in reversed(PurePosixPath(candidate.paths[0]).parts[:-1]))
    return next((part for part in parts if part in named), None)
