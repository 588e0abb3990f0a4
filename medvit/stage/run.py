"""One run of a stage: the inputs that it reads, its failed items, and its tracker."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

from medvit.artifacts import CONFIG, Checkpoint, Lineage
from medvit.config import Config, Tree, read_yaml, to_yaml
from medvit.dataset.manifest import Manifest
from medvit.dataset.tracked import record_dataset
from medvit.embeddings.table import EmbeddingTable, table_digest
from medvit.errors import ConfigError
from medvit.files.atomic import write_text
from medvit.leakage.seen_patients import training_patients
from medvit.stage.config import INPUTS
from medvit.tracking import Tracker, run_name
from medvit.tracking.model_registry import ModelVersion

log = logging.getLogger("medvit")

RUN = "MLflow run"
"""Name of the MLflow run among the inputs of a shared run."""
NAME_TAG = "mlflow.runName"
"""Tag of a tracked run with its name."""
NOT_OF_RESULT = ("tracking", "resume", "output")
"""Options of a run that its result does not depend on."""


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
    code: dict[str, str] = field(default_factory=dict)
    """Git commit of medvit and state of its files, for the lineage."""
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
            self.tracker.params({"model": {key: value for key, value in own.items() if key not in NOT_OF_RESULT}})

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
            self.tracker.tags({f"medvit.parent.{name}": lineage.run_id})
