"""hi_end_mae equals the authors' code (Tang et al., MedIA 2025), rewritten here from its description.

The decoder takes prefix, visible and hidden tokens, in the order of the shuffled patches; two blocks of self-attention,
then one block of self-attention, cross-attention and MLP for each shallower depth, the deepest of them first.
"""

import pytest
import torch
from torch.nn import functional as F

from medvit.backbones.position_embeddings import sincos_positions
from medvit.errors import CheckpointError, ConfigError
from medvit.objectives._encoder_driven import quarters
from medvit.objectives.hi_end_mae import HiEndMae
from medvit.objectives.hi_end_mae_light import HiEndMaeLight
from medvit.objectives.mae import random_masking
from medvit.transforms.patches import patchify
from medvit.types import Views

TINY_DECODER = {"decoder_width": 24, "decoder_heads": 2}


def normed(layer, tokens):
    return F.layer_norm(tokens, tokens.shape[-1:], layer.weight, layer.bias, eps=1e-6)


def attention(queries, keys, values, heads):
    """Softmax attention (B, N, D), head by head."""
    found = []
    for q, k, v in zip(*(part.chunk(heads, dim=-1) for part in (queries, keys, values)), strict=True):
        found.append((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v)
    return torch.cat(found, dim=-1)


def self_attention(layer, tokens, heads):
    return layer.proj(attention(*layer.qkv(tokens).chunk(3, dim=-1), heads))


def mlp(layer, tokens):
    return layer.fc2(F.gelu(layer.fc1(tokens)))


def plain_block(block, tokens, heads):
    tokens = tokens + self_attention(block.attn, normed(block.norm1, tokens), heads)
    return tokens + mlp(block.mlp, normed(block.norm2, tokens))


def reading_block(block, asking, asked, heads):
    asking = asking + self_attention(block.attention, normed(block.norm, asking), heads)
    queries, (keys, values) = (
        block.reading.queries(normed(block.norm_before_reading, asking)),
        block.reading.pairs(asked).chunk(2, dim=-1),
    )
    asking = asking + block.reading.out(attention(queries, keys, values, heads))
    return asking + mlp(block.mlp, normed(block.norm_before_mlp, asking))


def reference_loss(objective, pixels, shuffled, num_seen):
    """The published loss, with patches in grid order throughout."""
    backbone, rows = objective.backbone, torch.arange(len(pixels))[:, None]
    grid, heads = backbone.grid_of(pixels), objective.config.decoder_heads
    tokens = backbone.patch_embed["proj"](pixels).flatten(2).mT + sincos_positions(grid, backbone.width)
    tokens = torch.cat([backbone.cls_token.expand(len(pixels), -1, -1), tokens[rows, shuffled[:, :num_seen]]], dim=1)
    depths = []
    for block in backbone.blocks:
        tokens = plain_block(block, tokens, backbone.heads)
        depths.append(tokens)
    num_hidden = shuffled.shape[1] - num_seen
    hidden = objective.mask_token.expand(len(pixels), num_hidden, -1)
    asking = torch.cat([objective.embeds[-1](normed(backbone.norm, tokens)), hidden], dim=1)
    positions = sincos_positions(grid, asking.shape[-1]).expand(len(pixels), -1, -1)[rows, shuffled]
    asking = asking + F.pad(positions, (0, 0, 1, 0))
    for block in objective.blocks:
        asking = plain_block(block, asking, heads)
    for block, layer, embed in zip(
        objective.reading, objective.layers[-2::-1], list(objective.embeds)[-2::-1], strict=True
    ):
        asking = reading_block(block, asking, embed(depths[layer]), heads)
    predicted = objective.predict(normed(objective.norm, asking))[:, -num_hidden:]
    target = patchify(pixels, backbone.patch_size)[rows, shuffled[:, num_seen:]]
    target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True, correction=0) + 1e-6).sqrt()
    return F.mse_loss(predicted, target)


@pytest.mark.parametrize("ndim", [2, 3])
def test_the_loss_is_that_of_the_published_decoder(make, views, ndim):
    objective, pixels = make("hi_end_mae", ndim=ndim, backbone={"depth": 4}, **TINY_DECODER), views(ndim).crops[0]
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in objective.parameters():  # biases and norms would not count as they start
            weight += 0.2 * torch.randn(weight.shape, generator=generator)
    torch.manual_seed(7)
    loss = objective(Views(pixels[None]), 0.0).total
    torch.manual_seed(7)
    num_patches = 4**ndim
    shuffled = torch.rand(len(pixels), num_patches).argsort(dim=1)
    expected = reference_loss(objective, pixels, shuffled, num_patches // 4)
    torch.testing.assert_close(loss, expected, atol=0, rtol=1e-4)


def test_the_decoder_has_the_published_blocks(make):
    objective = make("hi_end_mae", backbone={"depth": 4})
    assert (len(objective.blocks), len(objective.reading), len(objective.embeds)) == (2, 3, 4)
    assert (objective.mask_token.shape[-1], objective.reading[0].reading.heads) == (384, 12)


@pytest.mark.parametrize("name", ["hi_end_mae", "hi_end_mae_light"])
def test_the_decoder_reaches_every_depth_without_the_last(make, views, name):
    """With the deepest tokens detached, gradients come through the cross-attention alone."""
    objective = make(name, ndim=3, backbone={"depth": 4}, **TINY_DECODER)
    pixels = views(3, side=16).crops[0]
    patches, grid = objective.backbone.embed(pixels)
    masking = random_masking(torch.rand(patches.shape[:2]), 0.5)
    seen = patches.gather(1, masking.ids_keep[..., None].expand(-1, -1, 32))
    encoded = objective.backbone.encode_layers(seen, grid=grid, layers=objective.layers, ids=masking.ids_keep)
    for depth, layer in enumerate(encoded[:-1]):
        layer.retain_grad()
        assert layer.shape == (3, 1 + 4, 32), depth
    objective.decode([*encoded[:-1], encoded[-1].detach()], masking, grid).square().mean().backward()
    assert all(layer.grad.abs().max() > 0 for layer in encoded[:-1])
    assert all(objective.backbone.blocks[n].mlp.fc1.weight.grad.abs().max() > 0 for n in range(3))


def test_the_light_decoder_has_about_two_thirds_of_the_weights_of_the_published_one(make):
    published, light = (make(name, backbone={"depth": 4}) for name in ("hi_end_mae", "hi_end_mae_light"))
    assert isinstance(published, HiEndMae)
    assert isinstance(light, HiEndMaeLight)
    sizes = [
        sum(weight.numel() for part in (objective.blocks, objective.reading) for weight in part.parameters())
        for objective in (published, light)
    ]
    assert 0.6 < sizes[1] / sizes[0] < 0.7


def test_the_depths_read_are_the_quarters_and_wrong_ones_are_refused(make):
    assert quarters(12) == (3, 6, 9, 12)
    assert quarters(2) == (1, 2)
    with pytest.raises(ConfigError, match=r"objective\.depths is \(2, 1\)"):
        make("hi_end_mae", depths=[2, 1], **TINY_DECODER)


def test_a_run_with_the_decoder_of_earlier_versions_is_refused(make):
    objective = make("hi_end_mae", **TINY_DECODER)
    earlier = {**objective.state_dict(), "reading.0.queries.weight": torch.zeros(24, 24)}
    with pytest.raises(CheckpointError, match=r"decoder of an earlier version.*start the run again"):
        objective.load_state_dict(earlier)
