"""Copy of a checkpoint with adjusted predictions, such as calibrated ones; its weights are unchanged."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

from medvit.artifacts import ADAPTER, FIGURES, FINGERPRINT, GATE, MODEL_CARD, WEIGHTS, Checkpoint
from medvit.cards.model import model_document, write_pages
from medvit.cards.training_record import Adjustment, TrainingRecord
from medvit.config import Tree
from medvit.document import inert
from medvit.files.atomic import write_text
from medvit.inference.out_of_fold import DESCRIPTION, OUT_OF_FOLD
from medvit.models.base import ITSELF

COPIED = (WEIGHTS, ADAPTER, FIGURES, FINGERPRINT, GATE)


def write_adjusted(original: Checkpoint, added: Tree, folder: Path, *, final: Path, section: Adjustment) -> Checkpoint:
    """Write a checkpoint with the weights of another one, and `added` keys in its `model.yaml`.

    `final` is the folder that `folder` is renamed to. The model card gets the new `section`. Out-of-fold
    predictions are copied, and their description has the added keys, too.
    """
    for name in COPIED:
        if (original.folder / name).is_file():
            shutil.copyfile(original.folder / name, folder / name)
    model: Tree = {**original.model, **added}
    base = model.get("base")
    if base and base["folder"] != ITSELF:
        place = (original.folder / base["folder"]).resolve()
        model["base"] = {**base, "folder": os.path.relpath(place, final.absolute())}
    checkpoint = Checkpoint(folder, model, original.preprocess, original.state, original.adapter)
    checkpoint.save_description()
    if (original.folder / OUT_OF_FOLD).is_dir():
        _copy_out_of_fold(original.folder / OUT_OF_FOLD, folder / OUT_OF_FOLD, checkpoint)
    record = TrainingRecord.read(original.folder)
    if record is None:
        _append_to_card(original.folder / MODEL_CARD, folder, section)
    else:
        record = replace(record, adjustments=(*record.adjustments, section))
        record.write(folder)
        write_pages(model_document(checkpoint, record), folder)
    return checkpoint


def _append_to_card(card: Path, folder: Path, added: Adjustment) -> None:
    """Write the card of a checkpoint of an earlier version, which has no record of its training, with a new section."""
    text = card.read_text(encoding="utf-8").rstrip("\n") + "\n" if card.is_file() else ""
    lines = [f"- {name}: {inert(each)}" for name, each in added.lines.items()]
    section = ["", f"## {added.title}", "", *lines, "", added.note]
    write_text(folder / MODEL_CARD, text + "\n".join(section) + "\n")


def _copy_out_of_fold(source: Path, folder: Path, checkpoint: Checkpoint) -> None:
    if not folder.exists():
        shutil.copytree(source, folder)
    description = json.loads((source / DESCRIPTION).read_text(encoding="utf-8"))
    description |= {"checkpoint": checkpoint.hash, "model": checkpoint.model}
    write_text(folder / DESCRIPTION, json.dumps(description, indent=2, sort_keys=True) + "\n")
