"""Continued training of an adapter: the same function, the same trained weights, one adapter for both runs."""

import copy

import pytest
import torch

from medvit.backbones import Carried
from medvit.backbones.vit import VitConfig
from medvit.errors import CheckpointError, ConfigError
from medvit.peft.block_expansion import BlockExpansionConfig
from medvit.peft.continue_adapter import ContinueConfig
from medvit.peft.explora import ExploraConfig
from medvit.peft.lora import LoraConfig

LAYOUT = {"ndim": 2, "channels": 1, "patch_size": 8, "width": 32, "depth": 4, "heads": 2}
PIXELS = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(1))
WAYS = [ExploraConfig(rank=2, blocks=(1,)), LoraConfig(rank=3, alpha=5.0), BlockExpansionConfig(num_blocks=2)]


def start():
    torch.manual_seed(0)
    return VitConfig(**LAYOUT).build()


def train(peft, steps: int = 3) -> None:
    optimizer = torch.optim.AdamW([w for w in peft.backbone.parameters() if w.requires_grad], lr=1e-2, fused=True)
    for step in range(steps):
        optimizer.zero_grad()
        peft.backbone(PIXELS + step).patches.square().mean().backward()
        optimizer.step()


def pretrained(way):
    """A merged backbone that carries its adapter."""
    peft = way.adapt(start())
    train(peft)
    weights = peft.state_of(peft.trained())
    merged = peft.merge()
    merged.carried = Carried(way.tree(), weights)
    return merged


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_it_starts_with_the_function_and_the_trainable_weights_that_pretraining_ended_with(way):
    merged = pretrained(way)
    before, weights = merged(PIXELS).patches.detach(), merged.carried.weights
    assert ContinueConfig().recorded(merged) == way
    peft = ContinueConfig().adapt(merged)
    torch.testing.assert_close(peft.backbone(PIXELS).patches.detach(), before, atol=1e-6, rtol=1e-5)
    assert peft.trained() == weights.keys()
    state = peft.backbone.state_dict()
    assert all(torch.equal(state[name], weight) for name, weight in weights.items())
    assert peft.backbone.carried is None


def test_the_weights_beside_the_factors_are_those_of_before_pretraining():
    peft, first = ContinueConfig().adapt(pretrained(LoraConfig(rank=3))), start()
    state = peft.backbone.state_dict()
    for name, weight in first.state_dict().items():
        stem, _, kind = name.rpartition(".")
        found = state.get(f"{stem}.base_layer.{kind}", state.get(name))
        torch.testing.assert_close(found, weight, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("way", WAYS[:2], ids=lambda way: way.name)
def test_the_new_adapter_on_the_first_weights_is_both_trainings(way):
    peft = ContinueConfig().adapt(pretrained(way))
    train(peft)
    adapter = peft.state_of(peft.trained())
    expected = peft.merge()(PIXELS).patches
    again = way.adapt(start())
    again.backbone.load_state_dict(adapter, strict=False)
    torch.testing.assert_close(again.merge()(PIXELS).patches, expected, atol=1e-5, rtol=1e-5)


def test_a_backbone_without_an_adapter_is_refused_with_the_ways_out():
    with pytest.raises(ConfigError, match=r"peft=continue requires a pretrained checkpoint with a separate adapter"):
        ContinueConfig().adapt(start())


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_an_adapter_of_another_backbone_is_refused(way):
    merged = pretrained(way)
    wide = {name: torch.cat([weight, weight]) for name, weight in merged.carried.weights.items()}
    merged.carried = Carried(way.tree(), wide)
    with pytest.raises(CheckpointError, match="weights of the adapter do not fit the backbone, first "):
        ContinueConfig().adapt(copy.deepcopy(merged))
