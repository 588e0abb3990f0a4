"""Networks from scratch as baselines: ResNet-18 (He et al., CVPR 2016) for labels, a small DynUNet for segmentation.

All settings are fixed beforehand, and none is chosen on the val split, so that the network is the same baseline for
every model of the dataset. It is trained like any fine-tuned model, and its checkpoint is kept with the baselines.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from medvit.artifacts import Checkpoint, Lineage
from medvit.baselines.kinds import NetworkName, TrainedBaseline, class_columns, label_columns, value_columns
from medvit.baselines.masks import scored
from medvit.baselines.subject import LabeledSplits
from medvit.config import Config, Count, Tree
from medvit.dataset.manifest import Facts
from medvit.dataset.samples import load
from medvit.dataset.slices import SlicesConfig
from medvit.errors import DataError
from medvit.inference.predictor import Predictor, numbers_of
from medvit.leakage.seen_patients import write_training_patients
from medvit.tracking import Tracker
from medvit.training.assembly import assemble_finetuning
from medvit.training.finetuning_options import FinetuningOptions
from medvit.training.proposals.crops import propose_extent, round_up
from medvit.training.resume import LEFTOVERS
from medvit.training.task import choose_preprocess
from medvit.transforms.preprocess import Preprocess
from medvit.types import Image

VERSION = 1
"""Version of the settings. It is raised when the same images and options give another network."""
EPOCHS = 10
"""Number of parts of the training after which the state to resume from is written."""
KEY = "baseline.json"
"""File in the folder of a network with the digest of everything that determines it."""
LEVELS, WIDTHS = 4, (16, 32, 64, 128)
"""Levels of the DynUNet, and the channels of each."""
LARGEST_CROP = {2: 128, 3: 64}
"""Maximum side of the crops of the DynUNet, keyed by the number of dimensions."""


class NetworkOptions(Config):
    """Networks from scratch, for the kinds resnet and dynunet."""

    steps: int = Field(1000, ge=EPOCHS, multiple_of=EPOCHS)
    """Number of training steps, a multiple of 10. The report states it. The weights of the last step are used."""
    batch_size: Count = 32
    """Images, or crops of a segmentation, in each step."""
    resnet: Literal["resnet18", "resnet10"] = "resnet18"
    """Network of the kind resnet. resnet18: ResNet-18, of timm in 2D and of MONAI in 3D. resnet10: the smaller
    ResNet-10 of MONAI, for large volumes.
    """


@dataclass(frozen=True)
class NetworkPlan:
    """Training of a network; `preprocess` and `slices` are those of the model that is compared, None: proposed."""

    name: NetworkName
    splits: LabeledSplits
    options: NetworkOptions
    seed: int
    preprocess: Preprocess | None = None
    slices: SlicesConfig | None = None

    @property
    def key(self) -> str:
        """SHA-256 of everything that determines the network: options, seed, preprocessing, images and labels."""
        found = [
            VERSION,
            self.name,
            self.options.tree(),
            self.seed,
            None if self.preprocess is None else self.preprocess.tree(),
            None if self.slices is None else self.slices.tree(),
            self.splits.task,
            self.splits.label,
            self.splits.classes,
            self.splits.train.hash,
        ]
        return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()

    @property
    def title(self) -> str:
        """Name of the network in a report."""
        if self.name == "dynunet":
            return "DynUNet from scratch"
        return f"ResNet-{self.options.resnet.removeprefix('resnet')} from scratch"

    def note(self, checkpoint: Checkpoint) -> str:
        """Return a sentence about the network and its training; `checkpoint` is the trained network."""
        network = f"{self.title}: {self._maker}" if self.name == "resnet" else f"DynUNet with channels {WIDTHS}"
        crop = " x ".join(str(side) for side in checkpoint.model["roi"] or ())
        return (
            f"{network}, crops of {crop}, trained from random weights with AdamW (learning rate 1e-3) for "
            f"{self.options.steps} steps of {self.options.batch_size}; the number of steps was fixed beforehand, and "
            "the last weights are kept."
        )

    @property
    def _maker(self) -> str:
        return f"{'timm' if self._backbone['name'] == 'timm' else 'MONAI'}, {self._ndim}D"

    @property
    def _ndim(self) -> int:
        return 2 if self.slices is not None else len(self.splits.train.rows[0].shape) - 1

    @property
    def _backbone(self) -> Tree:
        if self.name == "dynunet":
            sides = [1] * self._ndim, [2] * self._ndim, [3] * self._ndim
            strides = [sides[0], *[sides[1]] * (LEVELS - 1)]
            return {"name": "dynunet", "widths": WIDTHS, "strides": strides, "kernel_sizes": [sides[2]] * LEVELS}
        is_timm = self.options.resnet == "resnet18" and self._ndim == 2
        return {"name": "timm" if is_timm else "monai", "model": self.options.resnet}

    def finetuning(self, folder: Path) -> FinetuningOptions:
        """Return the options of the training, whose output is `folder`."""
        splits = self.splits
        is_dense = splits.task == "segmentation"
        tree: Tree = {
            "dataset": splits.train.folder,
            "output": folder,
            "task": splits.task,
            "backbone": self._backbone,
            "peft": {"name": "full"},
            "head": {"name": "own" if is_dense else "linear"},
            "keep": "last",
            "balance": "loss" if is_dense else "off",
            "optim": {"lr": 1e-3, "weight_decay": 0.05},
            "loader": {"batch_size": self.options.batch_size},
            "trainer": {"epochs": EPOCHS, "steps_per_epoch": self.options.steps // EPOCHS},
        }
        tree |= {"label": splits.label} if splits.label else {}
        tree |= {"labels": list(splits.classes)} if splits.task == "multilabel" else {}
        tree |= {} if self.slices is None else {"slices": self.slices.tree()}
        tree |= {} if self.preprocess is None else {"preprocess": self.preprocess.tree()}
        return FinetuningOptions.parse(tree | ({"crop": self._crop()} if is_dense else {}))

    def _crop(self) -> tuple[int, ...]:
        images = self.splits.train if self.slices is None else self.slices.single().of(self.splits.train)
        extent, _ = propose_extent(images, self.preprocess or choose_preprocess(images), "segmentation", LARGEST_CROP)
        return round_up(extent, (2 ** (LEVELS - 1),) * len(extent))


def train_network(plan: NetworkPlan, folder: Path, dataset: str, tracker: Tracker) -> Checkpoint:
    """Train a network in a folder, or continue an interrupted training; return its checkpoint.

    `dataset` is the hash of the whole dataset, which the lineage of the checkpoint records.

    Raises:
        DataError: If the images are whole slides.
    """
    if any(row.kind == "slide" for row in plan.splits.train):
        raise DataError("the images are whole slides; the network takes images or volumes")
    folder.mkdir(exist_ok=True)
    if read_key(folder) == plan.key:
        return Checkpoint.load(folder)
    config = plan.finetuning(folder)
    parts = assemble_finetuning(
        config, plan.splits.train, None, _no_positive, seed=plan.seed, folder=folder, tracker=tracker
    )
    parts.trainer.fit(parts.module, *parts.loaders, ckpt_path=parts.resume_from)
    model, preprocess = parts.model, parts.start.preprocess
    checkpoint = Checkpoint(folder, model.config.tree(), preprocess.tree(), model.merged_state()).save()
    write_training_patients(folder, plan.splits.train)
    Lineage("baseline", plan.key, {"dataset": dataset}).write(folder)
    for name in LEFTOVERS:
        (folder / name).unlink(missing_ok=True)
    (folder / KEY).write_text(json.dumps({"key": plan.key}) + "\n", encoding="utf-8")
    return checkpoint


def reuse_network(plan: NetworkPlan, earlier: Path, folder: Path) -> bool:
    """Copy a network of earlier baselines into a folder if it is the one of the plan; return whether it is."""
    if read_key(earlier) != plan.key:
        return False
    shutil.copytree(earlier, folder, dirs_exist_ok=True)
    return True


def read_key(folder: Path) -> str:
    """Return the digest of what determines the network in a folder; empty if there is no finished network."""
    path = folder / KEY
    return str(json.loads(path.read_text(encoding="utf-8")).get("key", "")) if path.is_file() else ""


def predicted_baseline(plan: NetworkPlan, checkpoint: Checkpoint, *, tolerance_mm: float) -> TrainedBaseline:
    """Return the predictions of a trained network for the validation and test images."""
    predictor, splits = Predictor(checkpoint), plan.splits
    rows = (*splits.val, *splits.test)
    if splits.task == "segmentation":
        columns = scored(splits, lambda image: _mask(predictor, image), tolerance_mm=tolerance_mm)
    else:
        numbers = np.stack([numbers_of(predictor(load(splits.train, row))) for row in rows]).astype(np.float64)
        if splits.task == "regression":
            columns = value_columns(splits, numbers[:, 0])
        elif splits.task == "multilabel":
            columns = label_columns(splits, rows, numbers)
        else:
            columns = class_columns(splits, numbers)
    return TrainedBaseline(plan.name, plan.title, plan.note(checkpoint), rows, columns)


def _mask(predictor: Predictor, image: Image) -> np.ndarray:
    mask = predictor(image).mask
    assert mask is not None, "a segmentation predicts masks"
    return mask


def _no_positive(facts: Facts, classes: Sequence[str]) -> str:
    """Return an empty name for the positive class, on which the training does not depend."""
    return ""
