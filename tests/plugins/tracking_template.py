"""MLflow databases that are ready: made once for a whole run of tests, then copied to where a stage would make its own.

MLflow brings a new SQLite file through all migrations of its schema, which takes a second of computing and several of
waiting for the disk.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

MakeStore = Callable[[Path], str]


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The empty MLflow database of this run of tests, which all workers of xdist share."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    template = folder / "mlflow-template.db"
    with (folder / "mlflow-template.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not template.exists():
            from mlflow import MlflowClient

            new = folder / "mlflow-template.new.db"
            MlflowClient(tracking_uri=f"sqlite:///{new}").search_experiments()
            new.rename(template)
    return template


@pytest.fixture(scope="session")
def make_store(mlflow_template: Path) -> MakeStore:
    """Puts the database of a new store into a folder, as `mlflow.db`; returns its tracking URI."""

    def make(folder: Path) -> str:
        shutil.copyfile(mlflow_template, folder / "mlflow.db")
        return f"sqlite:///{folder / 'mlflow.db'}"

    return make
