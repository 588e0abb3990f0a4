"""Variants of LoRA: scale of rsLoRA, magnitude and direction of DoRA."""

import copy
import math

import pytest
import torch

from medvit.errors import CheckpointError
from medvit.peft.dora import DoraConfig
from medvit.peft.lora import LoraConfig
from medvit.peft.rslora import RsLoraConfig
from tests.peft.small import SMALL, backbone, moved

FC2 = "blocks.1.mlp.fc2"


@pytest.mark.parametrize("rank", [4, 16])
def test_the_update_of_rslora_is_larger_than_that_of_lora_by_the_root_of_the_rank(rank):
    updates = []
    for kind in (LoraConfig, RsLoraConfig):
        merged = moved(kind(rank=rank).adapt(backbone())).merge()
        updates.append(merged.get_parameter(f"{FC2}.weight") - backbone().get_parameter(f"{FC2}.weight"))
    torch.testing.assert_close(updates[1], math.sqrt(rank) * updates[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("targets", "adapted"),
    [(("fc1",), {"fc1_g", "fc1_x"}), (("fc1_g", "fc2"), {"fc1_g", "fc2"})],
)
def test_the_first_layer_of_a_swiglu_is_both_gate_and_value(targets, adapted):
    dinov3 = SMALL.model_copy(update={"positions": "rope", "mlp": "swiglu"}).build()
    layers = [name for name, _ in LoraConfig(targets=targets).adapt(dinov3).layers()]
    assert {name.rpartition(".")[2] for name in layers} == adapted
    assert len(layers) == 2 * len(adapted)


def test_the_magnitudes_of_dora_are_the_norms_of_the_merged_weights():
    peft = moved(DoraConfig(rank=2).adapt(backbone()))
    magnitude = peft.backbone.get_parameter(f"{FC2}.lora_magnitude_vector.default.weight").detach().clone()
    merged = peft.merge().get_parameter(f"{FC2}.weight")
    torch.testing.assert_close(merged.norm(dim=1), magnitude.abs(), atol=1e-5, rtol=1e-5)


def test_an_adapter_of_dora_without_its_norms_is_not_continued():
    peft = moved(DoraConfig(rank=2).adapt(backbone()))
    weights = {name: weight for name, weight in peft.state_of(peft.trained()).items() if "norm" not in name}
    with pytest.raises(CheckpointError, match=r"the adapter has no blocks\.0\.attn\.qkv\.direction_norm; expected"):
        DoraConfig(rank=2).go_on(peft.merge(), weights)


def with_zero_output():
    model = backbone()
    with torch.no_grad():
        model.get_parameter(f"{FC2}.weight")[3] = 0.0
    return model


def test_dora_of_an_output_with_weights_of_zero_is_the_identity_and_can_be_trained_and_continued():
    pixels = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    expected = with_zero_output()(pixels).patches
    peft = DoraConfig(rank=2).adapt(with_zero_output())
    assert torch.equal(peft.backbone(pixels).patches, expected)
    assert torch.equal(copy.deepcopy(peft.backbone)(pixels).patches, expected), "as for a student of DINO"
    optimizer = torch.optim.AdamW([weight for weight in peft.backbone.parameters() if weight.requires_grad], lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        peft.backbone(pixels).patches.std().backward()
        optimizer.step()
    assert float(peft.backbone.get_parameter(f"{FC2}.lora_magnitude_vector.default.weight")[3].detach()) > 1e-3
    trained = peft.backbone(pixels).patches
    weights = peft.state_of(peft.trained())
    merged = peft.merge()
    torch.testing.assert_close(merged(pixels).patches, trained, atol=1e-5, rtol=0)
    assert merged.get_parameter(f"{FC2}.weight")[3].abs().min() > 0
    continued = DoraConfig(rank=2).go_on(merged, weights)
    torch.testing.assert_close(continued.backbone(pixels).patches, trained, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        continued.remove().get_parameter(f"{FC2}.weight"),
        with_zero_output().get_parameter(f"{FC2}.weight"),
        atol=1e-6,
        rtol=0,
    )


def test_dora_of_an_output_with_weights_of_zero_has_no_equivalent_in_huggingface_peft():
    peft = DoraConfig(rank=2).adapt(with_zero_output())
    weights = peft.state_of(peft.trained())
    with pytest.raises(CheckpointError, match=r"blocks\.1\.mlp\.fc2 has an output whose weights are all zero"):
        DoraConfig(rank=2).in_hub(peft.merge(), weights)
