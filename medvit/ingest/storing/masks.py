"""Meaning of the label maps of a source, decided from the pixel counts of each value before any image is stored."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from medvit.engine import map_items
from medvit.errors import DataError
from medvit.ingest.file_stamps import READING_ROOMS, Stamp, StateOf, stamp, version_of
from medvit.ingest.labeling import LabelingConfig
from medvit.ingest.mask_meaning import MaskCounts, MaskMeaning, counted, meaning_of
from medvit.ingest.storing import PROGRESS, Workplace
from medvit.readers import mask_files
from medvit.records import Candidate


@dataclass(frozen=True)
class Masks:
    """Label maps of a source: pixel counts of each value, and the meaning of the values.

    The counts are keyed by `mask_state` of the image.
    """

    counts: Mapping[str, Mapping[str, int]]
    meaning: MaskMeaning

    @classmethod
    def read(cls, candidates: Sequence[Candidate], config: LabelingConfig, place: Workplace) -> Self:
        """Count the values in the label maps of images, and decide their meaning over all of them.

        Raises:
            DataError: If values are ambiguous and the options do not define them.
        """
        counts = _counts(candidates, place)
        found = [MaskCounts.of_texts(one) for one in counts.values()]
        named, values, ignored = config.mask_classes, config.mask_values, config.mask_ignore
        return cls(counts, meaning_of(found, named, values=values, ignored=ignored))


@dataclass(frozen=True)
class CountMaskValues:
    """Function object that counts the values in the label maps of an image.

    The counts are empty if the label maps cannot be read; storing the image then reports the error.
    """

    def __call__(self, candidate: Candidate) -> dict[str, int]:
        """Return the counts in the form of `MaskCounts.as_texts`."""
        from medvit import readers

        found = Counter[str]()
        try:
            for one in readers.read_masks(candidate.item):
                found.update(counted(one.labels).as_texts())
        except DataError:
            return {}
        return dict(found)


def _counts(candidates: Sequence[Candidate], place: Workplace) -> dict[str, dict[str, int]]:
    """Return the pixel counts of label-map values, keyed by `mask_state` of the image.

    Counts of the unfinished run and of the earlier dataset are reused; other label maps are read.
    """
    state, stamps = place.site.pseudonyms.state, place.stamps
    states = {one.key: mask_state(one, state, stamps) for one in candidates if mask_files(one.item)}
    folders = filter(None, (place.folder, place.earlier))
    known = {found: {**values} for folder in folders for found, values in _counted_before(folder)}
    waiting = [one for one in candidates if one.key in states and states[one.key] not in known]
    for outcome in map_items(CountMaskValues(), waiting, config=place.engine, title="label maps"):
        known[states[outcome.item.key]] = outcome.result or {}
    return {found: known[found] for found in states.values()}


def mask_state(candidate: Candidate, state: StateOf, stamps: Mapping[Path, Stamp]) -> str:
    """Return the state of an image's label maps: a hash that changes with their files or the code that reads them."""
    files = mask_files(candidate.item)
    return state("label maps", version_of(READING_ROOMS), *((f.name, *(stamps.get(f) or stamp(f))) for f in files))


def _counted_before(folder: Path) -> Iterator[tuple[str, Mapping[str, int]]]:
    path = folder / PROGRESS
    for line in path.read_bytes().rpartition(b"\n")[0].splitlines() if path.is_file() else ():
        taken = json.loads(line)["taken"]
        if taken.get("mask_state"):
            yield taken["mask_state"], taken["mask_values"]
