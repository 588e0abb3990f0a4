"""Attention maps of heads are those of the transformer itself: they sum to 1 and are on the grid of patches."""

import pytest
import torch

from medvit.backbones.attention_maps import head_maps
from medvit.backbones.vit import VitConfig
from medvit.errors import DataError


def vit(**options):
    torch.manual_seed(0)
    shared = {"ndim": 2, "channels": 3, "patch_size": 8, "width": 24, "depth": 2, "heads": 3}
    return VitConfig(**shared | options).build().eval()


def test_each_head_attends_with_a_sum_of_one_over_prefix_and_patches():
    found = head_maps(vit(registers=2), torch.randn(2, 3, 16, 32))
    assert found.whole.shape == (2, 3, 1 + 2 + 8)
    assert found.maps.shape == (2, 3, 2, 4)
    assert (found.whole >= 0).all()
    torch.testing.assert_close(found.whole.sum(-1), torch.ones(2, 3))
    torch.testing.assert_close(found.maps.flatten(2), found.whole[:, :, 3:])


def test_the_maps_are_what_the_block_multiplies_its_values_with():
    model, pixels = vit(), torch.randn(1, 3, 16, 16)
    inputs, outputs = [], []
    block = model.blocks[-1].attn
    block.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    block.register_forward_hook(lambda _, given, made: outputs.append(made))
    found = head_maps(model, pixels)
    values = block.qkv(inputs[0]).reshape(1, 5, 3, 3, 8).permute(2, 0, 3, 1, 4)[2]  # (B, K, T, D / K)
    expected = block.proj((found.whole[:, :, None] @ values)[:, :, 0].flatten(1))
    torch.testing.assert_close(outputs[0][:, 0], expected, atol=1e-5, rtol=1e-4)


def test_likeness_is_one_of_heads_that_look_at_the_same():
    found = head_maps(vit(), torch.randn(2, 3, 32, 32))
    assert -1 <= found.likeness < 1
    same = type(found)(found.whole, found.maps[:, :1].expand(-1, 3, -1, -1))
    assert same.likeness == pytest.approx(1.0, abs=1e-5)


def test_a_transformer_without_a_class_token_is_refused():
    with pytest.raises(DataError, match="has no class token; attention maps require one"):
        head_maps(vit(class_token=False), torch.randn(1, 3, 16, 16))


def test_rotary_positions_are_refused():
    with pytest.raises(DataError, match=r"require backbone\.positions other than rope"):
        head_maps(vit(positions="rope"), torch.randn(1, 3, 16, 16))


def test_the_default_is_the_map_of_the_first_token_and_a_register_can_be_the_first():
    pixels = torch.randn(1, 3, 16, 16)
    assert torch.equal(head_maps(vit(), pixels).whole, head_maps(vit(), pixels, token=0).whole)
    found = head_maps(vit(class_token=False, registers=1), pixels, token=0)
    torch.testing.assert_close(found.whole.sum(dim=-1), torch.ones(1, 3), atol=1e-6, rtol=0)
