"""Common code of all stages: configuration, seed, output folder, lineage and tracking.

A stage works in `OUTPUT.partial` and renames this folder to `OUTPUT` when the output is complete, so no incomplete
output ever has the final name. `resume=true` continues an unfinished run. The folder is locked while a process works
in it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import random
import shlex
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, Generic, NoReturn, Protocol, TypeVar, get_type_hints

from pydantic import Field

from medvit import __version__, sources, tracking
from medvit.artifacts import CONFIG, Checkpoint, Lineage
from medvit.config import Config, Tree, read_yaml, to_yaml
from medvit.dataset.manifest import Manifest
from medvit.dataset.tracked import record_dataset
from medvit.distributed import leads
from medvit.embeddings.table import EmbeddingTable, table_digest
from medvit.errors import CheckpointError, ConfigError, MedvitError, OutputError
from medvit.files.atomic import sweep, write_text
from medvit.files.lock import LOCK, FileLock, LockedError, take
from medvit.files.private import OWNER_FILE, OWNER_FOLDER, make_private
from medvit.leakage.seen_patients import training_patients
from medvit.logs import LOG, log_to_file, note
from medvit.summary import Summary, counted, duration
from medvit.tracking import Tracker, TrackingConfig, device_tag, environment_tags, run_name, start
from medvit.tracking.model_registry import ModelVersion, find_version, is_registered

log = logging.getLogger("medvit")

OPTIONS, INPUTS = ".options.yaml", ".inputs.json"
"""Hidden files of an unfinished run: its options as requested, and the digests of its inputs."""
RUN = "MLflow run"
"""Name of the MLflow run among the inputs of a shared run."""
UNNEEDED = ".unneeded.json"
"""File that lists the leftovers that a finished run removes from its folder. If the run is killed before it has removed
them, they are removed later by this list.
"""
WORK = ".work"
"""Folder in the working folder of a shared stage, with a folder for the unfinished files of each process."""
NAME_TAG, NOTE_TAG, FAILURE_TAG = "mlflow.runName", "mlflow.note.content", "medvit.failure"
"""Tags of a tracked run: its name, its description on the MLflow page, and the reason why it failed."""
BOOKKEEPING = (CONFIG, OPTIONS, INPUTS, LOCK, LOG, tracking.FOLDER)
"""Names of the files that a run writes into its folder before it produces any output."""
NOTED_FAILURES = 1000
"""Maximum number of failed items in the log file."""
MODEL_CACHE = Path("~/.medvit/models")
"""Folder for checkpoints of registered models that are fetched from a server."""
POLL_S = 0.2
"""Seconds between two looks at the process that finishes a shared output."""
NOT_OF_MODEL = ("tracking", "resume", "output")
"""Options of a training run that say nothing about its model."""
FREE_BYTES = 2**20
"""Free space below which a failed write is reported as a full disk."""


class StageConfig(Config):
    """Options common to all stages."""

    OUTPUT: ClassVar[str] = "output"
    """Key that names the output folder."""
    MAY_CHANGE: ClassVar[tuple[str, ...]] = ("resume", "tracking")
    """Keys that may differ between an unfinished run and its continuation; keys in groups have dotted names."""
    IS_DISTRIBUTED: ClassVar[bool] = False
    """Whether the processes of a distributed run share the work. If False, rank 0 does all of it."""
    IS_PRIVATE: ClassVar[bool] = False
    """Whether the output names patients, so that only its owner may read it."""
    IS_SHARED: ClassVar[bool] = False
    """Whether several processes with the same options may work in one output folder. The first one gives the folder
    its final name. The others join its run, and one of them continues it if the first one ends early.
    """
    USES_TORCH: ClassVar[bool] = True
    """Whether the stage draws random numbers with torch. If False, torch is not seeded: its import takes seconds."""
    RESOLVED: ClassVar[tuple[str, ...]] = ()
    """Keys whose values follow from the data or a checkpoint and are set by the recipe (`Run.in_force`). Keys in groups
    have dotted names.
    """

    seed: int = 0
    """Seed of all random numbers."""
    resume: bool = False
    """Continue the unfinished run in the output folder."""
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)

    @property
    def folder(self) -> Path:
        """Output folder."""
        return Path(getattr(self, self.OUTPUT))

    @property
    def reopens(self) -> bool:
        """Whether a finished output of the same options is opened again, to process a part of it again."""
        return False

    def shown(self) -> Artifact | None:
        """Print a report on an output, if the options ask for that instead of a run, and return the output."""
        return None


def first_free(name: str) -> Path:
    """Return the first path NAME-1, NAME-2 and so on that does not exist in the current folder."""
    return next(path for path in (Path(f"{name}-{number}") for number in count(1)) if not path.exists())


@dataclass
class Run:
    """One run of a stage: its output folder, inputs, failed items, and tracker."""

    stage: str
    folder: Path
    tracker: Tracker
    inputs: dict[str, str] = field(default_factory=dict)
    parents: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    """One line per failed item. If there are any, the exit status is 3."""
    datasets: list[str] = field(default_factory=list)
    """Names of the datasets that were read, for the name of the tracked run."""
    learned: set[str] = field(default_factory=set)
    """Training patients of the checkpoints that were read (`medvit.leakage.seen_patients`)."""
    tree: Tree = field(default_factory=dict)
    """Resolved options, as in `config.yaml`."""
    notes: list[str] = field(default_factory=list)
    """Comments at the end of `config.yaml`, such as the reasons for values that were not given."""
    leftovers: set[str] = field(default_factory=set)
    """Files and folders that only an unfinished run needs. They are removed once the folder has its final name, because
    the run may be interrupted until then and would need them to continue.
    """
    leads: bool = True
    """Whether this process is rank 0 or the only process. Other ranks take part in the training and write nothing; a
    process that joined a shared run writes only its part of the output.
    """

    def dataset(self, folder: Path, name: str = "dataset") -> Manifest:
        """Read a dataset and record it as an input of this run."""
        manifest = Manifest.read(folder)
        self._uses(name, folder, manifest.hash)
        record_dataset(self.tracker, manifest, self.stage)
        self.datasets.append(manifest.facts.name)
        self.rename()
        return manifest

    def checkpoint(self, folder: Path, name: str = "checkpoint") -> Checkpoint:
        """Load a checkpoint and record it as an input of this run."""
        return self._recorded(Checkpoint.load(folder), name)

    def adapter(self, folder: Path, name: str) -> Checkpoint:
        """Load the adapter of a checkpoint (`Checkpoint.load_adapter`) and record the checkpoint as an input."""
        return self._recorded(Checkpoint.load_adapter(folder), name)

    def embeddings(self, folder: Path, name: str = "embeddings") -> EmbeddingTable:
        """Read a table of embeddings and record it as an input of this run."""
        table = EmbeddingTable.read(folder)
        self._uses(name, folder, table_digest(folder))
        return table

    @property
    def run_id(self) -> str | None:
        """MLflow run of the output, also in a process that joined the run of another one; None without tracking."""
        if self.leads:
            return self.tracker.run_id
        path = self.folder / INPUTS
        before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return before.get(RUN) or None

    def model_params(self, folder: Path) -> None:
        """Record the options with which the checkpoint in a folder was made, as parameters `model.*` of this run."""
        if (folder / CONFIG).is_file():
            own = read_yaml(folder / CONFIG)
            self.tracker.params({"model": {key: value for key, value in own.items() if key not in NOT_OF_MODEL}})

    def rename(self) -> None:
        """Name the tracked run after its stage, datasets and resolved options."""
        self.tracker.tags({NAME_TAG: run_name(self.stage, self.tree, self.datasets)})

    def _recorded(self, checkpoint: Checkpoint, name: str) -> Checkpoint:
        self.learned |= training_patients(checkpoint.folder)
        self._uses(name, checkpoint.folder, checkpoint.hash)
        return checkpoint

    def note_versions(self, versions: Sequence[ModelVersion]) -> None:
        """Record the versions of registered models that this run uses."""
        for one in versions:
            log.info("%s: uses version %s of the registered model %s", self.stage, one.version, one.name)
        if versions:
            self.tracker.tags({"medvit.registered": ", ".join(map(str, versions))})

    def require_same(self, name: str, digest: str) -> None:
        """Record an input by its hash, and check that a resumed run uses the same input.

        Raises:
            ConfigError: If the unfinished run used another input.
        """
        if not self.began_with(name, digest):
            raise ConfigError(
                f"the {name} differs from that of the unfinished run in {self.folder}; resume with the same "
                f"{name}, or remove that folder to start again"
            )

    def began_with(self, name: str, digest: str) -> bool:
        """Record an input by its hash; return False if the run is resumed and began with another input.

        In a new run, or if the input is the same, return True.
        """
        path = self.folder / INPUTS
        before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        is_same = bool(before.setdefault(name, digest) == digest)
        if self.leads:
            write_text(path, json.dumps(before))
        return is_same

    def in_force(self, **resolved: Config | Mapping[Any, Any] | Sequence[Any] | str | float | None) -> None:
        """Replace options in the saved config by the values in use, for options that were inferred from the data.

        Options in groups have dotted names, as in `**{"facts.license": "CC0"}`; the other options of the group are
        kept.
        """
        if not self.leads:
            return
        plain = {key: value.tree() if isinstance(value, Config) else value for key, value in resolved.items()}
        plain = json.loads(json.dumps(plain))  # lists for tuples, as in YAML
        for key, value in plain.items():
            *groups, last = key.split(".")
            reduce(lambda tree, group: tree[group], groups, self.tree)[last] = value
        self.tracker.params(plain)
        self.rename()
        text = to_yaml(self.tree) + "".join(f"# {' '.join(each.split())}\n" for each in self.notes)
        write_text(self.folder / CONFIG, text)
        self.tracker.text(text, CONFIG)

    def leave_to_leader(self) -> None:
        """Exit all ranks but 0: everything after this call runs once."""
        if not self.leads:
            raise SystemExit(0)

    def keep(self, *names: str) -> None:
        """Log files of the output folder as artifacts of the tracked run; missing files are skipped."""
        for name in names:
            if (self.folder / name).exists():
                self.tracker.file(self.folder / name)

    def _uses(self, name: str, folder: Path, digest: str) -> None:
        self.require_same(name, digest)
        self.inputs[name] = digest
        self.tracker.tags({f"medvit.input.{name}": digest})
        lineage = Lineage.read(folder)
        if lineage is not None and lineage.run_id is not None:
            self.parents[name] = lineage.run_id
            # The MLflow page nests a run under its parent; the checkpoint, read after the dataset, is the nearer one.
            self.tracker.tags({f"medvit.parent.{name}": lineage.run_id, "mlflow.parentRunId": lineage.run_id})


class Artifact(Protocol):
    """Output of a stage: a frozen dataclass with its folder."""

    @property
    def folder(self) -> Path:
        """Folder of the artifact."""

    def summary(self) -> Summary:
        """Return a summary of the contents, for the terminal and the log."""


StageConfigT = TypeVar("StageConfigT", bound=StageConfig)
ArtifactT = TypeVar("ArtifactT", bound=Artifact)
MadeT = TypeVar("MadeT")


@dataclass(frozen=True)
class Finished(Generic[MadeT]):
    """Output of a stage, and one line of text for every item that failed."""

    artifact: MadeT
    failures: tuple[str, ...]


@dataclass(frozen=True)
class Stage(Generic[StageConfigT, ArtifactT]):
    """Stage function that is also a command: `pretrain(dataset=..., output=...)` or `pretrain(config)`."""

    name: str
    config_type: type[StageConfigT]
    recipe: Callable[[StageConfigT, Run], ArtifactT]

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return self.recipe.__doc__

    def __call__(self, config: StageConfigT | None = None, **options: Any) -> ArtifactT:
        """Run the stage; return its artifact at the final path."""
        return self.run(config or self.config_type.parse(options, source=self.name)).artifact

    def run(self, config: StageConfigT) -> Finished[ArtifactT]:
        """Run the stage; return its artifact and the failed items.

        Raises:
            MedvitError: With one sentence for the user. After an error, the output folder never has its final name.
        """
        shown: Any = config.shown()
        if shown is not None:
            return Finished(shown, ())
        config, versions = with_registered(config)
        final = config.folder.absolute()
        partial = final.with_name(f"{final.name}.partial")
        if not leads():
            self._follow(config, partial)
        while True:
            try:
                return self._lead(config, partial, final, versions)
            except BusyError:
                if not config.IS_SHARED:
                    raise
            finished = self._help(config, partial, final)
            if finished is not None:
                return finished

    def _lead(
        self, config: StageConfigT, partial: Path, final: Path, versions: Sequence[ModelVersion]
    ) -> Finished[ArtifactT]:
        """Run the stage, and give its output the final name.

        Raises:
            BusyError: If another process is working in the folder.
        """
        began = time.monotonic()
        with (
            _locked(partial, final, config, self.name),
            _explained_disk_errors(partial),
            _removed_if_empty(partial),
            log_to_file(partial / LOG, mode=OWNER_FILE if config.IS_PRIVATE else 0o666),
            _noted(self.name, config),
        ):
            run = Run(self.name, partial, start(config.tracking, self.name, partial))
            run.note_versions(versions)
            try:
                _begin(run, config)
                artifact = self.recipe(config, run)
                _end(run)
                unneeded = sorted({*run.leftovers, *(() if config.IS_SHARED else (OPTIONS, INPUTS))})
                write_text(partial / UNNEEDED, json.dumps(unneeded))
                with run.tracker.moving_to(final):
                    if config.IS_PRIVATE:  # here, since the tracker's thread writes below the folder at other times
                        make_private(partial)
                    _rename(partial, final)
                _remove(final, [*unneeded, UNNEEDED])
            except BaseException as error:
                _finish_failed(run, config, error)
                raise
            _finish(run, config, artifact, final)
            finished = Finished(replace(artifact, folder=final), tuple(run.failures))  # type: ignore[type-var]
            _report(self.name, finished, time.monotonic() - began)
        return finished

    def _help(self, config: StageConfigT, partial: Path, final: Path) -> Finished[ArtifactT] | None:
        """Take part in the run of another process, and wait until it has finished the output.

        Return None if that process ended early.

        Raises:
            ConfigError: If it was started with other options.
        """
        began = time.monotonic()
        while not (partial / OPTIONS).is_file():  # the other process has just started
            if _is_left(partial):
                return None
            time.sleep(POLL_S)
        _refuse_other_options(partial, config)
        with (
            _explained_disk_errors(partial),
            log_to_file(partial / LOG, mode=OWNER_FILE if config.IS_PRIVATE else 0o666),
            _noted(self.name, config, "joined"),
        ):
            log.info("%s: joins the run in %s", self.name, partial)
            seed_everything(config.seed, with_torch=config.USES_TORCH)
            run = Run(self.name, partial, Tracker(), tree=config.tree(private=False), leads=False)
            artifact = self.recipe(config, run)
            while not _is_left(partial):
                time.sleep(POLL_S)
            if not final.exists():
                return None
            finished = Finished(replace(artifact, folder=final), tuple(run.failures))  # type: ignore[type-var]
            _report(self.name, finished, time.monotonic() - began)
        return finished

    def _follow(self, config: StageConfigT, partial: Path) -> NoReturn:
        """Take part in the training as a rank other than 0, and exit when it ends."""
        if config.IS_DISTRIBUTED:
            log.setLevel(logging.WARNING)  # rank 0 logs the rest
            seed_everything(config.seed)
            self.recipe(config, Run(self.name, partial, Tracker(), leads=False))
        raise SystemExit(0)


def with_registered(config: StageConfigT) -> tuple[StageConfigT, list[ModelVersion]]:
    """Return a config in which registered models (models:/NAME@ALIAS) are replaced by folders, and their versions.

    Raises:
        CheckpointError: If the weights of a version are not those that were registered.
        MedvitError: As in `find_version`.
    """
    versions: list[ModelVersion] = []

    def resolved(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(resolved, value))
        if not isinstance(value, Path) or not is_registered(value):
            return value
        found = find_version(config.tracking, value, MODEL_CACHE.expanduser())
        if Checkpoint.load(found.folder).hash != found.sha256:
            raise CheckpointError(
                f"the weights of {value} are not those that were registered: their hash differs from "
                f"{found.sha256[:16]}; register the model again, or restore its files"
            )
        versions.append(found)
        return found.folder

    values = {name: resolved(getattr(config, name)) for name in type(config).model_fields}
    return (config.model_copy(update=values) if versions else config), versions


def stage(recipe: Callable[[StageConfigT, Run], ArtifactT]) -> Stage[StageConfigT, ArtifactT]:
    """Make a stage from a function `(config, run) -> artifact`, whose annotation gives the config type."""
    return Stage(recipe.__name__, get_type_hints(recipe)["config"], recipe)


def seed_everything(seed: int, *, with_torch: bool = True) -> None:
    """Seed Python, NumPy and torch."""
    import numpy as np

    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (libraries draw from it)
    if with_torch:
        import torch

        torch.manual_seed(seed)


class BusyError(OutputError):
    """Output folder in which another process is working."""


def _is_left(partial: Path) -> bool:
    """Return whether the first process of a run has ended, or the folder has its final name."""
    try:
        take(partial / LOCK, "medvit").release(partial / LOCK)
    except LockedError:
        return False
    except OSError:  # the folder was renamed
        return True
    return True


def _reopen(final: Path, partial: Path, config: StageConfig, stage: str) -> None:
    """Give a finished output the name of an unfinished one.

    Raises:
        OutputError: If the folder is not an output of this stage.
        ConfigError: If it was made with other options.
    """
    lineage = Lineage.read(final) if final.is_dir() else None
    if lineage is None or lineage.stage != stage:
        raise OutputError(f"{final} is not a finished output of {stage}; give the folder of an earlier run")
    _refuse_other_options(final, config)
    with suppress(FileNotFoundError):  # another process has done it
        os.replace(final, partial)


@contextmanager
def _locked(partial: Path, final: Path, config: StageConfig, stage: str) -> Iterator[None]:
    """Create and lock the working folder, or open and lock that of the unfinished run.

    Raises:
        OutputError: If the output exists already, if an unfinished run exists and `resume` is not set, or if another
            process is working there.
        ConfigError: If the unfinished run was started with other options.
    """
    _finish_removal(final)
    if config.reopens and not partial.exists():
        _reopen(final, partial, config, stage)
    _refuse_used(final, config.OUTPUT)
    is_new = not partial.exists()
    lock = _take(partial, final, f"medvit {stage}", config)
    try:
        _refuse_used(final, config.OUTPUT)  # another run may have finished just before the lock was taken
        if not is_new and not config.resume and not config.IS_SHARED:
            raise OutputError(f"{partial} contains an unfinished run; continue with resume=true, or remove it")
        _refuse_other_options(partial, config)
        sweep(partial, besides=(tracking.FOLDER, sources.SPOOL, WORK))
        yield
    finally:
        lock.release(partial / LOCK, final / LOCK)


def _refuse_used(final: Path, key: str) -> None:
    if final.exists() and (not final.is_dir() or any(final.iterdir())):
        raise OutputError(f"{final} exists already; give another {key}=... or remove it first")


def _take(partial: Path, final: Path, purpose: str, config: StageConfig) -> FileLock:
    try:
        if final.exists():
            final.rmdir()
        partial.mkdir(mode=OWNER_FOLDER if config.IS_PRIVATE else 0o777, parents=True, exist_ok=True)
        lock = take(partial / LOCK, purpose)
        if config.IS_PRIVATE:
            partial.chmod(OWNER_FOLDER)  # files written below it later are unreadable for others
        return lock
    except LockedError as error:
        raise BusyError(
            f"{error} is working in {partial}; wait until it has ended, or give another {config.OUTPUT}=..."
        ) from None
    except OSError as error:
        raise OutputError(f"{final} cannot be created: {error.strerror}; give another {config.OUTPUT}=...") from None


def _rename(partial: Path, final: Path) -> None:
    os.replace(partial, final)


def _remove(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _finish_removal(final: Path) -> None:
    """Remove temporary files of a run that was killed after its output got its final name."""
    path = final / UNNEEDED
    if not path.is_file():
        return
    try:
        lock = take(final / LOCK, "medvit")
    except (LockedError, OSError):  # the run itself is about to remove them, or nothing can be written here
        return
    try:
        names = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
        _remove(final, [*(name for name in names if Path(name).name == name), UNNEEDED])
    finally:
        lock.release(final / LOCK)


def _refuse_other_options(partial: Path, config: StageConfig) -> None:
    # A run of an older version has its options in config.yaml alone.
    path = next((path for path in (partial / OPTIONS, partial / CONFIG) if path.is_file()), None)
    if path is None:
        return
    before, now = _completed(read_yaml(path), config), config.tree(private=False)
    changed = list(_changed(_without(before, config.MAY_CHANGE), _without(now, config.MAY_CHANGE)))
    if changed:
        raise ConfigError(
            f"the {'' if partial.name == config.folder.name else 'unfinished '}run in {partial} was started with other "
            f"options ({', '.join(changed)}); {'join or ' * config.IS_SHARED}resume with the same ones, or "
            f"{f'give another {config.OUTPUT}=...' if config.IS_SHARED else 'remove it'}"
        )


def _changed(before: Tree, now: Tree, prefix: str = "") -> Iterator[str]:
    """Yield the names of the options that differ, with dotted names for options in groups."""
    for key in [*now, *(key for key in before if key not in now)]:
        one, other = before.get(key), now.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            yield from _changed(one, other, f"{prefix}{key}.")
        elif one != other:
            yield f"{prefix}{key}"


def _without(tree: Tree, names: Iterable[str]) -> Tree:
    """Return the options in `tree` without the named options; options in groups have dotted names."""
    inner: dict[str, list[str]] = {}
    for name, _, rest in (name.partition(".") for name in names):
        inner.setdefault(name, []).append(rest)
    kept = {key: value for key, value in tree.items() if "" not in inner.get(key, ())}
    return {key: _without(value, inner[key]) if key in inner else value for key, value in kept.items()}


def _completed(before: Tree, config: StageConfig) -> Tree:
    """Return the options of an unfinished run, adding defaults for options that its medvit version did not have."""
    now = config.tree()
    required = {key: now[key] for key, field in type(config).model_fields.items() if field.is_required()}
    try:
        return type(config).parse_saved({**required, **before}, source=CONFIG).tree(private=False)
    except ConfigError:
        return before


def _begin(run: Run, config: StageConfig) -> None:
    seed_everything(config.seed, with_torch=config.USES_TORCH)
    is_new = not (run.folder / CONFIG).is_file()
    run.tree |= config.tree(private=False)
    if config.IS_SHARED:
        run.began_with(RUN, run.tracker.run_id or "")
    write_text(run.folder / OPTIONS, to_yaml(run.tree))
    write_text(run.folder / CONFIG, to_yaml(run.tree))
    run.tracker.tags(environment_tags(config.tracking.who) | _command(run, config))
    run.rename()
    if is_new:
        run.tracker.params(_without(run.tree, config.RESOLVED))
        run.tracker.text(to_yaml(run.tree), CONFIG)


def _end(run: Run) -> None:
    sources.clear(run.folder)  # files that name patients, as of an earlier run that fetched from elsewhere
    tree = {key: value for key, value in run.tree.items() if key not in ("resume", "tracking")}
    digest = hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()
    Lineage(run.stage, digest, run.inputs, run.parents, run.tracker.run_id).write(run.folder)


def _command(run: Run, config: StageConfig) -> dict[str, str]:
    """Return tags with the output folder, and with a command that repeats the run, without private options."""
    words = [f"{key}={_argument(value)}" for key, value in _given(config).items()]
    command = shlex.join(["medvit", run.stage, *words])
    return {
        "mlflow.source.name": f"medvit {run.stage}",
        "medvit.command": command,
        "medvit.output": str(config.folder.absolute()),
    }


def _given(config: Config, prefix: str = "") -> Tree:
    """Return the options that differ from their defaults, with dotted names and without private ones."""
    given: Tree = {}
    for key, value in config.tree(private=False).items():
        own, info = getattr(config, key), type(config).model_fields[key]
        default = None if info.is_required() else info.get_default(call_default_factory=True)
        if isinstance(own, Config):
            if type(own) is not type(default) and "name" in value:
                given[f"{prefix}{key}"] = value["name"]
            given |= _given(own, f"{prefix}{key}.")
        elif info.is_required() or own != default:
            given[f"{prefix}{key}"] = value
    return given


def _argument(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _finish(run: Run, config: StageConfig, artifact: Artifact, final: Path) -> None:
    """End a tracked run that succeeded, with a description for the MLflow page."""
    shown = [] if config.IS_PRIVATE else artifact.summary().lines
    lines = [f"- {name}: {text}" if name else f"  {text}" for name, text in shown]
    failed = [f"{counted(len(run.failures), 'item')} failed or did not meet a criterion."] if run.failures else []
    run.tracker.tags({NOTE_TAG: "\n".join([*lines, *failed, f"\nOutput folder: `{final}`"]), FAILURE_TAG: ""})
    run.tracker.tags(device_tag())
    run.tracker.finish("FINISHED")


def _finish_failed(run: Run, config: StageConfig, error: BaseException) -> None:
    """End a tracked run that did not succeed, with the reason, but without a text that may name a patient."""
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        status, reason = "KILLED", "interrupted"
    elif not isinstance(error, MedvitError):
        status, reason = "FAILED", f"unexpected {type(error).__name__}"
    elif _reads_names(config):
        status, reason = "FAILED", f"{type(error).__name__}; its text is shown only on the terminal"
    else:
        status, reason = "FAILED", f"{type(error).__name__}: {error}"
    note_text = f"Stopped: {reason}\n\nWorking folder: `{run.folder}`"
    run.tracker.tags({FAILURE_TAG: reason, NOTE_TAG: note_text, **device_tag()})
    run.tracker.finish(status)


def _reads_names(config: StageConfig) -> bool:
    """Return whether the inputs of the stage may name patients."""
    return config.tree().keys() != config.tree(private=False).keys()


@contextmanager
def _noted(stage: str, config: StageConfig, manner: str = "") -> Iterator[None]:
    """Return a context that logs the start of a run (by default, whether it was resumed), and its failure.

    If the inputs of the stage name patients, only the type of an error is logged, because its message may name a file.
    """
    note("medvit %s: %s %s", __version__, stage, manner or ("resumed" if config.resume else "started"))
    try:
        yield
    except MedvitError as error:
        text = "; its text is shown only on the terminal" if _reads_names(config) else f": {error}"
        note("%s failed: %s%s", stage, type(error).__name__, text, level=logging.ERROR)
        raise
    except (KeyboardInterrupt, SystemExit):
        note("%s interrupted", stage, level=logging.ERROR)
        raise
    except BaseException as error:
        note("%s stopped by an unexpected %s", stage, type(error).__name__, level=logging.ERROR)
        raise


def _report(stage: str, finished: Finished[Any], elapsed_s: float) -> None:
    """Log the summary of a run; the failed items go only to the log file, because the command prints them itself."""
    failures = finished.failures
    for failure in failures[:NOTED_FAILURES]:
        note("%s", failure, level=logging.WARNING)
    if len(failures) > NOTED_FAILURES:
        note("and %d more", len(failures) - NOTED_FAILURES, level=logging.WARNING)
    folder = finished.artifact.folder
    log.info("%s: done in %s\n%s", stage, duration(elapsed_s), finished.artifact.summary().text(folder))


@contextmanager
def _removed_if_empty(partial: Path) -> Iterator[None]:
    """Return a context that removes the working folder of a run that failed before it had anything to resume."""
    try:
        yield
    except BaseException:
        made = (path.relative_to(partial).parts[0] for path in partial.rglob("*") if path.is_file())
        if partial.exists() and all(name in BOOKKEEPING for name in made):
            shutil.rmtree(partial)
        raise


@contextmanager
def _explained_disk_errors(partial: Path) -> Iterator[None]:
    try:
        yield
    except MedvitError:
        raise
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        place = partial if partial.exists() else partial.parent
        if full or shutil.disk_usage(place).free < FREE_BYTES:
            raise OutputError(
                f"the disk of {place} is full; free some space, then continue with resume=true"
            ) from error
        raise
