"""Checkpoints at work in timm and huggingface/peft alone: the features are those of medvit.

Tolerances are absolute, of features of about 1 after the last norm.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import peft
import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor

from medvit.artifacts import Checkpoint
from medvit.backbones import Backbone
from medvit.backbones.timm_layout import ARCHITECTURES
from medvit.backbones.vit import VitConfig
from medvit.errors import CheckpointError, ConfigError, OutputError
from medvit.models.image import Model, ModelConfig
from medvit.models.interchange import to_peft, to_timm
from medvit.peft import PeftConfig
from medvit.peft.adalora import AdaLoraConfig
from medvit.peft.block_expansion import BlockExpansionConfig
from medvit.peft.dora import DoraConfig
from medvit.peft.explora import ExploraConfig
from medvit.peft.frozen import FrozenConfig
from medvit.peft.full import FullConfig
from medvit.peft.ia3 import Ia3Config
from medvit.peft.lora import LoraConfig
from medvit.peft.rslora import RsLoraConfig
from medvit.peft.selective_lora import SelectiveLoraConfig
from medvit.peft.vera import VeraConfig

TOLERANCE = 1e-5
SIZE = (32, 48)
LAYOUT: dict[str, Any] = {"ndim": 2, "channels": 1, "patch_size": 8, "width": 48, "depth": 2, "heads": 2}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"registers": 3, "layer_scale": 0.3, "patch_size": (8, 16)},
    {"class_token": False, "norm_epsilon": 1e-5},
    {"positions": "learned", "image_size": 32, "registers": 2, "mlp": "swiglu"},
    {
        "positions": "learned",
        "image_size": 32,
        "class_token": False,
        "registers": 1,
        "mlp": "swiglu",
        "layer_scale": 0.2,
    },
    {"positions": "rope", "registers": 4, "layer_scale": 0.3, "qkv_bias": False, "norm_epsilon": 1e-5},
    {"positions": "rope", "class_token": False, "mlp": "swiglu"},
    {"positions": "rope", "registers": 2, "mlp": "swiglu", "norm_epsilon": 1e-5},
    {"positions": "rope"},
]


def moved(model: torch.nn.Module) -> None:
    """Move every weight that is trained away from where it starts."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn_like(weight))


def pretrained(folder: Path, way: PeftConfig | None = None, **options: Any) -> Checkpoint:
    """The checkpoint of a pretraining by some adaptation, with weights that differ from the initial ones."""
    torch.manual_seed(0)
    config = VitConfig(**LAYOUT | options)
    backbone = config.build().eval()
    moved(backbone)
    way = way or FullConfig()
    adapted = way.adapt(backbone)
    moved(adapted.backbone)
    adapter = None if isinstance(way, FullConfig) else adapted.state_of(adapted.trained())
    merged = adapted.merge().state_dict()
    model = {"kind": "backbone", "backbone": adapted.described(config).tree(), "peft": way.tree()}
    return Checkpoint(folder, model, {"kind": "image", "size": list(SIZE)}, merged, adapter).save()


def backbone_of(checkpoint: Checkpoint) -> Backbone:
    backbone = VitConfig.parse(checkpoint.model["backbone"]).build()
    backbone.load_state_dict(dict(checkpoint.state))
    return backbone.eval()


def pixels(*size: int) -> Tensor:
    return torch.randn(2, 1, *(size or SIZE), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def features(backbone: Backbone, images: Tensor) -> Tensor:
    tokens = backbone(images)
    return torch.cat([tokens.prefix, tokens.patches], dim=1)


@torch.no_grad()
def timm_features(model: Any, images: Tensor) -> Tensor:
    found: Tensor = model.eval().forward_features(images)
    return found


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)


