"""Artifacts other than datasets: checkpoints, reports and predictions, each a folder with its lineage."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from medvit import __version__
from medvit.config import Tree, read_yaml
from medvit.errors import CheckpointError, ConfigError, DataError
from medvit.files.atomic import write_text, write_weights
from medvit.summary import Summary, labeled

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA_VERSION = 1
WEIGHTS, ADAPTER, MODEL, PREPROCESS, LINEAGE = (
    "model.safetensors",
    "adapter.safetensors",
    "model.yaml",
    "preprocess.json",
    "lineage.json",
)
MODEL_CARD, MODEL_PAGE, PATIENTS, FIGURES = "model_card.md", "model_card.html", "patients.txt", "figures.json"
TRAINING = "training.json"
"""Facts about the training, from which the model card is written."""
METRICS, STATUS = "metrics.json", "status.csv"
CONFIG = "config.yaml"
"""Resolved options of the stage that made an artifact."""
FINGERPRINT = "fingerprint.json"
"""Facts about the training images of a fine-tuned model, and the options that were proposed for them."""
GATE = "quality_gate.json"
"""Limits outside of which the volumes that a segmentation model predicts are flagged."""
CHECKPOINT_FILES = (
    WEIGHTS,
    ADAPTER,
    MODEL,
    PREPROCESS,
    MODEL_CARD,
    MODEL_PAGE,
    PATIENTS,
    FIGURES,
    FINGERPRINT,
    GATE,
    TRAINING,
)

NOT_SHARING = (
    "only a single model of images that was fine-tuned from checkpoint=FOLDER, with peft other than full and continue, "
    "can share a backbone; predict with others alone"
)
"""Sentence for errors: which checkpoints can share a backbone, and what to do with others."""


@dataclass(frozen=True)
class Lineage:
    """Lineage of an artifact: stage, medvit version, config, hashes of its inputs, and MLflow run."""

    stage: str
    config_sha256: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Name of an input -> its hash."""
    parents: Mapping[str, str] = field(default_factory=dict)
    """Name of an input -> the MLflow run that made it."""
    run_id: str | None = None
    code: Mapping[str, str] = field(default_factory=dict)
    """Git commit of medvit, and whether tracked files were `changed`; empty if it is not a checkout."""
    version: str = __version__
    schema: int = SCHEMA_VERSION

    def write(self, folder: Path) -> None:
        """Write `lineage.json` into a folder."""
        write_text(folder / LINEAGE, json.dumps(asdict(self), indent=2, sort_keys=True) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Lineage | None:
        """Return the lineage of an artifact; None if the folder has none.

        Raises:
            DataError: If the file is damaged.
        """
        path = folder / LINEAGE
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None
        except (json.JSONDecodeError, UnicodeDecodeError, TypeError):
            raise DataError(f"{path} is damaged and cannot be read; restore it, or make {folder} again") from None


@dataclass(frozen=True)
class Checkpoint:
    """Saved model.

    `model` describes how to build the model (`kind` is backbone, slide or a task of `medvit.tasks`), and
    `preprocess` how to preprocess its input. `state` contains all weights, with adapters merged. `adapter` contains the
    weights that fine-tuning changed or added, stored in a separate file that `load` reads only if the checkpoint
    consists of it (`is_adapter`). `training` contains (name, text) pairs for the summary of the training run that has
    just ended.

    >>> import medvit
    >>> checkpoint = medvit.Checkpoint.load("runs/model")
    >>> checkpoint.kind, checkpoint.model["classes"]
    ('segmentation', ['background', 'liver', 'spleen', 'kidney'])
    >>> checkpoint.state["backbone.cls_token"].shape
    torch.Size([1, 1, 16])
    """

    folder: Path
    model: Tree
    preprocess: Tree
    state: Mapping[str, Tensor] = field(repr=False)
    adapter: Mapping[str, Tensor] | None = field(default=None, repr=False)
    training: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def kind(self) -> str:
        """Purpose of the model: backbone, slide, or the task of a model of images, such as segmentation."""
        return str(self.model["kind"])

    @property
    def hash(self) -> str:
        """SHA-256 over the weights and the descriptions in `model` and `preprocess`."""
        weights = self.folder / WEIGHTS
        with (weights if weights.is_file() else self.folder / ADAPTER).open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256")
        digest.update(json.dumps([self.model, self.preprocess], sort_keys=True).encode())
        return digest.hexdigest()

    def save(self) -> Checkpoint:
        """Write the checkpoint folder, with the weights as safetensors, never as pickle; return the checkpoint."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.is_adapter:
            write_weights(self.folder / WEIGHTS, self.state)
        if self.adapter is not None:
            write_weights(self.folder / ADAPTER, self.adapter)
        return self.save_description()

    def save_description(self) -> Checkpoint:
        """Write `model.yaml` and `preprocess.json` into the folder, which has the weights already."""
        write_text(self.folder / MODEL, yaml.safe_dump({"schema": SCHEMA_VERSION, **self.model}, sort_keys=False))
        write_text(self.folder / PREPROCESS, json.dumps(self.preprocess, indent=2) + "\n")
        return self

    @classmethod
    def load(cls, folder: str | Path) -> Checkpoint:
        """Return the checkpoint in a folder.

        Raises:
            CheckpointError: If the folder is not a checkpoint, is incomplete, or has an unsupported schema.
        """
        folder = Path(folder)
        is_adapter = all((folder / name).is_file() for name in (MODEL, ADAPTER, PREPROCESS))
        is_adapter &= not (folder / WEIGHTS).exists()
        return cls.load_adapter(folder) if is_adapter else cls._read(folder, WEIGHTS)

    @classmethod
    def load_adapter(cls, folder: str | Path) -> Checkpoint:
        """Return a checkpoint without the weights that it shares with its backbone: only its adapter, and its head.

        Raises:
            CheckpointError: As `load`, or if the checkpoint has no adapter, or does not name its backbone.
        """
        folder = Path(folder)
        is_whole = (folder / WEIGHTS).is_file()
        if is_whole and not (folder / ADAPTER).is_file():
            raise CheckpointError(f"{folder} has no {ADAPTER}: {NOT_SHARING}")
        found = cls._read(folder, ADAPTER)
        if not found.model.get("base"):
            reason = NOT_SHARING if is_whole else f"{WEIGHTS} is missing; give the complete output of finetune"
            raise CheckpointError(f"{folder}: {MODEL} does not name the backbone that {ADAPTER} belongs to: {reason}")
        return found

    @classmethod
    def _read(cls, folder: Path, weights: str) -> Checkpoint:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        missing = [name for name in (MODEL, weights, PREPROCESS) if not (folder / name).is_file()]
        if missing:
            raise CheckpointError(
                f"{folder} is not a checkpoint: no {' and no '.join(missing)} in it; "
                "give the output of pretrain or finetune"
            )
        try:
            model = read_yaml(folder / MODEL)
            preprocess = json.loads((folder / PREPROCESS).read_text(encoding="utf-8"))
            state = load_file(folder / weights)
        except (SafetensorError, ConfigError, json.JSONDecodeError) as error:
            raise CheckpointError(f"{folder} is damaged: {error}") from None
        if model.pop("schema", None) != SCHEMA_VERSION:
            raise CheckpointError(
                f"{folder / MODEL} has an unsupported schema; this medvit reads version {SCHEMA_VERSION}"
            )
        if weights == ADAPTER:
            return cls(folder, model, preprocess, {}, state)
        return cls(folder, model, preprocess, state)

    def stored_adapter(self) -> Mapping[str, Tensor] | None:
        """Return the adapter weights from their file; empty if all weights were trained.

        Raises:
            CheckpointError: If the file is damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        if not (self.folder / ADAPTER).is_file():
            return None
        try:
            return load_file(self.folder / ADAPTER)
        except SafetensorError as error:
            raise CheckpointError(f"{self.folder / ADAPTER} is damaged: {error}") from None

    def summary(self) -> Summary:
        """Return the kind and size of the model, and the outcome of its training run."""
        weights = f"{sum(weight.numel() for weight in self.state.values()):,}"
        trained = f"{sum(weight.numel() for weight in (self.adapter or {}).values()):,}"
        if self.is_adapter:
            weights = f"{trained}; the others are those of the backbone in {self.model['base']['folder']}"
        elif self.adapter:
            weights += f"; {trained} trained ones stored separately, too"
        files = {
            MODEL_PAGE: "model card",
            MODEL_CARD: "the same in Markdown",
            WEIGHTS: "weights",
            ADAPTER: "weights changed by training",
        }
        return Summary([("model", self.kind), ("weights", weights), *self.training.items()], files)

    @property
    def is_adapter(self) -> bool:
        """Whether the checkpoint contains only adapter and head.

        The backbone is then in another folder (`medvit.models.base`).
        """
        return not self.state and bool(self.adapter)

    @property
    def is_ensemble(self) -> bool:
        """Whether the checkpoint contains several complete models.

        A checkpoint for slides does not: it contains one backbone with several heads.
        """
        return self.kind != "slide" and int(self.model.get("members", 1)) > 1

    def member(self, state: Mapping[str, Tensor]) -> Checkpoint:
        """Return the checkpoint of one model of an ensemble, given its weights."""
        return replace(self, model={**self.model, "members": 1}, state=state, adapter=None)

    def require(self, *kinds: str) -> Checkpoint:
        """Return the checkpoint itself, after checking that its kind is one of `kinds`.

        Raises:
            CheckpointError: If the checkpoint is of another kind.
        """
        if self.kind not in kinds:
            *most, last = kinds
            needed = f"{', '.join(most)} or {last}" if most else last
            raise CheckpointError(f"{self.folder} is a {self.kind} checkpoint; this stage needs {needed}")
        return self


@dataclass(frozen=True)
class Report:
    """Evaluation of a model: `metrics.json`, `report.html` and `predictions.parquet`.

    `metrics` maps metric names to values. `lines` are (name, text) pairs with the main figures, for a summary.

    >>> import medvit
    >>> report = medvit.Report.read("runs/report")
    >>> round(report.metrics["dice.liver"], 2)
    0.82
    """

    folder: Path
    metrics: Mapping[str, float]
    lines: Sequence[tuple[str, str]] = ()

    @classmethod
    def read(cls, folder: str | Path) -> Report:
        """Return the report in a folder.

        Its `metrics` contain only the values, which are NaN if undefined. The file `metrics.json` also contains their
        confidence intervals.

        Raises:
            DataError: If the folder is not a report, or is damaged.
        """
        folder = Path(folder)
        text = _text_of(folder / METRICS, "a report", "evaluate")
        try:
            values = {name: found["value"] for name, found in json.loads(text)["metrics"].items()}
        except (json.JSONDecodeError, KeyError, TypeError):
            raise DataError(f"{folder / METRICS} is damaged and cannot be read; run evaluate again") from None
        return cls(folder, {name: math.nan if value is None else float(value) for name, value in values.items()})

    def summary(self) -> Summary:
        """Return the evaluated data, and the main metrics with their confidence intervals."""
        files = {"report.html": "report", "metrics.json": "all metrics", "predictions.parquet": "a row for each image"}
        return Summary(self.lines, {**files, "summary.txt": "lineage of the artifact"})


@dataclass(frozen=True)
class Predictions:
    """Predictions for studies: `status.csv`, `predictions.csv`, and one folder per study.

    `reasons` are lines of text about studies that were skipped, failed or lack an output.

    >>> import medvit
    >>> predictions = medvit.Predictions.read("runs/predictions")
    >>> predictions.num_done, predictions.num_skipped, predictions.num_failed
    (1, 0, 1)
    """

    folder: Path
    num_done: int
    num_skipped: int
    num_failed: int
    reasons: Sequence[str] = ()

    @classmethod
    def read(cls, folder: str | Path) -> Predictions:
        """Return the predictions in a folder.

        Raises:
            DataError: If the folder does not contain predictions.
        """
        folder = Path(folder)
        lines = csv.DictReader(_text_of(folder / STATUS, "predictions", "predict").splitlines())
        counts = Counter(line.get("status") for line in lines)
        return cls(folder, counts["done"], counts["skipped"], counts["failed"])

    def summary(self) -> Summary:
        """Return the number of studies per outcome (done, skipped, failed), with the reasons."""
        studies = f"{self.num_done} done, {self.num_skipped} skipped, {self.num_failed} failed"
        files = {
            "summary.html": "counts, failures and flagged studies",
            "status.csv": "a row for each study",
            "predictions.csv": "probabilities and volumes",
            "series.csv": "why each series is taken or not",
        }
        return Summary([("studies", studies), *labeled("reasons", self.reasons)], files)


def _text_of(path: Path, what: str, stage: str) -> str:
    if not path.is_file():
        raise DataError(f"{path.parent} is not {what}: no {path.name} in it; give the output of {stage}")
    return path.read_text(encoding="utf-8")
