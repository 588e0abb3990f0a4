"""Two datasets of different sources become one that pretraining takes, and its lineage names both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from medvit.artifacts import Lineage
from medvit.dataset.manifest import Manifest
from pipelines.datasets.merge import merge
from pipelines.ingest import ingest
from pipelines.pretrain import pretrain

OFF = {"enabled": False}


def made(folder: Path, name: str, seed: int) -> Manifest:
    """A dataset of six small pictures."""
    source = folder / f"{name}-source"
    source.mkdir()
    for number in range(6):
        pixels = np.random.default_rng((seed, number)).integers(0, 255, (24, 24), dtype=np.uint8)
        Image.fromarray(pixels).save(source / f"{number}.png")
    return ingest(source=source, dataset=folder / name, key=folder / "key", splits={"test": 0.0}, tracking=OFF)


def test_a_merged_is_pretrained_on_and_remembers_its_parts(tmp_path: Path) -> None:
    parts = [made(tmp_path, name, seed) for seed, name in enumerate(("one", "two"))]
    merged = merge(datasets=[part.folder for part in parts], output=tmp_path / "both", tracking=OFF)
    lineage = Lineage.read(merged.folder)
    assert lineage is not None
    assert lineage.inputs == {"dataset-1": parts[0].hash, "dataset-2": parts[1].hash}
    assert (merged.folder / "card.md").is_file()
    checkpoint = pretrain(
        dataset=merged.folder,
        output=tmp_path / "backbone",
        backbone={"name": "vit", "width": 24, "depth": 1, "heads": 2, "patch_size": 8},
        preprocess={"kind": "image", "size": [24, 24]},
        objective={"name": "mae", "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2},
        trainer={"epochs": 1, "steps_per_epoch": 1},
        tracking=OFF,
    )
    assert (lineage := Lineage.read(checkpoint.folder)) is not None
    assert lineage.inputs == {"dataset": merged.hash}
