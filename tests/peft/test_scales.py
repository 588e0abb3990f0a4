"""Methods that train scales alone: (IA)^3 and VeRA."""

import pytest
import torch

from medvit.errors import CheckpointError, ConfigError
from medvit.peft.ia3 import Ia3Config
from medvit.peft.vera import VeraConfig
from tests.peft.small import backbone, moved

PIXELS = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(1))


def test_ia3_trains_one_factor_for_each_query_key_value_and_hidden_feature():
    peft = Ia3Config().adapt(backbone())
    assert sum(weight.numel() for weight in peft.backbone.parameters() if weight.requires_grad) == 2 * (3 * 32 + 4 * 32)


def test_scaling_queries_is_the_same_as_scaling_keys():
    peft = Ia3Config(targets=("qkv",), scaled_inputs=()).adapt(backbone())
    found = []
    for scaled in (slice(0, 32), slice(32, 64)):
        with torch.no_grad():
            for block in peft.backbone.blocks:
                scales = block.attn.qkv.ia3_l["default"].fill_(1.0)
                scales[scaled] = torch.linspace(0.5, 2.0, 32)[:, None]
        found.append(peft.backbone(PIXELS).patches)
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-5)
    assert (found[0] - backbone()(PIXELS).patches).abs().max() > 1e-3


def test_inputs_are_scaled_of_targets_alone():
    with pytest.raises(ConfigError, match=r"peft\.scaled_inputs contains fc2; expected layers among peft\.targets"):
        Ia3Config(targets=("qkv",)).adapt(backbone())


def test_a_scale_of_zero_is_not_divided_by():
    peft = Ia3Config().adapt(backbone())
    with torch.no_grad():
        peft.backbone.blocks[1].mlp.fc2.ia3_l["default"][0, 3] = 0.0
    weights = peft.state_of(peft.trained())
    with pytest.raises(CheckpointError, match=r"a scale of blocks\.1\.mlp\.fc2 is 0, expected at least 0\.001"):
        Ia3Config().go_on(peft.merge(), weights)


def test_vera_trains_scales_alone_and_stores_its_matrices_once():
    peft = VeraConfig(rank=8).adapt(backbone())
    outputs = 2 * (96 + 32 + 128 + 32)
    assert sum(weight.numel() for weight in peft.backbone.parameters() if weight.requires_grad) == outputs + 2 * 4 * 8
    extra = {name: tuple(weight.shape) for name, weight in peft.state_of(()).items()}
    assert extra == {"vera_A": (8, 128), "vera_B": (128, 8)}


def test_the_stored_matrices_of_vera_count_and_not_those_of_the_seed():
    peft = moved(VeraConfig(rank=8, matrices_seed=5).adapt(backbone()))
    expected, adapter = peft.backbone(PIXELS).patches, peft.state_of(peft.trained())
    other = VeraConfig(rank=8, matrices_seed=6).adapt(backbone())
    other.load(adapter)
    torch.testing.assert_close(other.backbone(PIXELS).patches, expected, atol=0, rtol=0)


def test_an_adapter_of_vera_without_its_matrices_is_refused():
    peft = VeraConfig(rank=8).adapt(backbone())
    weights = peft.state_of(peft.trained())
    del weights["vera_B"]
    with pytest.raises(CheckpointError, match=r"the shape of vera_B in the adapter is none, expected \(128, 8\)"):
        peft.load(weights)
