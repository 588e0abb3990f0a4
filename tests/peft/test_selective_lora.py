"""Selective LoRA: inactive updates change nothing, the weight of sparsity decides how many remain."""

import copy
import json

import pytest
import torch

from medvit.artifacts import Checkpoint
from medvit.errors import CheckpointError
from medvit.models.interchange import to_peft
from medvit.peft.selective_lora import SelectiveLoraConfig
from tests.peft.small import SMALL, backbone

PIXELS = torch.randn(8, 1, 16, 16, generator=torch.Generator().manual_seed(1))
NUM_LAYERS = 8


def adapted(**options):
    """The adapted backbone with factors away from where they start."""
    peft = SelectiveLoraConfig(**{"rank": 2} | options).adapt(backbone())
    torch.manual_seed(1)
    with torch.no_grad():
        for _, layer in peft.layers():
            layer.lora_B["default"].weight.normal_(std=0.1)
    return peft


def switch(peft, *, off):
    with torch.no_grad():
        for name, layer in peft.layers():
            layer.selection_score.fill_(-0.1 if off(name) else 0.1)


def test_a_backbone_with_all_updates_off_is_the_frozen_one():
    peft = adapted()
    assert (peft.backbone(PIXELS).patches - backbone()(PIXELS).patches).abs().max() > 0.01
    switch(peft, off=lambda name: True)
    assert torch.equal(peft.backbone(PIXELS).patches, backbone()(PIXELS).patches)


def train(peft, target, steps=60):
    trained = [weight for weight in peft.backbone.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-3, fused=True)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (peft.backbone(PIXELS).patches - target).square().mean()
        (loss + peft.penalty()).backward()
        optimizer.step()
    return float(loss.detach())


def test_the_weight_of_sparsity_switches_all_updates_off_or_none():
    """The task asks for the features that the updates give already, so that only sparsity moves the scores."""
    for sparsity, num_active in ((100.0, 0), (0.0, NUM_LAYERS)):
        peft = adapted(sparsity=sparsity)
        train(peft, peft.backbone(PIXELS).patches.detach())
        assert len(peft.active) == num_active


def test_the_layer_that_needs_adaptation_is_found():
    """The target is the backbone with one changed layer: its update remains, and most others are switched off."""
    changed = backbone()
    with torch.no_grad():
        weight = changed.blocks[1].mlp.fc2.weight
        weight.add_(torch.outer(torch.randn(32), torch.randn(128)) * 0.3)
    peft = SelectiveLoraConfig(rank=2, sparsity=0.02, alpha=8.0).adapt(backbone())
    train(peft, changed(PIXELS).patches.detach(), steps=200)
    assert "blocks.1.mlp.fc2" in peft.active
    assert len(peft.active) < NUM_LAYERS


def test_the_share_of_active_updates_is_the_penalty():
    peft = adapted(sparsity=0.5)
    switch(peft, off=lambda name: "fc" in name)
    assert peft.penalty().item() == pytest.approx(0.25)


def test_merged_and_exported_models_leave_inactive_layers_alone(tmp_path):
    peft, way = adapted(), SelectiveLoraConfig(rank=2)
    switch(peft, off=lambda name: not name.endswith("qkv"))
    expected, adapter = peft.backbone(PIXELS).patches, peft.state_of(peft.trained())
    merged, plain = peft.merge(), backbone().state_dict()
    torch.testing.assert_close(merged(PIXELS).patches, expected, atol=1e-5, rtol=1e-5)
    changed = {name for name, weight in merged.state_dict().items() if not torch.equal(weight, plain[name])}
    assert changed == {"blocks.0.attn.qkv.weight", "blocks.1.attn.qkv.weight"}
    model = {"kind": "backbone", "backbone": SMALL.tree(), "peft": way.tree()}
    made = Checkpoint(
        tmp_path / "made", model, {"kind": "image", "size": [16, 16]}, merged.state_dict(), adapter
    ).save()
    settings = json.loads((to_peft(made, tmp_path / "peft") / "adapter_config.json").read_text())
    assert settings["target_modules"] == ["blocks.0.attn.qkv", "blocks.1.attn.qkv"]


def test_an_adapter_without_an_active_layer_is_not_exported():
    peft, way = adapted(), SelectiveLoraConfig(rank=2)
    switch(peft, off=lambda name: True)
    weights = peft.state_of(peft.trained())
    merged = peft.merge()
    for name, weight in backbone().state_dict().items():
        assert torch.equal(merged.state_dict()[name], weight)
    with pytest.raises(CheckpointError, match=r"selective LoRA adapts no layer: .* to_timm writes it"):
        way.in_hub(merged, weights)


def test_a_copy_has_gates_of_its_own():
    peft = adapted()
    twin = copy.deepcopy(peft.backbone)
    switch(peft, off=lambda name: True)
    assert torch.equal(peft.backbone(PIXELS).patches, backbone()(PIXELS).patches)
    assert not torch.equal(twin(PIXELS).patches, backbone()(PIXELS).patches)
