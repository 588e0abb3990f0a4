"""Protocol of a comparison of backbones: label, images of each split and settings of the probes, with a hash.

Two comparisons with equal hashes used the same images in the same splits and the same settings, so that their numbers
can stand in one table. The backbones are not part of the protocol.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from medvit.baselines.subject import LabeledSplits
from medvit.models.features import Features
from medvit.probing import classifiers, regressors
from medvit.records import Row
from medvit.tasks import TaskName

VERSION = 1
"""Version of the probes. It is raised when the same images and settings give other numbers."""


@dataclass(frozen=True)
class Protocol:
    """Everything that determines a comparison except the backbones."""

    label: str
    classes: tuple[str, ...]
    images: dict[str, str]
    """SHA-256 of the images, patients and classes of each split, keyed by split."""
    probes: tuple[str, ...]
    features: Features
    seed: int
    neighbors: tuple[int, ...] = classifiers.NEIGHBORS
    strengths: tuple[float, ...] = classifiers.STRENGTHS
    rates: tuple[float, ...] = classifiers.RATES
    blocks: tuple[int, ...] = classifiers.BLOCKS
    steps: int = classifiers.STEPS
    batch: int = classifiers.BATCH
    chosen_by: str = "AUROC on the val split"
    version: int = VERSION
    task: TaskName = "classification"
    settings: Mapping[str, object] = field(default_factory=dict)
    """Settings of the probes of a task other than classification."""

    @classmethod
    def of(cls, splits: LabeledSplits, probes: Sequence[str], features: Features, seed: int) -> Protocol:
        """Return the protocol for the images of a label."""
        images = {}
        for name in ("train", "val", "test"):
            rows = sorted([row.image_id, row.patient_id, *_truth(splits, row)] for row in getattr(splits, name))
            images[name] = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
        task = splits.task
        label = ", ".join(splits.classes) if task == "multilabel" else splits.label
        of_numbers = {"settings": regressors.SETTINGS, "chosen_by": "R2 on the val split"}
        how: dict[str, Any] = of_numbers if task == "regression" else {}
        return cls(label, splits.classes, images, tuple(probes), features, seed, task=task, **how)

    @property
    def hash(self) -> str:
        """SHA-256 of the protocol."""
        tree = asdict(self)
        if self.task == "classification":  # as in versions without other tasks, so that their hashes remain valid
            del tree["task"], tree["settings"]
        return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def _truth(splits: LabeledSplits, row: Row) -> list[str]:
    """Return the class of an image, or of each label; empty for a missing label."""
    if splits.task == "multilabel":
        return [row.labels.get(label, "") for label in splits.classes]
    return [row.labels[splits.label]]
