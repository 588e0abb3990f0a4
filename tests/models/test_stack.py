"""A stack of models on one backbone predicts what each model predicts alone, and encodes each window once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from medvit.artifacts import Checkpoint
from medvit.backbones.vit import ViT
from medvit.errors import CheckpointError
from medvit.models.ensemble import load_model
from medvit.models.stack import Stack
from medvit.registry import names
from tests.models.tuned import backbone_in, tuned_in

METHODS = [name for name in names("medvit.peft") if name not in ("full", "continue")]
DENSE = {"kind": "segmentation", "head": {"name": "dense", "channels": 4, "num_depths": 2}}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return backbone_in(tmp_path_factory.mktemp("shared") / "backbone")


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[int]]:
    """Number of images that each backbone has encoded."""
    counts: Counter[int] = Counter()
    whole = ViT.intermediate

    def counted(self: ViT, pixels: torch.Tensor, layers: list[int]) -> list:
        counts[id(self)] += len(pixels)
        return whole(self, pixels, layers)

    monkeypatch.setattr(ViT, "intermediate", counted)
    return counts


def stack_of(folders: dict[str, Path]) -> Stack:
    return Stack.of({name: Checkpoint.load_adapter(one) for name, one in folders.items()}, dict.fromkeys(folders, ""))


def require_same(folders: dict[str, Path], pixels: torch.Tensor) -> None:
    """Check that the predictions of the stack equal those of every model alone, bit for bit."""
    found = stack_of(folders).predict(folders, pixels)
    assert found.keys() == folders.keys()
    for name, folder in folders.items():
        expected = load_model(Checkpoint.load(folder)).predict(pixels)
        assert torch.equal(found[name], expected), f"{name}: {found[name]}, {expected}"


def test_every_method_of_finetuning_predicts_as_alone(backbone: Path, tmp_path: Path) -> None:
    folders = {peft: tuned_in(tmp_path / peft, backbone, peft=peft) for peft in METHODS}
    require_same(folders, torch.randn(2, 1, 16, 16))


def test_frozen_heads_of_every_task_predict_as_alone_and_encode_each_image_once(
    backbone: Path, tmp_path: Path, encoded: Counter[int]
) -> None:
    ages = {"kind": "regression", "classes": ("age",), "label": "age", "scales": ({"mean": 50.0, "deviation": 9.0},)}
    tasks = {
        "grades": {"kind": "ordinal", "classes": ("0", "1", "2", "3")},
        "ages": ages,
        "finding": {"head": {"name": "linear", "num_depths": 2}},
        "organs": DENSE,
        "vessels": {**DENSE, "classes": ("background", "vessel")},
    }
    folders = {name: tuned_in(tmp_path / name, backbone, peft="frozen", **more) for name, more in tasks.items()}
    pixels = torch.randn(2, 1, 21, 18)
    require_same(folders, pixels)
    encoded.clear()
    stack_of(folders).predict(folders, pixels)
    assert list(encoded.values()) == [2]


def test_sliding_windows_mirrored_and_turned_are_each_encoded_once(
    backbone: Path, tmp_path: Path, encoded: Counter[int]
) -> None:
    passes = {"roi": (16, 16), "mirrored_axes": (0,), "turned_axes": (0, 1), "overlap": 0.5}
    classes = [("background", "liver", "spleen"), ("background", "tumor")]
    folders = {
        f"model-{number}": tuned_in(tmp_path / str(number), backbone, peft="frozen", **DENSE, **passes, classes=names)
        for number, names in enumerate(classes)
    }
    pixels = torch.randn(1, 1, 24, 32)
    require_same(folders, pixels)
    encoded.clear()
    load_model(Checkpoint.load(folders["model-0"])).predict(pixels)
    alone = encoded.total()
    encoded.clear()
    stack_of(folders).predict(folders, pixels)
    assert encoded.total() == alone > 8


def test_models_with_the_same_adapter_share_its_encoding_and_others_do_not(
    backbone: Path, tmp_path: Path, encoded: Counter[int]
) -> None:
    """Two tasks with one seed have the same adapter, but different heads."""
    same = {"a": {}, "b": {"classes": ("1", "2", "3", "4")}, "c": {"seed": 2}}
    folders = {name: tuned_in(tmp_path / name, backbone, **more) for name, more in same.items()}
    pixels = torch.randn(1, 1, 16, 16)
    require_same(folders, pixels)
    encoded.clear()
    stack_of(folders).predict(folders, pixels)
    assert sorted(encoded.values()) == [1, 1]


def test_the_frozen_weights_are_in_memory_once(backbone: Path, tmp_path: Path) -> None:
    folders = {str(seed): tuned_in(tmp_path / str(seed), backbone, seed=seed) for seed in range(3)}
    stack = stack_of(folders)
    storages: dict[int, int] = {}
    for model in stack.models.values():
        for weight in model.state_dict().values():
            storages[weight.untyped_storage().data_ptr()] = weight.untyped_storage().nbytes()
    own = sum(weight.nbytes for one in folders.values() for weight in Checkpoint.load_adapter(one).adapter.values())
    shared = sum(weight.nbytes for weight in Checkpoint.load(backbone).state.values())
    assert sum(storages.values()) == own + shared


def test_volumes_predict_as_alone(tmp_path: Path) -> None:
    backbone = backbone_in(tmp_path / "backbone", ndim=3, positions="rope")
    options = {**DENSE, "roi": (16, 16, 16), "preprocess": {"kind": "volume"}}
    folders = {peft: tuned_in(tmp_path / peft, backbone, peft=peft, **options) for peft in ("frozen", "lora", "vpt")}
    require_same(folders, torch.randn(1, 1, 16, 24, 18))


def test_a_model_on_another_backbone_is_refused(backbone: Path, tmp_path: Path) -> None:
    other = backbone_in(tmp_path / "other", seed=7)
    folders = {"a": tuned_in(tmp_path / "a", backbone), "b": tuned_in(tmp_path / "b", other)}
    with pytest.raises(CheckpointError, match=r"do not share one backbone: that of a is \w{12}, that of b is \w{12} "):
        stack_of(folders)


def test_a_model_that_was_trained_whole_is_refused(backbone: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no adapter"):
        stack_of({"a": tuned_in(tmp_path / "a", backbone, peft="full")})
