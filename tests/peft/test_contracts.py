"""Contracts of every registered way of adapting, in 2D and 3D and with any number of prefix tokens.

A way starts as the identity or declares that it does not, changes exactly the weights it lists, merges, and is restored
by its stored adapter alone. Tolerances are relative to the largest feature.
"""

from __future__ import annotations

import copy
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from torch import Tensor

from medvit.backbones import Backbone, Carried
from medvit.backbones.vit import VitConfig
from medvit.peft import Peft, PeftConfig, Removable
from medvit.peft.continue_adapter import ContinueConfig
from medvit.peft.full import FullConfig
from medvit.peft.lora import LoraConfig
from medvit.peft.spt import SptConfig
from medvit.registry import find, names
from medvit.training.optim import is_adapter
from tests.peft.small import random_sensitivity


def ways() -> list[PeftConfig]:
    """All registered ways, and each once more for every choice among its options that is not the default."""
    found: list[PeftConfig] = []
    for name in names("medvit.peft"):
        kind = find("medvit.peft", name)
        assert issubclass(kind, PeftConfig)
        found.append(kind())
        for key, field in kind.model_fields.items():
            is_choice = key != "name" and get_origin(field.annotation) is Literal
            others = [value for value in get_args(field.annotation) if value != field.default] if is_choice else []
            found += [kind.parse({key: value}) for value in others]
    return found


SOME_MATRICES = SptConfig(budget=0.08, rank=2)
"""A budget that some matrices use for low-rank updates, and the others for single weights."""


def label(way: PeftConfig) -> str:
    return "-".join(str(getattr(way, key)) for key in ("name", *sorted(way.model_fields_set)))


LAYOUTS: dict[str, dict[str, Any]] = {
    "2D, class token": {"ndim": 2},
    "2D, no prefix, learned": {"ndim": 2, "class_token": False, "positions": "learned", "image_size": 16},
    "2D, class token and registers, rotary": {"ndim": 2, "registers": 3, "positions": "rope"},
    "3D, registers, SwiGLU": {"ndim": 3, "class_token": False, "registers": 2, "layer_scale": 0.3, "mlp": "swiglu"},
    "3D, class token, rotary, SwiGLU": {"ndim": 3, "positions": "rope", "qkv_bias": False, "mlp": "swiglu"},
}
ROUNDING = 1e-5

every_way = pytest.mark.parametrize("way", [*ways(), SOME_MATRICES], ids=label)
every_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


def config_of(layout: dict[str, Any]) -> VitConfig:
    return VitConfig(**{"channels": 1, "patch_size": 8, "width": 48, "depth": 3, "heads": 2} | layout)


def start(way: PeftConfig, layout: dict[str, Any]) -> Backbone:
    """A backbone without an adapter; for continuing one, a backbone that carries it."""
    torch.manual_seed(0)
    backbone = config_of(layout).build().eval()
    with torch.no_grad():  # initial biases and scales are 0 or 1, which hides errors
        for weight in backbone.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    if isinstance(way, SptConfig):
        backbone.sensitivity = random_sensitivity(backbone)
    return pretrained(LoraConfig(), backbone) if isinstance(way, ContinueConfig) else backbone


def pretrained(way: PeftConfig, backbone: Backbone) -> Backbone:
    """A backbone with a trained adapter merged, which it carries."""
    peft = way.adapt(backbone)
    train(peft)
    weights = peft.state_of(peft.trained())
    merged = peft.merge().eval()
    merged.carried = Carried(way.tree(), weights)
    return merged


def pixels(backbone: Backbone) -> Tensor:
    return torch.randn(2, 1, *(16,) * backbone.ndim, generator=torch.Generator().manual_seed(1))


def features(backbone: Backbone) -> Tensor:
    with torch.no_grad():
        tokens = backbone.eval()(pixels(backbone))
    return torch.cat([tokens.prefix, tokens.patches], dim=1)


def train(peft: Peft, num_steps: int = 3) -> None:
    """A few steps of AdamW with weight decay on a loss that reaches every weight."""
    trained = [weight for weight in peft.backbone.parameters() if weight.requires_grad]
    if not trained:
        return
    optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.1, fused=True)
    target = torch.randn(48, generator=torch.Generator().manual_seed(2))
    for _ in range(num_steps):
        tokens = peft.backbone.train()(pixels(peft.backbone))
        every = torch.cat([tokens.prefix, tokens.patches], dim=1)
        optimizer.zero_grad()
        ((every - target).square().mean() + every.diff(dim=1).abs().mean()).backward()
        optimizer.step()
    peft.backbone.eval()


