"""Heads give logits of the right shape for any backbone, and read the layers that they declare."""

from dataclasses import replace

import pytest
import torch

from medvit.backbones.vit import VitConfig
from medvit.heads._decoder import evenly_spaced
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
