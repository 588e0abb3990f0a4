"""Model that MLflow serves: a checkpoint of medvit, defined by this file, without pickle (MLflow's models from code).

MLflow runs this file when it loads a model that `medvit register` has registered. A request is a table with one row for
each study or image, in one of these columns:

- `path`: a folder of DICOM files below the folder MEDVIT_SERVE_ROOT.
- `zip`: the bytes of a zip archive with the files of a study, in base64.
- `pixels`: an array as nested lists, and for volumes `spacing_mm`. An image is (H, W) or (H, W, 3); a volume is
  (I, J, K) or (C, I, J, K) in RAS+ orientation. Values are those of the training images, such as HU; `dtype` is their
  type, which models require that scale by its range.
"""

from __future__ import annotations

import base64
import csv
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.pyfunc import PythonModel, PythonModelContext

from medvit.artifacts import STATUS
from medvit.errors import CheckpointError, ConfigError, DataError, MedvitError
from medvit.inference.outcomes import PREDICTION_COLUMNS, PREDICTIONS
from medvit.tracking.model_registry import FILES_TAG, OUTPUT_COLUMNS, digest_of_files

if TYPE_CHECKING:
    from medvit.inference.predictor import Predictor
    from medvit.types import Image

ROOT = "MEDVIT_SERVE_ROOT"
"""Environment variable with the folder that contains all studies that a request may name."""
COLORS = 3
TYPES = ("uint8", "uint16", "int16", "int32", "float32")
MAX_VALUES = 200_000_000
"""Maximum number of values in an array of a request."""


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
        """Return the predictions of all studies and images; `request` is the number of a row of the input.

        A row that fails has one line with its status and the reason.
        """
        lines = [
            {"request": number, **line}
            for number, row in enumerate(model_input.to_dict("records"))
            for line in self._of_row(row)
        ]
        return pd.DataFrame([{name: _number(name, line.get(name)) for name in OUTPUT_COLUMNS} for line in lines])

    @cached_property
    def _predictor(self) -> Predictor:
        """The loaded model, for arrays."""
        from medvit.artifacts import Checkpoint
        from medvit.inference.predictor import Predictor
        from medvit.tasks import is_image_task

        checkpoint = Checkpoint.load(self._checkpoint)
        if not is_image_task(checkpoint.kind):
            raise DataError(f"a {checkpoint.kind} model does not accept arrays; send the files of a study")
        return Predictor(checkpoint)

    def _of_row(self, row: Mapping[Any, Any]) -> Iterator[dict[str, Any]]:
        given = [name for name in ("path", "zip", "pixels") if _is_given(row.get(name))]
        try:
            if len(given) != 1:
                found = " and ".join(given) or "none of them"
                raise DataError(f"a row has one of path, zip and pixels; found {found}")
            yield from self._of_array(row) if given == ["pixels"] else self._of_study(row)
        except MedvitError as error:
            yield {"status": "failed", "reason": str(error)}

    def _of_array(self, row: Mapping[Any, Any]) -> Iterator[dict[str, Any]]:
        from medvit.inference.outcomes import plain
        from medvit.inference.study_job import findings_of, with_uncertainty

        predictor = self._predictor
        image = _image(predictor, row["pixels"], row.get("spacing_mm"), row.get("dtype"))
        prediction = predictor(image)
        findings = with_uncertainty(findings_of(prediction, image, ""), prediction, predictor.config.kind)
        for finding in findings:
            named = dict(zip(PREDICTION_COLUMNS[1:], plain(finding), strict=True))
            yield {"status": "done", **{key: value for key, value in named.items() if value not in (None, "")}}

    def _of_study(self, row: Mapping[Any, Any]) -> Iterator[dict[str, Any]]:
        from pipelines.predict import predict

        with tempfile.TemporaryDirectory(prefix="medvit-serve-") as name:
            folder = Path(name)
            made = predict(
                checkpoint=[self._checkpoint],
                source=_source(row, folder),
                output=folder / "predictions",
                key=folder / "site.key",
                outputs=[],
                tracking={"enabled": False},
            )
            outcomes = _lines(made.folder / STATUS)
            if len(outcomes) != 1:
                raise DataError(f"{len(outcomes)} studies; expected one in each row")
            for line in _lines(made.folder / PREDICTIONS):
                yield {"status": "done", **{key: value for key, value in line.items() if key != "study" and value}}
            for line in outcomes:
                if line["status"] != "done":
                    yield {"status": line["status"], "reason": line["reason"]}


def _is_given(value: Any) -> bool:
    is_missing = value is None or (isinstance(value, float) and math.isnan(value))
    return not is_missing and not (isinstance(value, str | bytes) and not value)