def base_of(folder: Path) -> Any:
    return timm.create_model(f"local-dir:{folder}", pretrained=True)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_timm_loads_the_folder_and_gives_the_features_of_the_backbone(options: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = pretrained(tmp_path / "backbone", **options)
    expected = features(backbone_of(checkpoint), pixels())
    folder = to_timm(checkpoint, tmp_path / "timm")
    same(timm_features(base_of(folder), pixels()), expected)


def test_the_weights_load_as_a_checkpoint_of_the_architecture_too(tmp_path: Path) -> None:
    checkpoint = pretrained(tmp_path / "backbone")
    folder = to_timm(checkpoint, tmp_path / "timm")
    described = json.loads((folder / "config.json").read_text())
    model = timm.create_model(
        described["architecture"], checkpoint_path=folder / "model.safetensors", **described["model_args"]
    )
    same(timm_features(model, pixels()), features(backbone_of(checkpoint), pixels()))


def test_without_the_positions_that_are_written_out_features_would_differ(tmp_path: Path) -> None:
    """The silent error of loading model.safetensors of a checkpoint unchanged."""
    checkpoint = pretrained(tmp_path / "backbone")
    model = base_of(to_timm(checkpoint, tmp_path / "timm"))
    with torch.no_grad():
        model.pos_embed.zero_()
    difference = timm_features(model, pixels()) - features(backbone_of(checkpoint), pixels())
    assert difference.abs().max() > 0.1


def test_positions_are_written_for_the_size_that_is_asked_for(tmp_path: Path) -> None:
    checkpoint = pretrained(tmp_path / "backbone", positions="learned", image_size=32)
    model = base_of(to_timm(checkpoint, tmp_path / "timm", image_size=64))
    same(timm_features(model, pixels(64, 64)), features(backbone_of(checkpoint), pixels(64, 64)))
    with pytest.raises(AssertionError, match="doesn't match model"):
        timm_features(model, pixels(32, 32))


def test_rotary_positions_need_no_size(tmp_path: Path) -> None:
    checkpoint = pretrained(tmp_path / "backbone", positions="rope", qkv_bias=False)
    model = base_of(to_timm(checkpoint, tmp_path / "timm"))
    same(timm_features(model, pixels(64, 16)), features(backbone_of(checkpoint), pixels(64, 16)))


def test_the_preprocessing_lies_beside_the_weights_and_the_patients_do_not(tmp_path: Path) -> None:
    checkpoint = pretrained(tmp_path / "backbone")
    (checkpoint.folder / "patients.txt").write_text("digest\n")
    names = {path.name for path in to_timm(checkpoint, tmp_path / "timm").iterdir()}
    assert names == {"config.json", "model.safetensors", "preprocess.json"}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"ndim": 3}, "the backbone is for volumes"),
        ({"mlp": "swiglu", "norm_epsilon": 1e-5}, "has no transformer with mlp=swiglu, positions=sincos and norm_eps"),
        ({"norm_epsilon": 1e-3}, "norm_epsilon=0.001"),
        ({"positions": "rope", "width": 36}, "rotates whole quarters of a head, and this one is 18 wide"),
    ],
)
def test_what_timm_cannot_hold_is_refused_with_the_reason(options: dict[str, Any], reason: str, tmp_path: Path) -> None:
    checkpoint = pretrained(tmp_path / "backbone", **options)
    with pytest.raises(CheckpointError, match=reason):
        to_timm(checkpoint, tmp_path / "timm")
    assert not (tmp_path / "timm").exists()


def test_an_image_that_is_not_whole_patches_and_a_used_folder_are_refused(tmp_path: Path) -> None:
    checkpoint = pretrained(tmp_path / "backbone")
    with pytest.raises(ConfigError, match=r"image_size is \(30, 30\); expected multiples of the patch \(8, 8\)"):
        to_timm(checkpoint, tmp_path / "timm", image_size=30)
    with pytest.raises(OutputError, match="exists already"):
        to_timm(checkpoint, checkpoint.folder)


def test_every_architecture_is_written_by_a_test() -> None:
    written = {
        ("rope" if o.get("positions") == "rope" else "added", o.get("mlp", "gelu"), o.get("norm_epsilon", 1e-6))
        for o in OPTIONS
    }
    assert written == ARCHITECTURES.keys()


WAYS: list[tuple[PeftConfig, dict[str, Any]]] = [
    (LoraConfig(rank=2, alpha=3.0), {}),
    (
        LoraConfig(rank=2, targets=("qkv",)),
        {"positions": "rope", "qkv_bias": False, "registers": 4, "layer_scale": 0.3},
    ),
    (LoraConfig(rank=2), {"positions": "rope", "qkv_bias": False, "mlp": "swiglu"}),
    (RsLoraConfig(rank=2), {}),
    (DoraConfig(rank=2), {"registers": 1}),
    (DoraConfig(rank=2), {"positions": "rope", "qkv_bias": False}),
    (Ia3Config(), {}),
    (Ia3Config(targets=("proj", "fc1"), scaled_inputs=("fc1",)), {"positions": "rope", "qkv_bias": False}),
    (VeraConfig(rank=64, matrices_seed=7), {}),
    (SelectiveLoraConfig(rank=2), {}),
    (AdaLoraConfig(rank=2, initial_rank=4), {}),
    (ExploraConfig(rank=2), {"positions": "learned", "image_size": 32}),
    (ExploraConfig(rank=2), {"positions": "rope", "qkv_bias": False, "layer_scale": 0.3}),
]


