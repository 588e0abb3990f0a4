"""Places to search: the dataset, its de-identified copy, the MLflow stores that recorded its runs, and others."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from medvit.audit.matcher import Trace
from medvit.audit.search import Search
from medvit.errors import DataError
from medvit.tracking import ARTIFACTS, TrackingConfig, database, holds_runs, recorded

log = logging.getLogger("medvit")


@dataclass(frozen=True)
class Place:
    """Folder or file to search, and the name by which findings refer to it."""

    title: str
    path: Path

    def traces(self, search: Search) -> Iterator[Trace]:
        """Yield the findings in this place."""
        yield from search.folder(self.path, self.title)


class CopyPlace(Place):
    """De-identified DICOM copy."""

    def traces(self, search: Search) -> Iterator[Trace]:
        """Yield the findings in the copy, including dates that were not shifted."""
        yield from search.copy(self.path)


@dataclass(frozen=True)
class StorePlace:
    """MLflow store that is not an SQLite file."""

    title: str
    tracking: TrackingConfig

    def traces(self, search: Search) -> Iterator[Trace]:
        """Yield the findings in the runs of the store and in their artifacts.

        Raises:
            TrackingError: If the store cannot be searched.
        """
        with tempfile.TemporaryDirectory() as folder:
            for place, text in recorded(self.tracking, Path(folder)):
                yield from search.text(f"{self.title}, {place}", text)
            yield from search.folder(Path(folder), f"{self.title}, artifacts")


AnyPlace = Place | StorePlace


def find_places(
    dataset: Path, copy: Path | None, stores: Sequence[TrackingConfig], others: Sequence[Path], own_run: str | None
) -> list[AnyPlace]:
    """Return the places to search: dataset, de-identified copy, MLflow stores, and `others`.

    A warning is logged if no store contains a run other than `own_run`, which is the run of the audit.

    Raises:
        DataError: If the copy or one of the other places is missing.
    """
    places: list[AnyPlace] = [Place("the dataset", dataset)]
    if copy is not None:
        if not copy.is_dir():
            raise DataError(f"no DICOM copy at {copy}; give its path as copy_to=...")
        places.append(CopyPlace("the DICOM copy", copy))
    enabled = [tracking for tracking in dict.fromkeys(stores) if tracking.enabled]
    if enabled and not any(_holds_runs(tracking, own_run) for tracking in enabled):
        log.warning("no MLflow store at %s; give tracking.uri=... if there is one", enabled[0].uri)
    places += [place for tracking in enabled for place in _places_of(tracking)]
    for path in others:
        if not path.exists():
            raise DataError(f"no file or folder at {path}; expected existing files and folders in places=[...]")
        places.append(Place(path.name, path))
    return places


def _holds_runs(tracking: TrackingConfig, own_run: str | None) -> bool:
    file = database(tracking)
    return file is None or (file.exists() and holds_runs(file, besides=own_run))


def _places_of(tracking: TrackingConfig) -> list[AnyPlace]:
    file = database(tracking)
    if file is None:
        return [StorePlace("MLflow", tracking)]
    there = [path for path in (file, file.parent / ARTIFACTS) if path.exists()]
    return [Place("MLflow" if path == file else "MLflow artifacts", path) for path in there]
