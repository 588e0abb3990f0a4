"""One encoder for the eye through the commands: photographs and OCT together, labels as text, one report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medvit import phantoms
from medvit.artifacts import Checkpoint
from medvit.dataset.manifest import Manifest
from medvit.evaluation.aggregation import LEVELS
from medvit.hardware import resolve_device
from medvit.phantoms.fundus import CLASSES, fundus
from pipelines.evaluate import EvaluateConfig, evaluate
from pipelines.finetune import finetune
from pipelines.ingest import ingest
from pipelines.pretrain import pretrain

QUIET: dict[str, Any] = {"tracking": {"enabled": False}}
BACKBONE = {"width": 24, "depth": 2, "heads": 2, "patch_size": 8}
CHAIN = {"kind": "image", "channels": 3, "size": [48, 48], "field_of_view": {}, "intensity": {"method": "range"}}
DECODER = {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2, "mask_ratio": 0.5}
SHORT = {"epochs": 1, "steps_per_epoch": 2}


@pytest.fixture(scope="module")
def eyes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of both eyes of 16 patients as photographs, graded, and of OCT volumes."""
    root = tmp_path_factory.mktemp("eyes")
    for number in range(16):
        for side in ("left", "right"):
            label = CLASSES[(number + (side == "left")) % 3]
            path = root / "source" / label / f"{number}_{side}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(fundus(np.random.default_rng([number, side == "left"]), label)).save(path)
    phantoms.write_oct_studies(root / "source", 3)
    asked = {"scanning": {"modality": "OP"}, "labeling": {"from_folders": "folder"}}
    ingest(source=root / "source", dataset=root / "d", key=root / "key", **asked, **QUIET)
    return root / "d"


def test_both_eyes_of_a_patient_are_in_one_split_though_folders_part_them(eyes: Path) -> None:
    manifest = Manifest.read(eyes)
    photographs = [row for row in manifest if row.kind == "image"]
    assert len({row.patient_id for row in photographs}) == 16
    assert len({(row.patient_id, row.split) for row in manifest}) == 16 + 3


def test_uni4eye_learns_from_photographs_and_volumes_with_one_encoder(eyes: Path, tmp_path: Path) -> None:
    pretrain(
        dataset=eyes,
        output=tmp_path / "b",
        preprocess=CHAIN,
        backbone=BACKBONE,
        other_preprocess={"kind": "volume", "channels": 1, "size": [32, 32, 16], "intensity": {"method": "range"}},
        objective={
            "name": "uni4eye",
            "other_patch_size": [8, 8, 8],
            "other_channels": 1,
            **DECODER,
            "views": {"size": [48, 48]},
            "other_views": {"size": [32, 32, 16]},
        },
        trainer=SHORT,
        loader={"batch_size": 2},
        **QUIET,
    )
    one, twin = Checkpoint.load(tmp_path / "b"), Checkpoint.load(tmp_path / "b" / "twin")
    shared = [name for name in one.state if name in twin.state and name.startswith("blocks.")]
    assert shared
    assert all((one.state[name] == twin.state[name]).all() for name in shared)


def test_urfound_learns_from_photographs_and_their_labels(eyes: Path, tmp_path: Path) -> None:
    texts = {"text_width": 16, "text_depth": 1, "text_heads": 2, "vocabulary": 64}
    pretrain(
        dataset=eyes,
        output=tmp_path / "b",
        preprocess=CHAIN,
        backbone=BACKBONE,
        objective={"name": "urfound", "views": {"size": [48, 48]}, **DECODER, **texts},
        trainer=SHORT,
        loader={"batch_size": 4},
        **QUIET,
    )
    assert "urfound" in (tmp_path / "b" / "model_card.md").read_text(encoding="utf-8")


def test_a_report_tells_of_images_eyes_visits_and_patients(eyes: Path, tmp_path: Path) -> None:
    model = tmp_path / "m"
    backbone = {"name": "vit", **BACKBONE}
    finetune(
        dataset=eyes,
        output=model,
        preprocess=CHAIN,
        backbone=backbone,
        peft="full",
        balance="off",
        trainer=SHORT,
        loader={"batch_size": 4},
        **QUIET,
    )
    order = ("normal", "none", "mild", "fluid", "severe")
    report = {"output": tmp_path / "r", "split": "train", "resamples": 100, "cases": 1, "order": order}
    evaluate(checkpoint=model, dataset=eyes, **report, **QUIET)
    kept = EvaluateConfig.load(tmp_path / "r" / "config.yaml")
    assert (kept.levels, kept.order, kept.device) == (LEVELS, order, resolve_device("auto").type)
    breakdowns = json.loads((tmp_path / "r" / "metrics.json").read_text(encoding="utf-8"))["breakdowns"]
    counts = {line["name"]: line["items"] for line in breakdowns["By level"]}
    patients = {line["patients"] for line in breakdowns["By level"]}
    assert counts["image"] == counts["eye"] == 2 * counts["patient"]
    assert patients == {counts["patient"]}
    assert sum(line["items"] for line in breakdowns["By quality"]) == counts["image"]
