"""Common code of all stages: configuration, seed, output folder, lineage and tracking.

A stage works in `OUTPUT.partial` and renames this folder to `OUTPUT` when the output is complete, so no incomplete
output ever has the final name. `resume=true` continues an unfinished run. The folder is locked while a process works
in it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar, get_type_hints

from medvit import sources
from medvit.artifacts import CONFIG, Lineage
from medvit.config import Tree, to_yaml
from medvit.distributed import leads
from medvit.files.atomic import write_text
from medvit.files.private import OWNER_FILE, make_private
from medvit.logs import LOG, log_to_file, note
from medvit.stage.config import INPUTS, OPTIONS, WORK, Artifact, StageConfig, first_free
from medvit.stage.folder import (
    UNNEEDED,
    BusyError,
    explained_disk_errors,
    is_left,
    locked,
    refuse_other_options,
    remove,
    removed_if_empty,
    rename,
    without,
)
from medvit.stage.record import command_tags, finish, finish_failed, noted
from medvit.stage.registered import with_registered
from medvit.stage.run import NOT_OF_RESULT, RUN, Run
from medvit.summary import duration
from medvit.tracking import Tracker, environment_tags, start
from medvit.tracking.environment import current_code
from medvit.tracking.model_registry import ModelVersion

__all__ = [
    "OPTIONS",
    "WORK",
    "Finished",
    "Run",
    "Stage",
    "StageConfig",
    "digest_of_options",
    "first_free",
    "seed_everything",
    "stage",
]

log = logging.getLogger("medvit")

NOTED_FAILURES = 1000
"""Maximum number of failed items in the log file."""
POLL_S = 0.2
"""Seconds between two looks at the process that finishes a shared output."""

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
            locked(partial, final, config, self.name),
            explained_disk_errors(partial),
            removed_if_empty(partial),
            log_to_file(partial / LOG, mode=OWNER_FILE if config.IS_PRIVATE else 0o666),
            noted(self.name, config),
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
                    rename(partial, final)
                remove(final, [*unneeded, UNNEEDED])
            except BaseException as error:
                finish_failed(run, config, error)
                raise
            finish(run, config, artifact, final)
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
            if is_left(partial):
                return None
            time.sleep(POLL_S)
        refuse_other_options(partial, config)
        with (
            explained_disk_errors(partial),
            log_to_file(partial / LOG, mode=OWNER_FILE if config.IS_PRIVATE else 0o666),
            noted(self.name, config, "joined"),
        ):
            log.info("%s: joins the run in %s", self.name, partial)
            seed_everything(config.seed, with_torch=config.USES_TORCH)
            run = Run(self.name, partial, Tracker(), tree=config.tree(private=False), leads=False)
            artifact = self.recipe(config, run)
            while not is_left(partial):
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


def _begin(run: Run, config: StageConfig) -> None:
    seed_everything(config.seed, with_torch=config.USES_TORCH)
    is_new = not (run.folder / CONFIG).is_file()
    run.tree |= config.tree(private=False)
    if config.IS_SHARED:
        run.began_with(RUN, run.tracker.run_id or "")
    write_text(run.folder / OPTIONS, to_yaml(run.tree))
    write_text(run.folder / CONFIG, to_yaml(run.tree))
    run.code = current_code()
    if config.tracking.enabled:
        run.tracker.tags(environment_tags(config.tracking.who) | command_tags(run, config))
    run.rename()
    if is_new:
        run.tracker.params(without(run.tree, (*config.RESOLVED, *NOT_OF_RESULT)))
        run.tracker.text(to_yaml(run.tree), CONFIG)


def _end(run: Run) -> None:
    sources.clear(run.folder)  # files that name patients, as of an earlier run that fetched from elsewhere
    Lineage(run.stage, digest_of_options(run.tree), run.inputs, run.parents, run.tracker.run_id, run.code).write(
        run.folder
    )


def digest_of_options(tree: Tree) -> str:
    """Return the SHA-256 of the resolved options of a run, without those that do not affect its output."""
    kept = {key: value for key, value in tree.items() if key not in ("resume", "tracking")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _report(stage: str, finished: Finished[Any], elapsed_s: float) -> None:
    """Log the summary of a run; the failed items go only to the log file, because the command prints them itself."""
    failures = finished.failures
    for failure in failures[:NOTED_FAILURES]:
        note("%s", failure, level=logging.WARNING)
    if len(failures) > NOTED_FAILURES:
        note("and %d more", len(failures) - NOTED_FAILURES, level=logging.WARNING)
    folder = finished.artifact.folder
    log.info("%s: done in %s\n%s", stage, duration(elapsed_s), finished.artifact.summary().text(folder))
