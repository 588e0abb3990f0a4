"""Heads give logits of the right shape for any backbone, and read the layers that they declare."""

from dataclasses import replace

import pytest
import torch

from medvit.backbones.vit import VitConfig
from medvit.errors import ConfigError
from medvit.heads._decoder import evenly_spaced
from medvit.heads.attention import AttentionConfig
from medvit.heads.dense import DenseConfig
from medvit.heads.linear import LinearConfig


@pytest.mark.parametrize(("depth", "count", "layers"), [(12, 4, (2, 5, 8, 11)), (6, 4, (1, 2, 4, 5)), (2, 4, (0, 1))])
def test_depths_are_evenly_spaced_and_end_with_the_last(depth, count, layers):
    assert evenly_spaced(depth, count) == layers


@pytest.mark.parametrize(("ndim", "patch", "shape"), [(2, 16, (48, 32)), (2, 14, (42, 28)), (3, 8, (16, 24, 8))])
def test_dense_gives_logits_for_every_voxel(ndim, patch, shape):
    backbone = VitConfig(ndim=ndim, channels=1, patch_size=patch, width=64, depth=2, heads=2).build()
    head = DenseConfig(channels=8, num_depths=2).build(backbone, 3)
    pixels = torch.randn(2, 1, *shape)
    assert head(backbone.intermediate(pixels, head.layers), pixels).shape == (2, 3, *shape)


def test_dense_listens_to_every_depth_it_reads():
    backbone = VitConfig(ndim=2, channels=1, patch_size=8, width=64, depth=4, heads=2).build()
    head = DenseConfig(channels=8, num_depths=4).build(backbone, 2)
    pixels = torch.randn(1, 1, 16, 16)
    tokens = backbone.intermediate(pixels, head.layers)
    for one in tokens:
        one.patches.retain_grad()
    head(tokens, pixels).square().sum().backward()
    assert all(one.patches.grad.abs().max() > 0 for one in tokens)


@pytest.mark.parametrize("registers", [0, 4])
def test_dense_reads_patches_and_no_prefix_token_however_many_there_are(registers):
    options = {"ndim": 2, "channels": 1, "patch_size": 8, "width": 64, "depth": 2, "heads": 2, "registers": registers}
    backbone = VitConfig(**options).build()
    head = DenseConfig(channels=8, num_depths=2).build(backbone, 5)
    pixels = torch.randn(1, 1, 64, 64)
    tokens = backbone.intermediate(pixels, head.layers)
    assert tokens[0].prefix.shape[1] == 1 + registers
    assert tokens[0].grid == (8, 8)
    others = [replace(each, prefix=torch.randn_like(each.prefix)) for each in tokens]
    assert torch.equal(head(others, pixels), head(tokens, pixels))
    assert head(tokens, pixels).shape == (1, 5, 64, 64)


def test_linear_reads_the_class_token_and_the_mean_patch():
    backbone = VitConfig(ndim=2, channels=1, patch_size=8, width=64, depth=1, heads=2).build()
    head = LinearConfig().build(backbone, 5)
    pixels = torch.randn(3, 1, 16, 16)
    tokens = backbone(pixels)
    expected = head.linear(torch.cat([tokens.prefix[:, 0], tokens.patches.mean(1)], dim=1))
    torch.testing.assert_close(head([tokens], pixels), expected)


@pytest.mark.parametrize(("class_token", "registers"), [(True, 2), (False, 0)])
def test_linear_reads_the_class_tokens_of_the_last_blocks(class_token, registers):
    options = {"ndim": 2, "channels": 1, "patch_size": 8, "width": 32, "depth": 3, "heads": 2}
    backbone = VitConfig(**options, class_token=class_token, registers=registers).build()
    head = LinearConfig(num_depths=2).build(backbone, 5)
    pixels = torch.randn(3, 1, 16, 16)
    tokens = backbone.intermediate(pixels, [1, 2])
    first = [each.prefix[:, 0] if class_token else each.patches.mean(1) for each in tokens]
    parts = [*first, tokens[-1].patches.mean(1)] if class_token else first
    assert head.layers == (1, 2)
    torch.testing.assert_close(head(tokens, pixels), head.linear(torch.cat(parts, dim=1)))


@pytest.mark.parametrize("registers", [0, 4])
def test_attention_pooling_trains_every_depth_and_ignores_the_order_of_patches(registers):
    options = {"ndim": 2, "channels": 1, "patch_size": 8, "width": 32, "depth": 4, "heads": 2}
    backbone = VitConfig(**options, registers=registers).build()
    head = AttentionConfig(num_depths=2, num_heads=2).build(backbone, 3)
    pixels = torch.randn(2, 1, 16, 24)
    tokens = backbone.intermediate(pixels, head.layers)
    for one in tokens:
        one.patches.retain_grad()
    logits = head(tokens, pixels)
    assert logits.shape == (2, 3)
    turned = [replace(each, patches=each.patches.flip(1)) for each in tokens]
    torch.testing.assert_close(head(turned, pixels), logits)
    logits.square().sum().backward()
    assert all(one.patches.grad.abs().max() > 0 for one in tokens)
    assert all(weight.grad is not None for weight in head.parameters())


def test_attention_heads_that_do_not_divide_the_width_are_refused():
    backbone = VitConfig(ndim=2, channels=1, patch_size=8, width=32, depth=1, heads=2).build()
    with pytest.raises(ConfigError, match=r"width 32 is not a multiple of head\.num_heads=5"):
        AttentionConfig(num_heads=5).build(backbone, 2)
