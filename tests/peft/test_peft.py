"""Every adaptation merges with any weights; LoRA trains the named layers. Other contracts: `test_contracts.py`."""

import pkgutil

import pytest
import torch

import medvit.peft
from medvit.backbones import Carried
from medvit.backbones.vit import VitConfig
from medvit.errors import ConfigError
from medvit.peft.frozen import FrozenConfig
from medvit.peft.full import FullConfig
from medvit.peft.lora import LoraConfig
from medvit.registry import find, names
from tests.peft.small import random_sensitivity

WAYS = names("medvit.peft")


CONFIG = VitConfig(ndim=2, channels=1, patch_size=8, width=64, depth=6, heads=2)


def backbone(way: str = ""):
    """A plain backbone; for continuing an adapter, one into which ExPLoRA is merged."""
    torch.manual_seed(0)
    model = CONFIG.build().eval()
    return merged(find("medvit.peft", "explora")(rank=2), model) if way == "continue" else model


def merged(way, model):
    """The backbone after a training in this way, which it carries."""
    peft = way.adapt(model)
    with torch.no_grad():
        for weight in peft.backbone.parameters():
            if weight.requires_grad:
                weight.add_(0.05 * torch.randn_like(weight))
    weights = peft.state_of(peft.trained())
    plain = peft.merge()
    plain.carried = Carried(way.tree(), weights)
    return plain


PIXELS = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(1))


def test_every_file_of_the_folder_is_one_way():
    files = [one.name for one in pkgutil.iter_modules(medvit.peft.__path__) if not one.name.startswith("_")]
    assert sorted(find("medvit.peft", way).__module__ for way in WAYS) == [f"medvit.peft.{name}" for name in files]


@pytest.mark.parametrize("way", WAYS)
def test_merged_equals_adapted(way):
    plain = backbone(way)
    plain.sensitivity = random_sensitivity(plain)  # for SPT
    peft = find("medvit.peft", way)().adapt(plain)
    for weight in peft.backbone.parameters():
        if weight.requires_grad:
            torch.nn.init.normal_(weight, std=0.05)
    adapted = peft.backbone.eval()(PIXELS).patches
    merged = peft.merge().eval()
    torch.testing.assert_close(merged(PIXELS).patches, adapted, atol=1e-5, rtol=1e-5)
    built = peft.described(CONFIG).build()
    built.load_state_dict(merged.state_dict())
    torch.testing.assert_close(built.eval()(PIXELS).patches, adapted, atol=1e-5, rtol=1e-5)


def test_lora_trains_only_its_factors_on_the_named_layers():
    adapted = LoraConfig(targets=("qkv", "fc2")).adapt(backbone()).backbone
    trained = {name for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert {name.rsplit(".", 3)[1] for name in trained} == {"lora_A", "lora_B"}
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in trained} == {"qkv", "fc2"}


def test_lora_on_the_fused_qkv_reaches_each_of_query_key_and_value():
    adapted = LoraConfig(rank=4, targets=("qkv",)).adapt(backbone()).backbone
    factors = [m for n, m in adapted.named_modules() if n.endswith("qkv.lora_B.default")]
    assert [tuple(m.weight.shape) for m in factors] == [(3 * 64, 4)] * 6


@pytest.mark.parametrize("qkv_bias", [True, False])
def test_lora_on_the_fused_qkv_of_a_rotary_transformer_changes_its_output(qkv_bias):
    torch.manual_seed(0)
    plain = CONFIG.model_copy(update={"positions": "rope", "qkv_bias": qkv_bias}).build().eval()
    before = plain(PIXELS).patches
    peft = LoraConfig(targets=("qkv",)).adapt(plain)
    for weight in peft.backbone.parameters():
        if weight.requires_grad:
            torch.nn.init.normal_(weight, std=0.5)
    adapted = peft.backbone(PIXELS).patches
    assert (adapted - before).abs().max() > 0.1
    torch.testing.assert_close(peft.merge()(PIXELS).patches, adapted, atol=1e-4, rtol=1e-4)


def test_frozen_trains_nothing_and_full_trains_all():
    frozen, full = FrozenConfig().adapt(backbone()), FullConfig().adapt(backbone())
    assert frozen.trained() == frozenset()
    assert full.trained() == backbone().state_dict().keys()


def test_a_target_that_names_no_layer_is_refused():
    with pytest.raises(
        ConfigError, match=r"peft\.targets contains key, but no linear layer of the blocks has this name"
    ):
        LoraConfig(targets=("qkv", "key")).adapt(backbone())
