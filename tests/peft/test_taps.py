"""TAPS: inactive changes leave the shared weights as they are, the weight of sparsity decides how many are active."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from medvit.errors import CheckpointError, ConfigError
from medvit.peft.taps import Taps, TapsConfig
from tests.peft.small import backbone, moved

PIXELS = torch.randn(8, 1, 16, 16, generator=torch.Generator().manual_seed(1))
NUM_LAYERS = 8


def adapted(**options: Any) -> Taps:
    """The adapted backbone with changes away from zero, all of them active."""
    peft = moved(TapsConfig(**options).adapt(backbone()), by=0.02)
    switch(peft, off=lambda name: False)
    return peft


def switch(peft: Taps, *, off: Callable[[str], bool]) -> None:
    with torch.no_grad():
        for name, weight in peft.backbone.named_parameters():
            if name.endswith("layer_score"):
                weight.fill_(-0.1 if off(name) else 0.1)


def train(peft: Taps, target: torch.Tensor, steps: int = 60) -> None:
    trained = [weight for weight in peft.backbone.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-3, weight_decay=0.0, fused=True)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (peft.backbone(PIXELS).patches - target).square().mean()
        (loss + peft.penalty()).backward()
        optimizer.step()


def test_a_backbone_with_all_changes_off_is_the_frozen_one() -> None:
    peft = adapted()
    expected = backbone()(PIXELS).patches
    assert (peft.backbone(PIXELS).patches - expected).abs().max() > 0.01
    switch(peft, off=lambda name: True)
    assert torch.equal(peft.backbone(PIXELS).patches, expected)
    assert torch.equal(peft.merge()(PIXELS).patches, expected)


def test_the_weight_of_sparsity_switches_all_changes_off_or_none() -> None:
    """The task asks for the features that the changes give already, so that only sparsity moves the scores."""
    for sparsity, num_active in ((100.0, 0), (0.0, NUM_LAYERS)):
        peft = adapted(sparsity=sparsity)
        train(peft, peft.backbone(PIXELS).patches.detach())
        assert len(peft.active) == num_active


def test_the_layer_that_needs_adaptation_is_found() -> None:
    """The target is the backbone with one changed layer: its change remains, and most others are switched off."""
    changed = backbone()
    with torch.no_grad():
        weight = changed.get_submodule("blocks.1.mlp.fc2").get_parameter("weight")
        weight.add_(torch.outer(torch.randn(32), torch.randn(128)) * 0.3)
    peft = TapsConfig(sparsity=0.05).adapt(backbone())
    train(peft, changed(PIXELS).patches.detach(), steps=150)
    assert "blocks.1.mlp.fc2" in peft.active
    assert len(peft.active) < NUM_LAYERS


def test_the_adapter_and_the_merged_backbone_contain_only_active_changes() -> None:
    peft = adapted()
    switch(peft, off=lambda name: ".qkv." not in name)
    adapter, expected = peft.state_of(peft.trained()), peft.backbone(PIXELS).patches
    assert sum(name.endswith("layer_update") for name in adapter) == 2
    assert sum(name.endswith("layer_score") for name in adapter) == NUM_LAYERS
    plain, merged = backbone().state_dict(), peft.merge()
    changed = {name for name, weight in merged.state_dict().items() if not torch.equal(weight, plain[name])}
    assert changed == {"blocks.0.attn.qkv.weight", "blocks.1.attn.qkv.weight"}
    again = TapsConfig().restored(backbone(), adapter)
    assert again.state_of(again.trained()).keys() == adapter.keys()
    assert torch.equal(again.backbone(PIXELS).patches, expected)


def test_the_share_of_active_changes_is_the_penalty() -> None:
    peft = adapted(sparsity=0.5)
    switch(peft, off=lambda name: "fc" in name)
    assert peft.penalty().item() == pytest.approx(0.25)


def test_an_adapter_without_an_active_change_is_refused() -> None:
    peft = adapted()
    adapter = peft.state_of(peft.trained())
    lost = next(name for name in adapter if name.endswith("layer_update"))
    with pytest.raises(CheckpointError, match="lacks the score or the active change of blocks"):
        TapsConfig().restored(backbone(), {name: one for name, one in adapter.items() if name != lost})


def test_a_target_that_no_layer_has_is_refused() -> None:
    with pytest.raises(ConfigError, match="contains fc9, but no linear layer of the blocks has this name"):
        TapsConfig(targets=("qkv", "fc9")).adapt(backbone())