def _number(name: str, value: Any) -> Any:
    """Return the value of a column of the answer: a number where the column has numbers, else a text."""
    is_text = OUTPUT_COLUMNS[name] == "string"
    if value is None:
        return None if is_text else math.nan
    return str(value) if is_text else float(value)


def _image(predictor: Predictor, values: Any, spacing: Any, dtype: Any) -> Image:
    """Return the image of an array in a request.

    Raises:
        DataError: If the array does not have the form that the model accepts.
    """
    from medvit.geometry import Affine
    from medvit.types import Image

    pixels = _pixels(values, dtype, is_required=predictor.preprocess.intensity.method == "range")
    kind, channels = predictor.kind, predictor.preprocess.channel_names
    modality = predictor.config.applies_to.modality or ""
    if kind == "image":
        if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (1, COLORS)):
            raise DataError(f"found pixels of the shape {pixels.shape}; this model takes (H, W) or (H, W, {COLORS})")
        stored = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        return Image(np.ascontiguousarray(stored), kind, modality, channels=tuple(channels or ()))
    if kind != "volume":
        raise DataError(f"a model of {kind}s does not accept arrays; send the files of a study")
    if pixels.ndim not in (3, 4):
        raise DataError(f"found pixels of the shape {pixels.shape}; this model takes (I, J, K) or (C, I, J, K)")
    stored = pixels[None] if pixels.ndim == 3 else pixels
    if channels and len(channels) != len(stored):
        raise DataError(f"found {len(stored)} channels; this model takes {', '.join(channels)}, in this order")
    return Image(
        np.ascontiguousarray(stored),
        kind,
        modality,
        affine=Affine.from_spacing(_spacing(spacing)),
        channels=tuple(channels or ()),
    )


def _pixels(values: Any, dtype: Any, *, is_required: bool) -> np.ndarray[Any, Any]:
    """Return an array of a request in the type in which images are stored.

    Raises:
        DataError: If it is not an array of this type, or the type is missing although the model divides by its maximum.
    """
    if is_required and not _is_given(dtype):
        raise DataError("this model scales pixels by the range of their type; give dtype, such as uint8 or uint16")
    name = str(dtype) if _is_given(dtype) else "float32"
    if name not in TYPES:
        raise DataError(f"dtype is {name}; expected one of {', '.join(TYPES)}")
    try:
        exact = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError("pixels is not an array of numbers; its lists must have equal lengths") from None
    if exact.size > MAX_VALUES:
        raise DataError(f"pixels has {exact.size} values; expected at most {MAX_VALUES}")
    if name != "float32":
        ends = np.iinfo(name)
        if not (np.isfinite(exact).all() and (exact == np.round(exact)).all()):
            raise DataError(f"pixels has values that are not whole numbers, but dtype is {name}")
        if exact.size and not ends.min <= exact.min() <= exact.max() <= ends.max:
            raise DataError(f"pixels has values outside {ends.min} to {ends.max}, but dtype is {name}")
    return exact.astype(name)


def _spacing(given: Any) -> tuple[float, ...]:
    try:
        sides = tuple(map(float, given))
    except (TypeError, ValueError):
        sides = ()
    if len(sides) != 3 or not all(math.isfinite(side) and side > 0 for side in sides):
        raise DataError(f"spacing_mm is {given!r}; a volume requires the three sides of a voxel in mm")
    return sides


def _source(row: Mapping[Any, Any], work: Path) -> Path:
    """Return the folder or archive of a study.

    Raises:
        ConfigError: If MEDVIT_SERVE_ROOT is not set.
        DataError: If the path is not below MEDVIT_SERVE_ROOT, or the archive is not in base64.
    """
    path = row.get("path")
    if _is_given(row.get("zip")):
        archive = work / "study.zip"
        archive.write_bytes(_decoded(row["zip"]))
        return archive
    if not isinstance(path, str):
        raise DataError(f"path is {path!r}; expected the name of a folder below {ROOT}")
    if not os.environ.get(ROOT):
        raise ConfigError(f"{ROOT} is not set, so a request cannot name folders; set it, or send zip archives")
    root = Path(os.environ[ROOT]).resolve()
    folder = (root / path).resolve()
    if folder == root or not folder.is_relative_to(root) or not folder.is_dir():
        raise DataError(f"the path of a request is not a folder below {ROOT}")
    return folder


def _decoded(archive: Any) -> bytes:
    try:
        return base64.b64decode(archive, validate=True)
    except (TypeError, ValueError):
        raise DataError("zip is not in base64; send the bytes of a zip archive in base64") from None


def _lines(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


mlflow.models.set_model(ServedModel())
