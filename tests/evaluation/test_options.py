"""Positive class, levels and order that are unset follow from the model and the images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medvit.dataset.manifest import Facts, Manifest
from medvit.evaluation.options import EvaluationOptions
from medvit.models.image import ModelConfig
from medvit.records import Row

VIT = {"name": "vit", "patch_size": 8, "width": 12, "depth": 1, "heads": 2, "ndim": 2, "channels": 1}


def options(**given: Any) -> EvaluationOptions:
    return EvaluationOptions.parse({"checkpoint": "model", "dataset": "data", "output": "report", **given})


def model(kind: str, *classes: str) -> ModelConfig:
    head = {"name": "dense", "channels": 4} if kind == "segmentation" else {"name": "linear"}
    tree = {"kind": kind, "backbone": VIT, "peft": {"name": "full"}, "head": head, "classes": classes}
    return ModelConfig.parse(tree | {"label": "grade", "roi": (16, 16) if kind == "segmentation" else None})


def images(**attributes: str) -> Manifest:
    row = Row(
        image_id="i",
        patient_id="p",
        study_id="s",
        series_id="e",
        modality="OP",
        kind="image",
        dataset="eyes",
        split="test",
        shape=(1, 16, 16),
        dtype="uint8",
        sha256="0",
        attributes=attributes,
    )
    return Manifest((row,), Facts("eyes", positive={"grade": "sick"}), Path("data"))


def test_images_that_say_their_eye_are_measured_at_all_levels_with_the_positive_class_last() -> None:
    found, notes = options().resolved(model("classification", "sick", "well"), images(laterality="L"))
    assert (found.positive, found.levels) == ("sick", ("image", "eye", "visit", "patient"))
    assert found.order == ("well", "sick")
    assert notes == []


def test_images_that_say_no_eye_are_measured_alone() -> None:
    found, _ = options().resolved(model("classification", "sick", "well"), images())
    assert (found.levels, found.order) == (("image",), ())


def test_levels_and_order_that_are_set_remain() -> None:
    asked = options(levels=["image", "patient"], order=["a", "c", "b"])
    found, _ = asked.resolved(model("classification", "a", "b", "c"), images(laterality="L"))
    assert (found.levels, found.order, found.positive) == (("image", "patient"), ("a", "c", "b"), "")


@pytest.mark.parametrize("attributes", [{}, {"laterality": "L"}])
def test_a_segmentation_has_no_positive_class_levels_or_order(attributes: dict[str, str]) -> None:
    found, notes = options().resolved(model("segmentation", "background", "organ"), images(**attributes))
    assert (found.positive, found.levels, found.order, notes) == ("", None, (), [])
