"""An audit: whether anything that identifies a patient got from a source into a dataset, its copies or the tracker."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from medvit.audit.matcher import Trace
from medvit.audit.needles import IdentifyingValues, ReadValues, Sought, sought
from medvit.audit.search import Search, by_pseudonym
from medvit.config import Config, Tree, read_yaml
from medvit.dataset.manifest import Manifest
from medvit.deidentification.pseudonyms import Pseudonyms
from medvit.engine import EngineConfig, map_items
from medvit.errors import DataError
from medvit.ingest.deidentified_copy import DeidentifyConfig
from medvit.records import Patient
from medvit.sources import Location, RetrieveConfig, fetch, local_path
from medvit.stage import CONFIG
from medvit.tracking import ARTIFACTS, TrackingConfig, database, recorded

log = logging.getLogger("medvit")

SHOWN = 200
"""Findings that are printed."""


class AuditConfig(Config):
    """Options of `medvit audit`."""

    dataset: Path
    """Dataset folder to search."""
    source: Location = Field(json_schema_extra={"private": True})
    """Folder, archive or server that the dataset was made of: what identifies patients there is what is looked for."""
    retrieve: RetrieveConfig = Field(default_factory=RetrieveConfig)
    places: tuple[Path, ...] = ()
    """More files and folders to search, such as logs, checkpoints, reports and predictions."""
    copy_to: Path | None = None
    """The de-identified DICOM copy; none takes the one that the dataset names, where it has one."""
    ignore: tuple[str, ...] = ()
    """Words not to look for, such as folder names that are classes."""
    key: Path = Field(default=Path("~/.medvit/site.key"), json_schema_extra={"private": True})
    """Key file of the pseudonyms, by which moved dates in the copy are told from original ones."""
    labels: tuple[Path, ...] = Field(default=(), json_schema_extra={"private": True})
    """Tables that the dataset was made with and that are not in the source, such as that of its labels: what they say
    is looked for as well, but for the names of classes."""
    unread: Literal["fail", "warn"] = "fail"
    """Files of the source that nobody can read, so that their texts are not looked for: exit status 3, or a warning."""
    engine: EngineConfig = Field(default_factory=EngineConfig)
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)


@dataclass(frozen=True)
class Audited:
    """What an audit found; a line for each finding is a failure, and so is what could not be searched."""

    traces: tuple[Trace, ...]
    unread: tuple[str, ...] = ()
    """A line for every reason for which files of the source could not be read, unless that is only a warning."""

    @property
    def failures(self) -> tuple[str, ...]:
        """A line for every finding, which tells its place and never the value."""
        return (*map(str, self.traces), *self.unread)


class Audit:
    """Looks in a dataset, its copies and the tracker for what identifies patients in the source.

    Writes nothing but what it prints. Found are places and the elements whose values stand there, never the values.
    """

    name = "audit"
    config_type = AuditConfig

    def __call__(self, config: AuditConfig | None = None, **options: Any) -> Audited:
        """Runs the audit.

        Raises:
            DataError: If there is no dataset, or the source holds no file.
            TrackingError: If the MLflow store cannot be searched.
        """
        return self.run(config or AuditConfig.parse(options, source=self.name))

    def run(self, config: AuditConfig) -> Audited:
        """The same, of a config."""
        manifest = Manifest.read(config.dataset)
        made_with = read_yaml(config.dataset / CONFIG)
        copying = DeidentifyConfig.parse_saved(made_with.get("deidentify") or {}, source=CONFIG)
        needles = _read(config, copying, manifest)
        search = _search(config, needles, manifest, made_with)
        places = _places(config, copying, made_with)
        traces = tuple(sorted({trace for place in places for trace in place.traces(search)}))
        unread = tuple(f"{number} files of the source: {reason}" for reason, number in sorted(needles.unread.items()))
        print(_summary(needles, places, traces, unread))
        if unread and config.unread == "warn":
            log.warning("%d files of the source could not be read", sum(needles.unread.values()))
        return Audited(traces, unread if config.unread == "fail" else ())


@dataclass(frozen=True)
class _Place:
    """A folder or file to search, under the name by which findings tell it."""

    title: str
    path: Path

    def traces(self, search: Search) -> Iterator[Trace]:
        yield from search.folder(self.path, self.title)


class _Copy(_Place):
    def traces(self, search: Search) -> Iterator[Trace]:
        yield from search.copy(self.path)


@dataclass(frozen=True)
class _Store:
    """An MLflow store that is no SQLite file."""

    title: str
    tracking: TrackingConfig

    def traces(self, search: Search) -> Iterator[Trace]:
        with tempfile.TemporaryDirectory() as folder:
            for place, text in recorded(self.tracking, Path(folder)):
                yield from search.text(f"{self.title}, {place}", text)
            yield from search.folder(Path(folder), f"{self.title}, artifacts")


def _read(config: AuditConfig, copying: DeidentifyConfig, manifest: Manifest) -> Sought:
    classes = {text for row in manifest for label in row.labels.items() for text in label}
    path = local_path(config.source)
    with tempfile.TemporaryDirectory() as work:
        local = fetch(config.source, config.retrieve, work=Path(work))
        refused = [file for refusal in local.refusals for file in refusal.files]
        names = [*local.files, *refused, *([path] if path is not None and path.is_file() else [])]
        files = [*local.files, *(_existing(table) for table in config.labels)]
        outcomes = map_items(ReadValues(copying.profile), files, config=config.engine, title="read")
        lost = (IdentifyingValues(unread=refusal.reason) for refusal in local.refusals for _ in refusal.files)
        found = chain((outcome.result or _FAILED for outcome in outcomes), lost)
        called, ignored = str(manifest.facts.name), (*config.ignore, *copying.words)
        needles = sought(names, local.root, found, ignored, num_files=len(files), dataset=called, classes=classes)
        local.discard()
    return needles


_FAILED = IdentifyingValues(unread="reading stopped at an unexpected error")


def _existing(table: Path) -> Path:
    if not table.is_file():
        raise DataError(f"no table at {table}; labels=[...] names files that exist")
    return table


def _search(config: AuditConfig, needles: Sought, manifest: Manifest, made_with: Tree) -> Search:
    if not config.key.expanduser().is_file():
        log.warning(
            "no key file at %s, so dates in a DICOM copy are not searched, nor is it known whether the dataset was "
            "made of this source; give key=...",
            config.key,
        )
        return Search(needles)
    pseudonyms = Pseudonyms.with_key_file(config.key, "")
    scanning = made_with.get("scanning") or made_with  # versions before had no groups
    if not scanning.get("patient_from"):
        _warn_of_strangers(needles, manifest, pseudonyms)
    patients = {name: Patient(name, is_known_elsewhere=True) for name in needles.dates}
    names = {name: pseudonyms.patient(patient) for name, patient in patients.items()}
    moves = {names[name]: pseudonyms.days(patient) for name, patient in patients.items()}
    return Search(by_pseudonym(needles, names), moves)


def _warn_of_strangers(needles: Sought, manifest: Manifest, pseudonyms: Pseudonyms) -> None:
    """Warns where patients of the source have pseudonyms, and none of them is in the dataset."""
    known = {row.patient_id for row in manifest}
    here = {pseudonyms.patient(Patient(name, is_known_elsewhere=True)) for name in needles.patients}
    if known and here and not known & here:
        log.warning(
            "none of the %d patients that the source names by PatientID is in the dataset: what is found, or not, "
            "means nothing unless it was made of this source, by this key (key=...), with patients from elsewhere",
            len(here),
        )


def _places(config: AuditConfig, copying: DeidentifyConfig, made_with: Tree) -> list[_Place | _Store]:
    places: list[_Place | _Store] = [_Place("the dataset", config.dataset)]
    copy = config.copy_to or copying.copy_to
    if copy is not None:
        if not copy.is_dir():
            raise DataError(f"no DICOM copy at {copy}; give copy_to=... where it lies")
        places.append(_Copy("the DICOM copy", copy))
    recorded_in = TrackingConfig.parse_saved(made_with.get("tracking") or {}, source=CONFIG)
    stores = [_stores(tracking) for tracking in dict.fromkeys((config.tracking, recorded_in)) if tracking.enabled]
    places += chain.from_iterable(stores)
    if stores and not any(stores):
        log.warning("no MLflow store at %s; give tracking.uri=... where there is one", config.tracking.uri)
    for path in config.places:
        if not path.exists():
            raise DataError(f"nothing at {path}; places=[...] names files and folders that exist")
        places.append(_Place(path.name, path))
    return places


def _stores(tracking: TrackingConfig) -> list[_Place | _Store]:
    file = database(tracking)
    if file is None:
        return [_Store("MLflow", tracking)]
    there = [path for path in (file, file.parent / ARTIFACTS) if path.exists()]
    return [_Place("MLflow" if path == file else "MLflow artifacts", path) for path in there]


def _summary(needles: Sought, places: list[_Place | _Store], traces: tuple[Trace, ...], unread: tuple[str, ...]) -> str:
    titles = ", ".join(dict.fromkeys(place.title for place in places))
    lines = [
        f"looked for {len(needles.needles)} texts that identify someone, from {needles.num_files} files, in {titles}",
        f"not looked for: {needles.num_passed_over} values that are too short or too common to tell anyone",
        *(f"not read, so that what it says was not looked for: {line}" for line in unread),
        f"found: {len(traces) or 'nothing'}",
    ]
    rest = [f"  and {len(traces) - SHOWN} more"] if len(traces) > SHOWN else []
    return "\n".join([*lines, *(f"  {trace}" for trace in traces[:SHOWN]), *rest])


audit = Audit()
