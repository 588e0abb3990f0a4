"""Model that MLflow serves: a checkpoint of medvit, defined by this file, without pickle (MLflow's models from code).

MLflow runs this file when it loads a model that `medvit register` has registered. A request is a table with one row for
each study: the column `path` has a folder of DICOM files below the folder MEDVIT_SERVE_ROOT, or the column `zip` has
the bytes of a zip archive with them.
"""

from __future__ import annotations

import csv
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc import PythonModel, PythonModelContext

from medvit.artifacts import STATUS
from medvit.errors import CheckpointError, ConfigError, DataError, MedvitError
from medvit.inference.outcomes import PREDICTIONS
from medvit.tracking.model_registry import FILES_TAG, digest_of_files

ROOT = "MEDVIT_SERVE_ROOT"
"""Environment variable with the folder that contains all studies that a request may name."""


class ServedModel(PythonModel):
    """Predictions of a checkpoint on studies, one row for each class of a series, as in `predictions.csv`."""

    def load_context(self, context: PythonModelContext) -> None:
        """Check the files of the checkpoint.

        Raises:
            CheckpointError: If they are not those that were registered.
        """
        self._checkpoint = Path(context.artifacts["checkpoint"])
        registered = (context.model_config or {}).get(FILES_TAG)
        if digest_of_files(self._checkpoint) != registered:
            raise CheckpointError("the files of the model are not those that were registered; register it again")

    def predict(self, context: PythonModelContext, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """Return the predictions of all studies; `request` is the row of a study in the input.

        A study that fails has one row with its status and the reason.
        """
        rows = [
            {"request": number, **line}
            for number, row in enumerate(model_input.to_dict("records"))
            for line in self._of_study(row)
        ]
        return pd.DataFrame(rows)

    def _of_study(self, row: Mapping[Any, Any]) -> Iterator[dict[str, str]]:
        from pipelines.predict import predict

        with tempfile.TemporaryDirectory(prefix="medvit-serve-") as name:
            folder = Path(name)
            try:
                made = predict(
                    checkpoint=[self._checkpoint],
                    source=_source(row, folder),
                    output=folder / "predictions",
                    key=folder / "site.key",
                    outputs=[],
                    tracking={"enabled": False},
                )
            except MedvitError as error:
                yield {"status": "failed", "reason": str(error)}
                return
            outcomes = _lines(made.folder / STATUS)
            if len(outcomes) != 1:
                yield {"status": "failed", "reason": f"{len(outcomes)} studies; expected one in each row"}
                return
            for line in _lines(made.folder / PREDICTIONS):
                yield {"status": "done", **{key: value for key, value in line.items() if key != "study" and value}}
            for line in outcomes:
                if line["status"] != "done":
                    yield {"status": line["status"], "reason": line["reason"]}


def _source(row: Mapping[Any, Any], work: Path) -> Path:
    """Return the folder or archive of a study.

    Raises:
        ConfigError: If MEDVIT_SERVE_ROOT is not set.
        DataError: If the row has neither path nor archive, or the path is not below MEDVIT_SERVE_ROOT.
    """
    content, path = row.get("zip"), row.get("path")
    if isinstance(content, bytes) and content:
        archive = work / "study.zip"
        archive.write_bytes(content)
        return archive
    if not isinstance(path, str) or not path:
        raise DataError("a row has neither path nor zip; give the folder of a study, or the bytes of a zip archive")
    if not os.environ.get(ROOT):
        raise ConfigError(f"{ROOT} is not set, so a request cannot name folders; set it, or send zip archives")
    root = Path(os.environ[ROOT]).resolve()
    folder = (root / path).resolve()
    if folder == root or not folder.is_relative_to(root) or not folder.is_dir():
        raise DataError(f"the path of a request is not a folder below {ROOT}")
    return folder


def _lines(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


mlflow.models.set_model(ServedModel())