def same(found: Tensor, expected: Tensor, *, rounding: float = ROUNDING) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=rounding * float(expected.abs().max()))


@every_layout
@every_way
def test_a_way_starts_as_the_identity_or_declares_that_it_does_not(way: PeftConfig, layout: dict[str, Any]) -> None:
    backbone = start(way, layout)
    before = features(backbone)[:, -backbone(pixels(backbone)).patches.shape[1] :]
    found = features(way.adapt(backbone).backbone)[:, -before.shape[1] :]
    if way.IS_IDENTITY:
        # Continued factors are separated from the weights and added again.
        same(found, before, rounding=ROUNDING if isinstance(way, ContinueConfig) else 0.0)
    else:
        assert (found - before).abs().max() > ROUNDING * before.abs().max()


@every_layout
@every_way
def test_exactly_the_listed_weights_change_in_training(way: PeftConfig, layout: dict[str, Any]) -> None:
    peft = way.adapt(start(way, layout))
    before = copy.deepcopy(peft.backbone.state_dict())
    train(peft)
    after = peft.backbone.state_dict()
    assert {key for key, weight in after.items() if not torch.equal(weight, before[key])} == peft.trained()


@every_layout
@every_way
def test_the_merged_backbone_is_plain_and_gives_the_features_of_the_adapted_one(
    way: PeftConfig, layout: dict[str, Any]
) -> None:
    peft = way.adapt(start(way, layout))
    train(peft)
    expected = features(peft.backbone)
    description = peft.described(config_of(layout))
    merged = peft.merge()
    same(features(merged), expected)
    built = description.build()
    built.load_state_dict(merged.state_dict())
    same(features(built), expected)
    assert built.num_prefix_tokens == merged.num_prefix_tokens
    assert built.depth == merged.depth


@every_layout
@every_way
def test_a_removable_way_leaves_the_weights_of_before(way: PeftConfig, layout: dict[str, Any]) -> None:
    peft = way.adapt(start(way, layout))
    if not isinstance(peft, Removable):
        pytest.skip("its changes are in the weights themselves")
    trained = peft.trained()
    train(peft)
    plain = peft.remove().state_dict()
    weights = start(FullConfig(), layout).state_dict()
    assert plain.keys() == weights.keys()
    for key in weights.keys() - trained:
        same(plain[key], weights[key], rounding=ROUNDING if isinstance(way, ContinueConfig) else 0.0)


@every_layout
@every_way
def test_the_stored_adapter_alone_restores_the_model(way: PeftConfig, layout: dict[str, Any]) -> None:
    backbone = start(way, layout)
    again = copy.deepcopy(backbone)
    again.carried = backbone.carried
    peft = way.adapt(backbone)
    train(peft)
    expected, adapter = features(peft.backbone), peft.state_of(peft.trained())
    torch.manual_seed(99)
    again.sensitivity = None
    restored = way.restored(again, adapter)
    same(features(restored.backbone), expected)
    same(features(restored.merge()), expected)


@every_layout
@every_way
def test_training_continues_from_the_merged_weights_and_the_adapter(way: PeftConfig, layout: dict[str, Any]) -> None:
    if isinstance(way, ContinueConfig):
        pytest.skip("it is the continuation")
    merged = pretrained(way, start(way, layout))
    expected, weights = features(merged), merged.carried.weights if merged.carried else {}
    peft = ContinueConfig().adapt(merged)
    same(features(peft.backbone), expected)
    state = peft.backbone.state_dict()
    assert {key for key in peft.trained() if not torch.equal(state[key], weights[key])} == set()
    if isinstance(peft, Removable):
        trained, plain = peft.trained(), peft.remove().state_dict()
        for key, weight in start(way, layout).state_dict().items():
            if key not in trained:
                same(plain[key], weight)


@every_way
def test_a_way_that_trains_matrices_of_blocks_declares_it(way: PeftConfig) -> None:
    """By this, continued pretraining chooses the rate: low for whole blocks, high for adapters and biases."""
    peft = way.adapt(start(way, {"ndim": 2}))
    sizes = {name: weight.ndim for name, weight in peft.backbone.named_parameters()}
    matrices = [name for name in peft.trained() if sizes[name] > 1 and not is_adapter(f"backbone.{name}")]
    assert bool(matrices) == way.TRAINS_WHOLE_WEIGHTS
