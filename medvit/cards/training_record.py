"""Facts about the training of a model, stored in its checkpoint as `training.json`, from which its card is written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from medvit.artifacts import TRAINING
from medvit.cards.cohort import Cohort, cohort_table
from medvit.consumption import Consumption, ConsumptionMeter, Energy
from medvit.dataset.manifest import Facts
from medvit.document import Table
from medvit.errors import DataError
from medvit.files.atomic import write_text
from medvit.patients import PatientCount
from medvit.records import Row, splits_of

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class TrainingData:
    """Dataset that a model, or its initial weights, was trained on, with the patients whose images were used."""

    name: str
    license: str
    source: str
    sha256: str
    """Hash of the manifest."""
    patients: int
    assumed_patients: int
    head: Sequence[str] = ()
    """Columns of the cohort table: the splits that were used."""
    lines: Sequence[Sequence[str | int]] = ()
    """Lines of the cohort table."""

    @classmethod
    def of(cls, facts: Facts, sha256: str, rows: Sequence[Row], labels: Sequence[str] = ()) -> TrainingData:
        """Describe the images that were used, by split; `labels` are those that the model predicts."""
        count = PatientCount.of(rows)
        classes = {key: facts.classes[key] for key in labels if key in facts.classes}
        sets = {split: [row for row in rows if row.split == split] for split in splits_of(rows)}
        table = cohort_table({split: Cohort.of(each, classes) for split, each in sets.items() if each})
        lines = [[cell if isinstance(cell, int) else str(cell) for cell in line] for line in table.lines]
        return cls(facts.name, facts.license, facts.source, sha256, count.total, count.assumed, list(table.head), lines)

    @property
    def cohort(self) -> Table:
        """Patients and images by split."""
        return Table(self.head, self.lines)


@dataclass(frozen=True)
class Adjustment:
    """Change of the predictions after training, such as a calibration, as a section of the card."""

    title: str
    lines: Mapping[str, str]
    note: str


@dataclass(frozen=True)
class TrainingRecord:
    """Facts about the training of a model."""

    data: Sequence[TrainingData] = ()
    initial_weights: str = ""
    """SHA-256 of the checkpoint that training started from; empty if it started from none."""
    initial_data: Sequence[TrainingData] = ()
    """Data of the initial weights, as far as their checkpoint records them."""
    consumption: Consumption | None = None
    is_resumed: bool = False
    """Whether the run was interrupted; `consumption` is then that of its last process."""
    training: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, float | None] = field(default_factory=dict)
    adjustments: Sequence[Adjustment] = ()

    @classmethod
    def of(
        cls,
        data: Sequence[TrainingData],
        checkpoint: Path | None,
        sha256: str,
        meter: ConsumptionMeter,
        *,
        is_resumed: bool,
    ) -> TrainingRecord:
        """Return the facts about a training run that ends now.

        `checkpoint` is the folder of the initial weights, and `sha256` their hash.

        Raises:
            DataError: If `training.json` of the initial weights is damaged.
        """
        before = None if checkpoint is None else cls.read(checkpoint)
        earlier = [] if before is None else [*before.data, *before.initial_data]
        return cls(data, sha256, [replace(one, head=(), lines=()) for one in earlier], meter.stop(), is_resumed)

    def write(self, folder: Path) -> None:
        """Write `training.json` into the folder of a checkpoint."""
        write_text(folder / TRAINING, json.dumps({"schema": SCHEMA_VERSION, **asdict(self)}, indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> TrainingRecord | None:
        """Return the facts in the folder of a checkpoint; None if an earlier version made it.

        Raises:
            DataError: If the file is damaged.
        """
        path = folder / TRAINING
        if not path.is_file():
            return None
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
            if tree.pop("schema") != SCHEMA_VERSION:
                raise DataError(f"{path} has an unsupported schema; this medvit reads version {SCHEMA_VERSION}")
            for key in ("data", "initial_data"):
                tree[key] = [TrainingData(**one) for one in tree[key]]
            tree["adjustments"] = [Adjustment(**one) for one in tree["adjustments"]]
            if tree["consumption"] is not None:
                energies = {name: Energy(**tree["consumption"][name]) for name in ("processor_energy", "gpu_energy")}
                tree["consumption"] = Consumption(**{**tree["consumption"], **energies})
            return cls(**tree)
        except (json.JSONDecodeError, UnicodeDecodeError, TypeError, KeyError, AttributeError):
            raise DataError(f"{path} is damaged and cannot be read; restore it") from None
