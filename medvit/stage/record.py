"""Record of a run in MLflow and in its log: environment, command, end, and the reason of a failure."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medvit import __version__
from medvit.config import Config, Tree
from medvit.errors import MedvitError
from medvit.logs import note
from medvit.stage.config import Artifact, StageConfig
from medvit.stage.run import Run
from medvit.summary import counted
from medvit.tracking import device_tag

NOTE_TAG, FAILURE_TAG = "mlflow.note.content", "medvit.failure"
"""Tags of a tracked run: its description on the MLflow page, and the reason why it failed."""


def command_tags(run: Run, config: StageConfig) -> dict[str, str]:
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


def finish(run: Run, config: StageConfig, artifact: Artifact, final: Path) -> None:
    """End a tracked run that succeeded, with a description for the MLflow page."""
    shown = [] if config.IS_PRIVATE else artifact.summary().lines
    lines = [f"- {name}: {text}" if name else f"  {text}" for name, text in shown]
    failed = [f"{counted(len(run.failures), 'item')} failed or did not meet a criterion."] if run.failures else []
    resolved = {FAILURE_TAG: ""} if config.resume else {}
    run.tracker.tags(
        {NOTE_TAG: "\n".join([*lines, *failed, f"\nOutput folder: `{final}`"]), **resolved, **device_tag()}
    )
    run.tracker.finish("FINISHED")


def finish_failed(run: Run, config: StageConfig, error: BaseException) -> None:
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
def noted(stage: str, config: StageConfig, manner: str = "") -> Iterator[None]:
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
