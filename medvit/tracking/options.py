"""Options of tracking."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator

from medvit.config import Config, Positive

ARTIFACTS = "mlartifacts"
"""Folder of artifacts beside an SQLite store."""
SQLITE = "sqlite:///"
Who = Literal["off", "hash", "user"]


def _without_password(uri: str) -> str:
    if urlsplit(uri).password:
        raise ValueError(
            "the URI contains a password, which would be written into configs and runs; set it in the environment "
            "variables MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    return uri


class TrackingConfig(Config):
    """Tracking of runs in MLflow."""

    enabled: bool = True
    """Record this stage in MLflow."""
    uri: Annotated[str, AfterValidator(_without_password)] = "sqlite:///mlflow.db"
    """MLflow tracking URI: an SQLite file, a folder or a server. Pass passwords in environment variables, not here."""
    experiment: str = "medvit"
    """MLflow experiment to which the run belongs."""
    who: Who = "off"
    """Record who started the run: `off` records nobody, since names of staff are personal data; `user` records the name
    of the account; `hash` records a hash of it, which groups runs by person, but whoever knows the name can find it.
    """
    system_metrics: bool = True
    """Record the use of processor, memory, disk, network and GPUs of the machine, every 10 s."""
    patience_s: Positive = 10.0
    """Seconds that a stage waits for MLflow, once at its start and once at its end. Records that MLflow has not
    received by then remain in the run's folder, and `medvit sync` sends them later.
    """


def database(config: TrackingConfig) -> Path | None:
    """Return the SQLite file of a store; None for other stores."""
    return sqlite_file(config.uri)


def sqlite_file(uri: str) -> Path | None:
    """Return the SQLite file that a tracking URI names.

    The result is None for other stores, and if the URI has SQLite options.
    """
    name = uri.removeprefix(SQLITE)
    return Path(name) if uri.startswith(SQLITE) and not name.startswith("file:") else None


def absolute(uri: str) -> str:
    """Return a tracking URI that does not depend on the current folder, for the same store."""
    path = sqlite_file(uri)
    return uri if path is None else SQLITE + str(path.absolute())
