"""Reads the pixels of what was found and puts them into the store; what is done is done, whatever happens then.

The outcome of an image is a line of a file in the unfinished dataset. A run that goes on reads the lines and takes
only what is missing. The key of a line covers names, sizes and times of change of the files, so that a file that has
changed meanwhile is read again.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from numpy import ndarray as Array

from medvit.engine import EngineConfig, Outcome, map_items
from medvit.errors import DataError, MedvitError, OutputError
from medvit.ingest import Candidate, Taken
from medvit.ingest.burned_in import BurnedInConfig, checked
from medvit.manifest import Manifest
from medvit.samples import Refusal
from medvit.store import Store

log = logging.getLogger("medvit")

PROGRESS = ".progress.jsonl"


@dataclass(frozen=True)
class Stored:
    """What was taken, by `Candidate.key`, and what could not be."""

    taken: dict[str, Taken]
    refusals: tuple[Refusal, ...]


@dataclass(frozen=True)
class ReadAndStore:
    """Reads one image and stores it, with its label map; `modality` is meant where the file says none.

    `num_mask_classes` is the number of classes that label maps may have, 0 if any.
    """

    store: Path
    modality: str
    num_mask_classes: int
    burned_in: BurnedInConfig = field(default_factory=BurnedInConfig)

    def __call__(self, candidate: Candidate) -> Taken:
        """What was stored of a candidate.

        Raises:
            DataError: One of its kinds, if it cannot be read or its label map has a class without a name.
            OutputError: If the store cannot be written.
        """
        from medvit import readers

        image, fate = checked(readers.read(candidate.item), candidate.item, self.burned_in, self.modality)
        self._check_mask(image.mask)
        store = Store(self.store)
        return Taken(
            sha256=store.put(image.pixels),
            shape=tuple(image.pixels.shape),
            dtype=image.pixels.dtype.name,
            modality=image.modality or candidate.item.modality or self.modality,
            mask=None if image.mask is None else store.put(image.mask),
            num_mask_values=0 if image.mask is None else int(image.mask.max(initial=0)) + 1,
            spacing_mm=None if image.affine is None else image.affine.spacing_mm,
            affine=None if image.affine is None else tuple(map(float, image.affine.matrix.ravel())),
            mpp=image.mpp,
            slope=float(image.slope),
            intercept=float(image.intercept),
            unit=image.unit,
            writing=fate,
        )

    def _check_mask(self, mask: Array | None) -> None:
        if mask is None:
            return
        low, high = int(mask.min(initial=0)), int(mask.max(initial=0))
        if low < 0:
            raise DataError(f"the label map holds {low}; expected class numbers from 0 on")
        if self.num_mask_classes and high >= self.num_mask_classes:
            raise DataError(
                f"the label map holds {high}; mask_classes names {self.num_mask_classes} classes, "
                f"expected 0 to {self.num_mask_classes - 1}"
            )


def take(
    candidates: Sequence[Candidate],
    function: ReadAndStore,
    *,
    folder: Path,
    engine: EngineConfig,
    state: Callable[..., str],
) -> Stored:
    """Reads and stores all images, going on where an earlier run stopped; one that fails never stops the others.

    Raises:
        OutputError: If the store cannot be written.
    """
    path = folder / PROGRESS
    states = {candidate.key: state(*_facts(candidate)) for candidate in candidates}
    done = _done(path, Store(function.store))
    taken = {candidate.key: done[states[candidate.key]] for candidate in candidates if states[candidate.key] in done}
    if taken:
        log.info("%d of %d images are there from the run before", len(taken), len(candidates))
    waiting = [candidate for candidate in candidates if candidate.key not in taken]
    refusals: list[Refusal] = []
    for outcome in map_items(function, waiting, config=engine, title="ingest"):
        if outcome.result is not None:
            taken[outcome.item.key] = outcome.result
            _append(path, states[outcome.item.key], outcome.result)
        else:
            refusals.append(_refusal(outcome))
    return Stored(taken, tuple(refusals))


def clean(manifest: Manifest) -> None:
    """Removes from the folder of a finished dataset what only the way to it needed: the progress, arrays of no row."""
    (manifest.folder / PROGRESS).unlink(missing_ok=True)
    addresses = {address for row in manifest for address in (row.sha256, row.mask)}
    for path in manifest.store.folder.glob("*/*"):
        if path.stem not in addresses:
            path.unlink()
    for group in manifest.store.folder.iterdir():
        if not any(group.iterdir()):
            group.rmdir()


def _refusal(outcome: Outcome[Candidate, Taken]) -> Refusal:
    error = outcome.error
    if isinstance(error, OutputError):
        raise error
    if isinstance(error, MedvitError):
        return outcome.item.refused(error.code, str(error))
    # The text of a library's error may name a file or a patient.
    return outcome.item.refused("unreadable", f"reading stopped at an unexpected {type(error).__name__}")


def _facts(candidate: Candidate) -> list[object]:
    files = [*candidate.item.files, *([candidate.item.mask] if candidate.item.mask else [])]
    return [candidate.key, *(fact for file in files for fact in _file_facts(file))]


def _file_facts(file: Path) -> tuple[str, int, int]:
    try:
        status = file.stat()
    except OSError:
        return file.name, 0, 0  # it has gone; reading it will say so
    return file.name, status.st_size, status.st_mtime_ns


def _done(path: Path, store: Store) -> dict[str, Taken]:
    """What earlier runs took, as far as the store still has it; a line cut off by their end is cut from the file."""
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


def _append(path: Path, state: str, taken: Taken) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"state": state, "taken": asdict(taken)}) + "\n")
