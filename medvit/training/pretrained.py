"""Checkpoint of a pretraining run: merged backbone, adapter, weights of the objective.

If the objective trains on both images and volumes, a second backbone for the other dimensionality (2D or 3D) is written
into the folder `twin` of the checkpoint.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from medvit.artifacts import PATIENTS, Checkpoint
from medvit.backbones import Backbone
from medvit.files.atomic import write_weights
from medvit.leakage.seen_patients import write_training_patients
from medvit.peft.full import FullConfig
from medvit.training.pretraining_assembly import AssembledPretraining

TWIN = "twin"
"""Folder in a checkpoint for the backbone of the other dimensionality (3D if the main one is 2D, and vice versa)."""


def save_pretrained(parts: AssembledPretraining, folder: Path, seen: Iterable[str]) -> Checkpoint:
    """Write the checkpoint of a finished pretraining run into a folder.

    `seen` are the digests of the patients that the initial weights of the run were trained on.
    """
    peft, handed_on = parts.peft, parts.module.handed_on()
    if handed_on is not peft.backbone:  # a copy that the objective made, of the same structure
        peft.backbone.load_state_dict(handed_on.state_dict())
    adapter = None if isinstance(parts.way, FullConfig) else peft.state_of(parts.trained)
    merged = peft.merge()
    described = {"backbone": peft.described(parts.start.config).tree(), "peft": parts.way.tree()}
    model = {"kind": "backbone", **described}
    checkpoint = Checkpoint(folder, model, parts.start.preprocess.tree(), merged.state_dict(), adapter).save()
    for name, weights in parts.module.objective.kept().items():
        write_weights(checkpoint.folder / name, weights)
    write_training_patients(folder, parts.rows, seen)
    _save_twin(parts, checkpoint, merged)
    return checkpoint


def _save_twin(parts: AssembledPretraining, checkpoint: Checkpoint, merged: Backbone) -> None:
    """Write the backbone of the other dimensionality, if any, as a separate checkpoint in the folder `twin`."""
    twin = parts.module.objective.twin
    if twin is None:
        return
    own = twin.backbone
    backbone = merged.of_other_rank(own.patch_size, own.channels)
    backbone.load_state_dict({**merged.state_dict(), **own.embedding_state()})
    shape = {"ndim": own.ndim, "channels": own.channels, "patch_size": list(own.patch_size)}
    model = {"kind": "backbone", "backbone": checkpoint.model["backbone"] | shape}
    Checkpoint(checkpoint.folder / TWIN, model, parts.streams[1].preprocess.tree(), backbone.state_dict()).save()
    shutil.copy(checkpoint.folder / PATIENTS, checkpoint.folder / TWIN / PATIENTS)
