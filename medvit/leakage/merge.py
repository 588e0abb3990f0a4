"""Merging of datasets: the splits of patients remain separate, and volumes may be converted to slices.

If the images of a patient (by pseudonym) are in several splits of the datasets, only those in the strictest split are
kept: those in test, or those in val if there are none in test. The same applies to identical images and near
duplicates. If the classes of a label differ between the datasets, the name of the dataset is added to the label as a
prefix. Labels that are measured numbers, such as ages, keep their names: their values differ in any case.
"""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int, Num
from numpy import ndarray as Array

from medvit.attributes import MAPPING, OFFERED
from medvit.dataset.manifest import Facts, Manifest
from medvit.dataset.quarantine import Quarantined
from medvit.dataset.store import Store
from medvit.dicom.header import RADIOGRAPHS
from medvit.errors import DataError
from medvit.leakage import Check, Overlap, find_overlaps
from medvit.leakage.perceptual_hash import hash_image
from medvit.records import IGNORED, Row, Split

log = logging.getLogger("medvit")

MAX_GRADES = 20
"""Maximum number of different whole numbers of a label that can be classes; more are measured numbers."""
PROTECTED: tuple[Split, ...] = ("test", "calibration", "val", "train")
"""Splits by priority: an image shared by several splits remains in the first of these."""
CHECKS: Mapping[Check, str] = {"patient": "patient", "pixel": "pixels", "perceptual": "looks"}
"""Facts that splits must not share, and their names in messages."""
LEAKAGE = "leakage"
LabelMaps = Literal["equal", "union"]
Numbers = Int[Array, "256"]
"""Number of each class of a dataset among the merged classes."""
_UNNAMED = re.compile(r"(class|value) \d+")
"""Names that ingest gives to classes without a name."""


@dataclass(frozen=True)
class Merged:
    """Merged dataset, and the images that were excluded because a stricter split has the same patient or image."""

    manifest: Manifest
    left_out: tuple[Quarantined, ...]


OF_VALUES: Mapping[str, Callable[[Row], bool]] = {
    "pet": lambda row: row.modality == "PT",
    "radiographs": lambda row: row.modality in RADIOGRAPHS,
    "mapping": lambda row: MAPPING in row.attributes or OFFERED in row.attributes,
}
"""Option of `values.*` -> function that returns whether the option could have changed the meaning of an image's
values.
"""


def merge(
    parts: Sequence[Manifest], folder: Path, *, name: str, slices: int = 0, label_maps: LabelMaps = "equal"
) -> Merged:
    """Merge datasets into a folder. The arrays are linked or copied into its store; the manifest is not written.

    If `slices` is set, each volume is replaced by this many evenly spaced slices across its axis of coarsest spacing.

    Raises:
        DataError: If two datasets contain the same image, by its pseudonym, or if the classes of their label maps
            cannot be merged by name.
        OutputError: If the pixels cannot be linked or copied.
    """
    _require_distinct(parts)
    left_out = _leaking(parts)
    numeric = _numeric(parts)
    keys, masks = _ambiguous(parts) - numeric.keys(), _merged(parts) if label_maps == "union" else _masks(parts)
    if not masks and any(row.mask for part in parts for row in part):
        log.warning(
            "all label maps are dropped, because their classes are not the same in all datasets; label_maps=union "
            "keeps them"
        )
    store, rows = Store(folder / "images"), []
    for part in parts:
        numbers = _numbers(part.facts.mask_classes, masks)
        for row in part.filter(lambda row: row.image_id not in left_out):
            labels = _labels(row.labels, part.facts.name, keys)
            labeled = replace(row, labels=labels) if masks else replace(row, labels=labels, mask=None, annotated=None)
            if numbers is not None and labeled.mask is not None:
                annotated = tuple(part.facts.mask_classes[1:]) if row.annotated is None else row.annotated
                labeled = replace(labeled, annotated=annotated if len(annotated) < len(masks) - 1 else None)
            if slices and row.kind == "volume":
                rows += _sliced(labeled, part.store, store, slices, numbers)
            else:
                rows.append(_taken_over(labeled, part.store, store, numbers))
    facts = Facts(
        name,
        license=_listed(part.facts.license for part in parts),
        source=_listed(part.facts.source for part in parts),
        description="merged: " + ", ".join(part.facts.name for part in parts),
        classes={key: names for part in parts for key, names in _classes(part, keys).items()} | numeric,
        mask_classes=masks,
        positive=_positive(parts, keys),
        values=_values(parts),
        notes=tuple(f"{part.facts.name}: {note}" for part in parts for note in part.facts.notes),
    )
    manifest = Manifest(tuple(sorted(rows, key=lambda row: row.image_id)), facts, folder)
    return Merged(manifest, tuple(Quarantined(image, LEAKAGE, reason, 1) for image, reason in sorted(left_out.items())))


