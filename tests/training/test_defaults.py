"""Defaults follow the data, also where one key of a group is set."""

from __future__ import annotations

from pathlib import Path

from medvit.dataset.manifest import Manifest
from medvit.models.image import AppliesTo
from medvit.transforms.preprocess import Preprocess
from pipelines.finetune import FinetuneConfig, _rule
from tests.training.test_runs import TINY, finetune_options


def preprocess_of(data: Path, out: Path, **more: object) -> Preprocess:
    options = finetune_options(data, output=out, backbone=TINY | {"ndim": 2}, head=None, **more)
    return FinetuneConfig.parse(options).start(Manifest.read(data), None).preprocess


def test_one_key_of_preprocessing_leaves_the_others_to_follow_the_data(images: Path, tmp_path: Path) -> None:
    whole = preprocess_of(images, tmp_path)
    sized = preprocess_of(images, tmp_path, preprocess={"size": [64, 64]})
    assert sized == whole.model_copy(update={"size": (64, 64)})
    assert sized.kind == "image"


def test_a_preprocessing_that_names_its_kind_is_taken_as_it_stands(images: Path, tmp_path: Path) -> None:
    given = {"kind": "image", "channels": 1}
    assert preprocess_of(images, tmp_path, preprocess=given) == Preprocess.parse(given)


def test_one_key_of_the_rule_for_series_leaves_kind_and_modality_to_the_data() -> None:
    followed = AppliesTo(kind="image", modality="DX")
    assert _rule(None, followed) == followed
    found = _rule(AppliesTo.parse({"description": "chest"}), followed)
    assert (found.kind, found.modality, found.description) == ("image", "DX", "chest")
    assert _rule(AppliesTo.parse({"modality": None}), followed).modality is None