@pytest.mark.parametrize(("way", "options"), WAYS, ids=str)
def test_peft_puts_the_adapter_on_its_base_and_gives_the_features_of_the_backbone(
    way: PeftConfig, options: dict[str, Any], tmp_path: Path
) -> None:
    checkpoint = pretrained(tmp_path / "backbone", way, **options)
    expected = features(backbone_of(checkpoint), pixels())
    folder = to_peft(checkpoint, tmp_path / "peft")
    base = base_of(folder / "base")
    assert (timm_features(base, pixels()) - expected).abs().max() > 0.01, "the base has no adapter"
    adapted = peft.PeftModel.from_pretrained(base, folder)
    same(timm_features(adapted.base_model.model, pixels()), expected)
    same(timm_features(adapted.merge_and_unload(), pixels()), expected)


def test_an_adapter_fits_the_model_that_training_started_from(tmp_path: Path) -> None:
    """So one public model serves the adapters of many tasks; fully trained modules are stored with the adapter."""
    start = pretrained(tmp_path / "start")
    public = to_timm(start, tmp_path / "public")
    backbone = backbone_of(start)
    adapted = ExploraConfig(rank=2).adapt(copy.deepcopy(backbone))
    moved(adapted.backbone)
    adapter, merged = adapted.state_of(adapted.trained()), adapted.merge()
    model = start.model | {"peft": ExploraConfig(rank=2).tree()}
    made = Checkpoint(tmp_path / "made", model, start.preprocess, merged.state_dict(), adapter).save()
    onto_public = peft.PeftModel.from_pretrained(base_of(public), to_peft(made, tmp_path / "peft"))
    same(timm_features(onto_public.base_model.model, pixels()), features(merged.eval(), pixels()))


def test_a_fine_tuned_model_gives_its_backbone_and_adapter_without_the_head(tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = VitConfig(**LAYOUT)
    described = {"kind": "classification", "backbone": backbone, "peft": LoraConfig(rank=2), "head": "linear"}
    model = Model(ModelConfig.parse(described | {"classes": ["no", "yes"], "roi": SIZE}), backbone.build())
    moved(model)
    tree, adapter = model.config.tree(), dict(model.adapter_state())
    state = model.merged_state()
    checkpoint = Checkpoint(tmp_path / "model", tree, {"kind": "image"}, state, adapter).save()
    expected = features(model.backbone.eval(), pixels())
    same(timm_features(base_of(to_timm(checkpoint, tmp_path / "timm")), pixels()), expected)
    folder = to_peft(checkpoint, tmp_path / "peft")
    adapted = peft.PeftModel.from_pretrained(base_of(folder / "base"), folder)
    same(timm_features(adapted.base_model.model, pixels()), expected)
    names = load_file(folder / "adapter_model.safetensors").keys()
    assert {name.partition(".blocks.")[0] for name in names} == {"base_model.model"}


@pytest.mark.parametrize(
    ("way", "options", "reason"),
    [
        (FullConfig(), {}, "all weights were trained"),
        (FrozenConfig(), {}, "no weight of the backbone was trained"),
        (BlockExpansionConfig(num_blocks=1), {}, "blocks were added"),
        (LoraConfig(), {"positions": "rope"}, r"qkv_bias=true reads the weights of qkv directly"),
        (LoraConfig(), {"ndim": 3}, "the backbone is for volumes"),
    ],
)
def test_what_peft_cannot_hold_is_refused_with_the_reason(
    way: PeftConfig, options: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    checkpoint = pretrained(tmp_path / "backbone", way, **options)
    with pytest.raises(CheckpointError, match=reason):
        to_peft(checkpoint, tmp_path / "peft")
    assert not (tmp_path / "peft").exists()


def test_a_token_that_was_trained_whole_is_refused(tmp_path: Path) -> None:
    """ExPLoRA trains weights that public weights lacked; peft stores modules, and a token is not a module."""
    checkpoint = pretrained(tmp_path / "backbone", ExploraConfig(rank=2))
    adapter = dict(checkpoint.adapter or {}) | {"cls_token": checkpoint.state["cls_token"]}
    made = Checkpoint(tmp_path / "made", checkpoint.model, checkpoint.preprocess, checkpoint.state, adapter).save()
    with pytest.raises(CheckpointError, match="cls_token is outside of any module"):
        to_peft(made, tmp_path / "peft")