def slices_of(voxels: Num[Array, "c i j k"], axis: int, count: int) -> Iterator[tuple[int, Num[Array, "c h w"]]]:
    """Yield number and pixels of at most `count` evenly spaced slices across an axis of a volume in RAS+.

    Slices are in display orientation: the top row is superior (anterior in axial slices), and the left column is the
    patient's right (anterior in sagittal slices).
    """
    depth = voxels.shape[axis + 1]
    num = min(count, depth)
    for index in ((2 * np.arange(num) + 1) * depth // (2 * num)).tolist():
        plane = np.take(voxels, index, axis=axis + 1)
        yield index, np.ascontiguousarray(plane.swapaxes(1, 2)[:, ::-1, ::-1])


def _values(parts: Sequence[Manifest]) -> dict[str, str]:
    """Return the options of `values.*` that all parts share.

    Raises:
        DataError: If pixel values of one kind have different meanings in different parts.
    """
    given = {key: value for part in parts for key, value in part.facts.values.items()}
    for key, value in given.items():
        for part in parts:
            other = part.facts.values.get(key, "")
            if other != value and (other or any(map(OF_VALUES[key], part.rows))):
                raise DataError(
                    f"{part.folder} was ingested with values.{key} {other or 'unset'}, but another of the datasets "
                    f"with {value}; ingest both with the same value"
                )
    return given


def _require_distinct(parts: Sequence[Manifest]) -> None:
    held = Counter(row.image_id for part in parts for row in part)
    twice = [image for image, times in held.items() if times > 1]
    if twice:
        folders = [str(part.folder) for part in parts if any(row.image_id in twice for row in part)]
        raise DataError(
            f"{len(twice)} images are in several of {', '.join(folders)}, first {twice[0]}; name each dataset once, "
            "and give datasets of different sources different names when they are ingested"
        )


def _leaking(parts: Sequence[Manifest]) -> dict[str, str]:
    """Return the images to exclude because a stricter split has the same image or patient, each with the reason."""
    named = {str(number): part for number, part in enumerate(parts)}
    found: dict[str, str] = {}
    for overlap in find_overlaps(named, CHECKS.keys()):
        found |= dict.fromkeys(_less_protected(overlap), f"a more protected split has the same {CHECKS[overlap.check]}")
    return found


def _less_protected(overlap: Overlap) -> set[str]:
    first = min(PROTECTED.index(member.row.split) for member in overlap.members)
    return {member.row.image_id for member in overlap.members if member.row.split != PROTECTED[first]}


def _ambiguous(parts: Sequence[Manifest]) -> set[str]:
    """Return the labels whose classes are different in different datasets."""
    meanings: dict[str, set[tuple[str, ...]]] = {}
    for part in parts:
        for key, names in part.facts.classes.items():
            meanings.setdefault(key, set()).add(tuple(names))
    return {key for key, found in meanings.items() if len(found) > 1}


def _numeric(parts: Sequence[Manifest]) -> dict[str, tuple[str, ...]]:
    """Return the labels of several datasets that are measured numbers, with all their values in ascending order.

    Values of a label are measured numbers if they are numbers, and not all whole, or more than `MAX_GRADES`.
    """
    values: dict[str, list[tuple[str, ...]]] = {}
    for part in parts:
        for key, names in part.facts.classes.items():
            values.setdefault(key, []).append(tuple(names))
    found = {}
    for key, each in values.items():
        numbers = {name: _number(name) for names in each for name in names}
        are_numbers = all(map(math.isfinite, numbers.values()))
        if len(set(each)) > 1 and are_numbers and not _can_be_classes(numbers.values()):
            log.warning("the numbers of %s are merged; check that they have the same unit in all datasets", key)
            found[key] = tuple(sorted(numbers, key=lambda name: (numbers[name], name)))
    return found


def _can_be_classes(numbers: Collection[float]) -> bool:
    return len(numbers) <= MAX_GRADES and all(number.is_integer() for number in numbers)


def _number(text: str) -> float:
    """Return a number; NaN for any other text."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _labels(labels: Mapping[str, str], dataset: str, ambiguous: set[str]) -> dict[str, str]:
    return {f"{dataset}.{key}" if key in ambiguous else key: value for key, value in labels.items()}


def _classes(part: Manifest, ambiguous: set[str]) -> dict[str, tuple[str, ...]]:
    found = part.facts.classes
    return {f"{part.facts.name}.{key}" if key in ambiguous else key: tuple(names) for key, names in found.items()}


def _positive(parts: Sequence[Manifest], ambiguous: set[str]) -> dict[str, str]:
    """Return the positive class of each label; labels with different positive classes in the datasets are omitted."""
    found: dict[str, set[str]] = {}
    for part in parts:
        for key, name in part.facts.positive.items():
            found.setdefault(f"{part.facts.name}.{key}" if key in ambiguous else key, set()).add(name)
    return {key: names.pop() for key, names in found.items() if len(names) == 1}


def _masks(parts: Sequence[Manifest]) -> tuple[str, ...]:
    """Return the classes of label maps if all datasets with label maps agree.

    If they do not agree, the result is empty, and label maps are dropped.
    """
    meanings = {tuple(part.facts.mask_classes) for part in parts if any(row.mask for row in part)}
    return meanings.pop() if len(meanings) == 1 else ()


def _merged(parts: Sequence[Manifest]) -> tuple[str, ...]:
    """Return the classes of all label maps together; classes of one name are one class.

    Raises:
        DataError: If their backgrounds have different names, a class has no name, or there are too many classes.
    """
    with_masks = [part for part in parts if any(row.mask for row in part)]
    names = tuple(dict.fromkeys(name for part in with_masks for name in part.facts.mask_classes))
    for part in with_masks if _masks(parts) != names else ():
        classes = part.facts.mask_classes
        unnamed = [one for one in classes if _UNNAMED.fullmatch(one)]
        if unnamed or not classes:
            raise DataError(
                f"{part.folder}: classes of its label maps have no names ({', '.join(unnamed) or 'instances'}), and "
                "label_maps=union merges classes by name; ingest it again with labeling.mask_classes"
            )
        if classes[0] != names[0]:
            raise DataError(
                f"{part.folder}: the background of its label maps is {classes[0]!r}, and {names[0]!r} in another "
                "dataset; ingest one of them again with the same name first in labeling.mask_classes"
            )
    if len(names) > IGNORED:
        raise DataError(f"the label maps have {len(names)} classes together; expected at most {IGNORED}")
    return names


def _numbers(classes: Sequence[str], merged: Sequence[str]) -> Numbers | None:
    """Return the number of each class of a dataset among the merged classes; None if they are the same."""
    if not merged or tuple(classes) == tuple(merged):
        return None
    numbers = np.full(IGNORED + 1, IGNORED, dtype=np.uint8)
    numbers[: len(classes)] = [merged.index(name) for name in classes]
    return numbers


def _taken_over(row: Row, theirs: Store, ours: Store, numbers: Numbers | None) -> Row:
    ours.link(theirs, row.sha256)
    if row.mask is None:
        return row
    if numbers is not None:
        return replace(row, mask=ours.put(numbers[theirs.get(row.mask)]))
    ours.link(theirs, row.mask)
    return row


def _sliced(row: Row, theirs: Store, ours: Store, count: int, numbers: Numbers | None) -> list[Row]:
    spacing = row.spacing_mm or (1.0, 1.0, 1.0)
    axis = max(range(3), key=lambda n: (spacing[n], n))
    pixels = slices_of(theirs.get(row.sha256), axis, count)
    masks = None
    if row.mask is not None:
        labels = theirs.get(row.mask)
        masks = dict(slices_of((labels if numbers is None else numbers[labels])[None], axis, count))
    return [
        replace(
            row,
            image_id=f"{row.image_id}-{index:04d}",
            kind="image",
            shape=plane.shape,
            sha256=ours.put(plane),
            mask=None if masks is None else ours.put(masks[index][0]),
            spacing_mm=None,
            affine=None,
            part=f"{row.part} slice {index}".strip(),
            perceptual_hash=hash_image(plane),
            file_sha256=None,
        )
        for index, plane in pixels
    ]


def _listed(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(filter(None, texts)))
