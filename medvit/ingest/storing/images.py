"""Storage of image pixels in the array store; a run can be resumed after every image.

The outcome of each image is a line of a file in the dataset. A resumed run reads these lines and stores only the
missing images; an update reuses unchanged images of the earlier dataset. Each line has a state: a hash of the names and
stamps of the image's files, the options, and the versions of the code that reads and checks images. An image is read
again if its state changed.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy import ndarray as Array

from medvit.attributes import BURNED_IN_TEXT, OFFERED
from medvit.dataset.measures import num_instances
from medvit.dataset.store import Store
from medvit.deidentification.burned_in import FATES, BurnedInConfig, Fate, checked
from medvit.engine import EngineConfig, map_items
from medvit.engine.outcome import Outcome
from medvit.errors import DataError, MedvitError, OutputError
from medvit.files.atomic import write_text
from medvit.hardware import keep_freed_memory
from medvit.ingest.curation import examined
from medvit.ingest.file_stamps import TAKING_ROOMS, Stamp, StateOf, stamp, version_of
from medvit.ingest.laterality import EyeConfig
from medvit.ingest.mask_meaning import MaskMeaning
from medvit.ingest.storing import PROGRESS, Stored, Workplace
from medvit.ingest.storing.masks import mask_state
from medvit.readers import mask_files
from medvit.readers.channels import joined
from medvit.readers.options import ValuesConfig
from medvit.records import IGNORED, Candidate, Item, Kind, Refusal, Row, Taken
from medvit.types import Image

log = logging.getLogger("medvit")

KEPT_BYTES = 2**27
"""Bytes of freed memory that a process keeps for its next arrays."""


@dataclass(frozen=True)
class ReadAndStore:
    """Function object that reads and stores one image with its label map.

    `modality` applies to files that do not state one.

    `meaning` is the meaning of the label-map values; `values` selects which pixel values are read.
    """

    store: Path
    modality: str
    meaning: MaskMeaning = field(default_factory=MaskMeaning)
    values: ValuesConfig = field(default_factory=ValuesConfig)
    burned_in: BurnedInConfig = field(default_factory=BurnedInConfig)
    eye: EyeConfig = field(default_factory=EyeConfig)

    def __call__(self, candidate: Candidate) -> Taken:
        """Store a candidate; return its record.

        Raises:
            DataError: If the image or its field of view cannot be read, or its label map has a class without a name or
                one that is not annotated.
            OutputError: If the store cannot be written.
        """
        from medvit import readers

        keep_freed_memory(KEPT_BYTES)
        image, fate = self._read(self.values.of(candidate.item))
        has_ignored = bool(self.meaning.ignored)
        counted = None
        if image.mask is not None:
            if self.meaning.are_instances:
                counted = num_instances(image.mask, self.meaning.ignored)
            field, classes = readers.read_field(candidate.item, image), self.meaning.of(image.mask)
            self.meaning.require_annotated(classes, candidate.annotated)
            if field is not None:
                classes, has_ignored = _ignored_outside(classes, field, has_ignored=has_ignored), True
            image = replace(image, mask=classes)
        modality = image.modality or candidate.item.modality or self.modality
        found = examined(replace(image, modality=modality), candidate, self.eye)
        if fate:
            found["attributes"][BURNED_IN_TEXT] = fate  # such images are not shown on cards
        store = Store(self.store)
        return Taken(
            sha256=store.put(image.pixels),
            shape=tuple(image.pixels.shape),
            dtype=image.pixels.dtype.name,
            modality=modality,
            mask=None if image.mask is None else store.put(image.mask),
            num_mask_values=_num_classes(image.mask, has_ignored=has_ignored),
            num_instances=counted,
            spacing_mm=None if image.affine is None else image.affine.spacing_mm,
            affine=None if image.affine is None else tuple(map(float, image.affine.matrix.ravel())),
            mpp=image.mpp,
            slope=float(image.slope),
            intercept=float(image.intercept),
            unit=image.unit,
            padding=image.padding,
            fallback=image.fallback,
            **found,
            writing=fate,
        )

    def _read(self, item: Item) -> tuple[Image, Fate]:
        """Return an image after the check for burned-in text; each named channel is checked by itself."""
        from medvit import readers

        if not item.channels:
            return checked(readers.read(item), item, self.burned_in, self.modality)
        parts = [checked(readers.read(part), part, self.burned_in, self.modality) for part in item.parts]
        image = joined(item, [image for image, _ in parts])
        return readers.with_mask(image, item), max((fate for _, fate in parts), key=FATES.index)


def _num_classes(mask: Array | None, *, has_ignored: bool) -> int:
    """Return the number of classes in a label map: its largest value plus one."""
    if mask is None:
        return 0
    return int(mask.max(initial=0, where=(mask != IGNORED) if has_ignored else np.True_)) + 1


def _ignored_outside(labels: Array, inside: Array, *, has_ignored: bool) -> Array:
    """Return a label map of class numbers with `IGNORED` outside the field of view."""
    num_classes = _num_classes(labels, has_ignored=has_ignored)
    if num_classes > IGNORED:
        raise DataError(
            f"the label map has {num_classes} classes; with scanning.field_of_view_folder, expected at most {IGNORED}"
        )
    return np.where(inside, labels, IGNORED).astype(np.uint8)


@dataclass(frozen=True)
class Pixels:
    """Strategy for 2D images and volumes, which puts their pixels and label maps into the store.

    `counts` contains the pixel counts of label-map values, keyed by `masks.mask_state` of the image.
    """

    read: ReadAndStore
    counts: Mapping[str, Mapping[str, int]]
    place: Workplace

    def takes(self, kind: Kind) -> bool:
        """Return whether the kind is image or volume."""
        return kind != "slide"

    def store(self, candidates: Sequence[Candidate]) -> Stored:
        """Read and store candidates.

        Raises:
            OutputError: If the store cannot be written.
        """
        place = self.place
        return store_images(
            candidates,
            self.read,
            folder=place.folder,
            engine=place.engine,
            state=place.site.pseudonyms.state,
            stamps=place.stamps,
            earlier=place.earlier,
            counts=self.counts,
        )

    def rows(self, candidates: Sequence[Candidate], rows: Sequence[Row]) -> tuple[Row, ...]:
        """Return the rows unchanged."""
        return tuple(rows)

    def remove_unused(self, rows: Sequence[Row]) -> None:
        """Remove arrays without a row from the store."""
        addresses = {address for row in rows for address in (row.sha256, row.mask)}
        folder = Store(self.read.store).folder
        for path in folder.glob("*/*"):
            if path.stem not in addresses:
                path.unlink()
        for group in folder.glob("*"):
            if not any(group.iterdir()):
                group.rmdir()


def store_images(
    candidates: Sequence[Candidate],
    function: ReadAndStore,
    *,
    folder: Path,
    engine: EngineConfig,
    state: StateOf,
    stamps: Mapping[Path, Stamp] | None = None,
    earlier: Path | None = None,
    counts: Mapping[str, Mapping[str, int]] | None = None,
) -> Stored:
    """Read and store all images, continuing an unfinished run; a failing image never stops the others.

    Unchanged images of the dataset in the folder `earlier` are linked from that dataset. `stamps` are the known stamps
    of source files. `counts` are the pixel counts of label-map values (`Masks.counts`).

    Raises:
        OutputError: If the store cannot be written.
    """
    path, store = folder / PROGRESS, Store(function.store)
    options = {key: value for key, value in asdict(function).items() if key not in ("store", "meaning")}
    version, meaning, stamps, counts = version_of(TAKING_ROOMS), asdict(function.meaning), stamps or {}, counts or {}
    # The meaning of label maps may change with any of them; images without a label map must not be read again for that.
    means = {one.key: (meaning,) if mask_files(one.item) else () for one in candidates}
    states = {one.key: state(options, version, *means[one.key], *facts_of(one, stamps)) for one in candidates}
    done = _done(path, store)
    if earlier is not None:
        _take_over(earlier, set(states.values()) - done.keys(), path, store)
        done = _done(path, store)
    taken = {candidate.key: done[states[candidate.key]] for candidate in candidates if states[candidate.key] in done}
    if taken:
        log.info("%d of %d images were stored by the earlier run", len(taken), len(candidates))
    waiting = [candidate for candidate in candidates if candidate.key not in taken]
    refusals: list[Refusal] = []
    with _Lines(path) as lines:
        sizes = [num_bytes(candidate, stamps) for candidate in waiting]
        for outcome in map_items(function, waiting, config=engine, title="ingest", costs=sizes):
            if outcome.result is not None:
                found = _with_counts(outcome.result, outcome.item, state, stamps, counts)
                taken[outcome.item.key] = found
                lines.add(states[outcome.item.key], found)
            else:
                refusals.append(_refusal(outcome))
    if taken:
        write_text(path, "".join(_line(states[one.key], taken[one.key]) for one in candidates if one.key in taken))
    for wish, count in sorted(Counter(one.fallback for one in taken.values() if one.fallback).items()):
        log.warning(
            "%s could not be applied to %d images, which lack the required elements; their stored values are used",
            wish,
            count,
        )
    offered = Counter(one.attributes[OFFERED] for one in taken.values() if OFFERED in one.attributes)
    for labels, count in sorted(offered.items()):
        log.info(
            "%d images have real-world value mappings that were not requested; taking.values.mapping=LABEL applies "
            "one of: %s",
            count,
            labels,
        )
    return Stored(taken, tuple(refusals))


def _with_counts(
    taken: Taken,
    candidate: Candidate,
    state: StateOf,
    stamps: Mapping[Path, Stamp],
    counts: Mapping[str, Mapping[str, int]],
) -> Taken:
    if not counts or not mask_files(candidate.item):
        return taken
    found = mask_state(candidate, state, stamps)
    return replace(taken, mask_state=found, mask_values=counts.get(found, {}))


def _take_over(earlier: Path, states: set[str], path: Path, store: Store) -> None:
    """Reuse the images of an earlier dataset that have one of the given states.

    The arrays of these images are linked into the store, and their records are added to the file `path`.
    """
    there = Store(earlier / "images")
    with _Lines(path) as lines:
        for state, taken in _done(earlier / PROGRESS, there).items():
            if state in states:
                for address in filter(None, (taken.sha256, taken.mask)):
                    store.link(there, address)
                lines.add(state, taken)


def _line(state: str, taken: Taken) -> str:
    return json.dumps({"state": state, "taken": vars(taken)}) + "\n"


class _Lines:
    """File with one line per stored image; each line is on disk before the next one is written."""

    def __init__(self, path: Path) -> None:
        self._path, self._stack = path, ExitStack()
        self._file: TextIO | None = None

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, state: str, taken: Taken) -> None:
        """Append the record and the state of an image."""
        if self._file is None:  # a run without new images does not write a file
            self._file = self._stack.enter_context(self._path.open("a", encoding="utf-8"))
        self._file.write(_line(state, taken))
        self._file.flush()


def _refusal(outcome: Outcome[Candidate, Taken]) -> Refusal:
    error = outcome.error
    if isinstance(error, OutputError):
        raise error
    if isinstance(error, MedvitError):
        return outcome.item.refused(error.code, str(error))
    # The text of a library's error may name a file or a patient.
    return outcome.item.refused("unreadable", f"reading stopped at an unexpected {type(error).__name__}")


def num_bytes(candidate: Candidate, stamps: Mapping[Path, Stamp]) -> int:
    """Return the total size of the files of an image; files without a stamp are not counted."""
    return sum(stamps[file].size for file in candidate.item.files if file in stamps)


def facts_of(candidate: Candidate, stamps: Mapping[Path, Stamp]) -> list[object]:
    """Return the facts about an image from which its state is computed.

    These are its location, the way in which it is read, and the names and stamps of its files. A stored image is reused
    while its state is unchanged.
    """
    item = candidate.item
    files = [*item.files, *mask_files(item), *filter(None, (item.field_of_view,))]
    how = (item.reader, item.kind, item.modality, item.index, item.frames, item.part, item.is_resampled)
    grid = (item.nifti_form, item.assumed_axes)
    partly = [] if candidate.annotated is None else [["annotated", *candidate.annotated]]
    channels = [(name, *facts_of(replace(candidate, item=part), stamps)) for name, part in item.channels]
    stamped = ((file.name, *(stamps.get(file) or stamp(file))) for file in files)
    return [candidate.key, how, grid, *partly, *stamped, *channels]


def _done(path: Path, store: Store) -> dict[str, Taken]:
    """Return the records of stored images in the file `path`, keyed by the state of the image.

    Records whose arrays are no longer in the store are skipped. An incomplete last line of the file is removed.
    """
    if not path.is_file():
        return {}
    content = path.read_bytes()
    whole = content.rpartition(b"\n")[0]
    if len(whole) + 1 < len(content):
        os.truncate(path, len(whole) + 1 if whole else 0)
    done = {}
    for line in whole.splitlines():
        tree = json.loads(line)
        taken = Taken.of(tree["taken"])
        if taken.sha256 in store and (taken.mask is None or taken.mask in store):
            done[tree["state"]] = taken
    return done
