"""Checkpoints of adapter and head alone: with their backbone, they are the whole model, bit for bit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from medvit.artifacts import ADAPTER, WEIGHTS, Checkpoint
from medvit.errors import CheckpointError
from medvit.files.tensors import digest_of
from medvit.models.base import SharedWeights, complete, recorded_itself, why_no_base
from medvit.models.ensemble import load_model
from medvit.models.interchange import to_timm
from medvit.peft.full import FullConfig
from medvit.peft.lora import LoraConfig
from medvit.registry import names
from tests.models.tuned import backbone_in, move, tuned_in

METHODS = [name for name in names("medvit.peft") if name not in ("full", "continue")]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return backbone_in(tmp_path_factory.mktemp("shared") / "backbone")


@pytest.mark.parametrize("peft", METHODS)
def test_adapter_and_head_on_the_backbone_give_the_weights_of_the_whole_checkpoint(
    backbone: Path, tmp_path: Path, peft: str
) -> None:
    whole = Checkpoint.load(tuned_in(tmp_path / "whole", backbone, peft=peft))
    small = Checkpoint.load(tuned_in(tmp_path / "small", backbone, peft=peft, store="adapter"))
    assert small.is_adapter
    assert not (small.folder / WEIGHTS).exists()
    found = complete(small).state
    assert found.keys() == whole.state.keys()
    assert [name for name, weight in found.items() if not torch.equal(weight, whole.state[name])] == []
    pixels = torch.randn(2, 1, 16, 16)
    assert torch.equal(load_model(small).predict(pixels), load_model(whole).predict(pixels))


@pytest.mark.parametrize("peft", METHODS)
def test_an_adapter_never_writes_into_the_shared_weights(backbone: Path, tmp_path: Path, peft: str) -> None:
    small = Checkpoint.load(tuned_in(tmp_path / "small", backbone, peft=peft, store="adapter"))
    shared = SharedWeights.of(small)
    before = {name: weight.clone() for name, weight in shared.state.items()}
    adapted = shared.adapted(small).attached()
    with torch.no_grad():
        adapted.eval()(torch.randn(1, 1, 16, 16))
    assert [name for name, weight in shared.state.items() if not torch.equal(weight, before[name])] == []


def test_the_backbone_is_found_beside_a_checkpoint_that_was_moved(backbone: Path, tmp_path: Path) -> None:
    small = move(tuned_in(tmp_path / "runs" / "small", backbone, store="adapter"), tmp_path / "a" / "b" / "small")
    with pytest.raises(CheckpointError, match=r"its backbone, with the SHA-256 \w{12}... of the weights, is neither"):
        load_model(Checkpoint.load(small))
    backbone_in(small.parent / "another", seed=9)
    shutil.copytree(backbone, small.parent / "renamed")
    assert load_model(Checkpoint.load(small)).predict(torch.zeros(1, 1, 16, 16)).shape == (1, 2)


def test_the_backbone_is_found_through_symbolic_links(tmp_path: Path) -> None:
    small = tuned_in(tmp_path / "runs" / "small", backbone_in(tmp_path / "backbones" / "one"), store="adapter")
    links = tmp_path / "deployed" / "here"
    links.mkdir(parents=True)
    (links / "latest").symlink_to(small)
    (links / "runs").symlink_to(small.parent)
    expected = complete(Checkpoint.load(small)).state
    for link in (links / "latest", links / "runs" / "small"):
        found = complete(Checkpoint.load(link)).state
        assert all(torch.equal(found[name], weight) for name, weight in expected.items())


def test_damaged_weights_beside_a_checkpoint_do_not_hide_its_backbone(
    backbone: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small = move(tuned_in(tmp_path / "runs" / "small", backbone, store="adapter"), tmp_path / "a" / "b" / "small")
    cut = backbone_in(small.parent / "another", seed=9) / WEIGHTS
    cut.write_bytes(cut.read_bytes()[:-1])
    shutil.copytree(backbone, small.parent / "renamed")
    assert complete(Checkpoint.load(small)).state
    assert "another is not the backbone of the checkpoint" in caplog.text


def test_a_changed_backbone_is_refused(tmp_path: Path) -> None:
    backbone = backbone_in(tmp_path / "backbone")
    small = tuned_in(tmp_path / "small", backbone, store="adapter")
    state = dict(Checkpoint.load(backbone).state)
    state["cls_token"] = state["cls_token"] + 1e-3
    save_file(state, backbone / WEIGHTS)
    with pytest.raises(CheckpointError, match="its backbone, with the SHA-256"):
        load_model(Checkpoint.load(small))


def test_the_digest_covers_names_shapes_types_and_values_but_not_order(tmp_path: Path) -> None:
    one, two = torch.arange(6.0), torch.ones(2)
    variants = [
        {"a": one, "b": two},
        {"a": one + 1, "b": two},
        {"a": one.view(2, 3), "b": two},
        {"a": one.half(), "b": two},
        {"a": one, "c": two},
        {"a": one},
    ]
    digests = []
    for number, variant in enumerate(variants):
        save_file(variant, tmp_path / str(number))
        digests.append(digest_of(tmp_path / str(number)))
    assert len(set(digests)) == len(variants)
    save_file({"b": two, "a": one}, tmp_path / "same", metadata={"made": "today"})
    save_file({"backbone.a": one, "backbone.b": two, "head.w": one + 2}, tmp_path / "model")
    assert digest_of(tmp_path / "same") == digest_of(tmp_path / "model", "backbone.") == digests[0]
    state = {"backbone.a": one, "backbone.b": two, "head.w": one}
    assert recorded_itself(state).sha256 == digests[0]


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.ones(100)}, tmp_path / "whole")
    (tmp_path / "cut").write_bytes((tmp_path / "whole").read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="is damaged: the file ends within a"):
        digest_of(tmp_path / "cut")


def test_an_adapter_without_the_record_of_its_backbone_is_refused(backbone: Path, tmp_path: Path) -> None:
    full = tuned_in(tmp_path / "full", backbone, peft="full")
    save_file({"head.bias": torch.zeros(2)}, full / ADAPTER)
    with pytest.raises(CheckpointError, match=r"does not name the backbone that adapter.safetensors belongs to"):
        Checkpoint.load_adapter(full)
    (full / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=r"belongs to: model.safetensors is missing"):
        Checkpoint.load(full)


def test_timm_gets_the_whole_backbone_of_an_adapter(backbone: Path, tmp_path: Path) -> None:
    for store in ("all", "adapter"):
        made = Checkpoint.load(tuned_in(tmp_path / store, backbone, store=store))
        to_timm(made, tmp_path / f"timm-{store}")
    assert digest_of(tmp_path / "timm-all" / WEIGHTS) == digest_of(tmp_path / "timm-adapter" / WEIGHTS)


def test_models_whose_training_changes_other_weights_have_no_base() -> None:
    plain, normalized = nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.BatchNorm2d(2))
    assert why_no_base(LoraConfig(), plain, is_continued=False) == ""
    assert "peft=full trains every weight" in why_no_base(FullConfig(), plain, is_continued=False)
    assert "peft=continue changes the adapter" in why_no_base(LoraConfig(), plain, is_continued=True)
    assert "batch norms, whose statistics" in why_no_base(LoraConfig(), normalized, is_continued=False)
