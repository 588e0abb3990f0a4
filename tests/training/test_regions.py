"""Fine-tuning of overlapping regions, from options to a report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medvit.artifacts import Checkpoint
from medvit.dataset.manifest import Manifest
from medvit.dataset.samples import load
from medvit.errors import ConfigError
from medvit.inference.predictor import Predictor
from medvit.models.image import ModelConfig
from medvit.training.finetuning_options import FinetuningOptions
from pipelines.evaluate import evaluate
from pipelines.finetune import finetune
from tests.training.conftest import with_core
from tests.training.test_runs import finetune_options

CLASSES = ("background", "shell", "core")
REGIONS: dict[str, Any] = {
    "regions": {"ball": ["shell", "core"], "core": ["core"]},
    "regions_class_order": ["shell", "core"],
}


@pytest.fixture
def balls(volumes: Path, tmp_path: Path) -> Path:
    """The balls, whose upper half is the core."""
    made = with_core(volumes, tmp_path / "balls", CLASSES, num_test=3)
    made.write()
    return made.folder


def test_a_model_of_regions_writes_label_maps_and_is_scored_by_region(balls: Path, tmp_path: Path) -> None:
    made = finetune(output=tmp_path / "model", **finetune_options(balls, **REGIONS))
    model = ModelConfig.parse_saved(Checkpoint.load(made.folder).model, source="here")
    assert model.classes == CLASSES
    predict, manifest = Predictor(made, "cpu"), Manifest.read(balls)
    image = load(manifest, manifest.split("test").rows[0])
    mask = predict(image).mask
    assert mask is not None
    assert set(np.unique(mask)) <= {0, 1, 2}
    report = evaluate(
        checkpoint=made.folder, dataset=balls, output=tmp_path / "report", resamples=100, tracking={"enabled": False}
    )
    saved = json.loads((report.folder / "metrics.json").read_text(encoding="utf-8"))
    assert {"dice", "dice.ball", "dice.core", "dice_pooled.ball"} <= saved["metrics"].keys()
    assert "dice.shell" not in saved["metrics"]
    assert saved["classes"] == ["background", "ball", "core"]


def test_regions_of_partial_labels_and_largest_components_of_regions_are_refused(balls: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="largest_components=true is decided for classes, and regions overlap"):
        finetune(output=tmp_path / "a", **finetune_options(balls, **REGIONS, largest_components=True))
    manifest = Manifest.read(balls)
    replace(manifest, rows=(replace(manifest.rows[4], annotated=("core",)), *manifest.rows)).write()
    with pytest.raises(ConfigError, match="regions need label maps in which all classes are annotated; found 1 with"):
        finetune(output=tmp_path / "b", **finetune_options(balls, **REGIONS))


@pytest.mark.parametrize("order", [[], ["shell"], ["shell", "core", "core"]])
def test_each_region_needs_a_class_to_write(order: list[str]) -> None:
    with pytest.raises(ConfigError, match="regions has 2 regions and regions_class_order"):
        FinetuningOptions.parse({"dataset": "d", "output": "o", **REGIONS, "regions_class_order": order})


def test_a_region_without_classes_is_refused() -> None:
    regions = {"whole": ["ball", "core"], "core": ["core"], "none": []}
    with pytest.raises(ConfigError, match=r"regions\.none is without classes"):
        FinetuningOptions.parse(
            {"dataset": "d", "output": "o", "regions": regions, "regions_class_order": ["ball", "core", "core"]}
        )
