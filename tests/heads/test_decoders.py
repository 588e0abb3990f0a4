"""Decoders give logits for every pixel from any backbone, and train every depth and resolution that they declare."""

from dataclasses import replace
from itertools import pairwise
from math import prod

import pytest
import torch

from medvit.backbones import Backbone
from medvit.backbones.vit import VitConfig
from medvit.errors import ConfigError
from medvit.heads._decoder import DecoderConfig, SegmentationDecoder
from medvit.heads.dense import DenseConfig
from medvit.heads.meddinov3 import MedDinoV3Config
from medvit.heads.unetr import UnetrConfig
from medvit.heads.vitdet import VitDetConfig

DECODERS = {
    "dense": DenseConfig(channels=4),
    "half": DenseConfig(channels=4, stem="half"),
    "meddinov3": MedDinoV3Config(),
    "vitdet": VitDetConfig(channels=8),
    "unetr": UnetrConfig(channels=8),
}
SHAPES = {
    "2d": (2, 16, (48, 32)),
    "2d of 14": (2, 14, (42, 28)),
    "3d": (3, 8, (16, 24, 8)),
    "flat patches": (3, (8, 8, 2), (16, 16, 4)),
    "one patch": (2, 8, (8, 8)),
}

each_decoder = pytest.mark.parametrize("config", DECODERS.values(), ids=DECODERS)


def backbone(ndim: int = 2, patch: int | tuple[int, ...] = 8, **options: object) -> Backbone:
    torch.manual_seed(0)
    given = {"ndim": ndim, "channels": 1, "patch_size": patch, "width": 32, "depth": 4, "heads": 2}
    return VitConfig.parse(given | options).build()


def features(network: Backbone, head: SegmentationDecoder, pixels: torch.Tensor) -> list:
    return network.intermediate(pixels, head.layers or [network.depth - 1])


@each_decoder
@pytest.mark.parametrize(("ndim", "patch", "shape"), SHAPES.values(), ids=SHAPES)
def test_logits_have_the_shape_of_the_pixels(config: DecoderConfig, ndim, patch, shape):
    width = 12 * 2 if ndim == 3 else 32  # sine and cosine positions on each axis
    network = backbone(ndim, patch, width=width)
    head = config.build(network, 3)
    pixels = torch.randn(2, 1, *shape)
    assert head(features(network, head, pixels), pixels).shape == (2, 3, *shape)


@each_decoder
def test_every_depth_that_is_read_is_trained(config: DecoderConfig):
    network = backbone(patch=16)
    head = config.build(network, 2)
    pixels = torch.randn(1, 1, 32, 32)
    tokens = features(network, head, pixels)
    for one in tokens:
        one.patches.retain_grad()
    head(tokens, pixels).square().sum().backward()
    assert all(one.patches.grad.abs().max() > 0 for one in tokens)
    assert all(weight.grad is not None for weight in head.parameters())


@each_decoder
@pytest.mark.parametrize("registers", [0, 4])
def test_prefix_tokens_do_not_matter_however_many_there_are(config: DecoderConfig, registers):
    network = backbone(registers=registers)
    head = config.build(network, 5).eval()
    pixels = torch.randn(1, 1, 16, 16)
    tokens = features(network, head, pixels)
    others = [replace(each, prefix=torch.randn_like(each.prefix)) for each in tokens]
    assert torch.equal(head(others, pixels), head(tokens, pixels))


@each_decoder
def test_lower_resolutions_change_no_prediction_and_are_trained(config: DecoderConfig):
    network = backbone(patch=16)
    head = config.model_copy(update={"num_supervised": 2}).build(network, 3)
    pixels = torch.randn(1, 1, 32, 48)
    tokens = features(network, head, pixels)
    logits = head.at_levels(tokens, pixels)
    assert torch.equal(logits[0], head(tokens, pixels))
    sizes = [prod(each.shape[2:]) for each in logits]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 3
    sum(each.square().sum() for each in logits).backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in head.auxiliary.parameters())


@each_decoder
def test_more_resolutions_than_there_are_are_refused(config: DecoderConfig):
    with pytest.raises(ConfigError, match=r"head\.num_supervised=9, but this decoder has \d lower resolutions"):
        config.model_copy(update={"num_supervised": 9}).build(backbone(), 2)


def test_patches_of_one_pixel_are_refused_by_decoders_that_upsample():
    for config in (DECODERS["half"], DECODERS["meddinov3"], DECODERS["unetr"]):
        with pytest.raises(ConfigError, match="patches of at least 2 pixels per side"):
            config.build(backbone(patch=1), 2)


@pytest.mark.parametrize(("ndim", "patch"), [(2, 16), (3, 8), (2, 14)])
def test_meddinov3_halves_its_channels_at_each_of_log2_patch_transposed_convolutions(ndim, patch):
    network = backbone(ndim, patch, width=24, depth=12)
    head = MedDinoV3Config().build(network, 5)
    assert head.layers == (2, 5, 8, 11)
    steps = patch.bit_length() - 1
    widths = [4 * 24 // 2**step for step in range(steps)] + [5]
    convolutions = sum(a * b * 2**ndim + b for a, b in pairwise(widths))
    norms = sum(2 * width for width in widths[1:-1])
    assert sum(weight.numel() for weight in head.parameters()) == convolutions + norms


def test_the_levels_of_vitdet_are_at_strides_4_8_16_and_32_for_patches_of_16():
    network = backbone(patch=16)
    head = VitDetConfig(channels=8).build(network, 2)
    levels = head.levels(network(torch.randn(1, 1, 64, 96)))
    assert [tuple(level.shape[1:]) for level in levels] == [(8, 2, 3), (8, 4, 6), (8, 8, 12), (8, 16, 24)]


def test_unetr_reads_the_depths_of_the_paper():
    head = UnetrConfig().build(backbone(3, 16, width=24, depth=12), 2)
    assert head.layers == (2, 5, 8, 11)


def test_the_half_resolution_stem_computes_at_half_the_resolution():
    network, pixels = backbone(), torch.randn(1, 1, 16, 16)
    head = DECODERS["half"].build(network, 2)
    assert head.features(features(network, head, pixels), pixels)[-1].shape[2:] == (8, 8)


@each_decoder
def test_discs_are_learned(config: DecoderConfig):
    """Dice of discs above 0.8 on images not trained on, by a random backbone of 4 blocks trained with the head."""
    network = backbone(patch=4)
    head = config.build(network, 2)
    optimizer = torch.optim.AdamW([*network.parameters(), *head.parameters()], lr=2e-3)
    for _ in range(60):
        pixels, masks = discs(4)
        loss = torch.nn.functional.cross_entropy(head(features(network, head, pixels), pixels), masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    pixels, masks = discs(8)
    with torch.no_grad():
        found = head(features(network, head, pixels), pixels).argmax(1)
    assert 2 * (found * masks).sum() / (found.sum() + masks.sum()) > 0.8


def discs(count: int, side: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Bright discs in noise, and their masks."""
    centers, radii = torch.randint(8, side - 8, (count, 2)), torch.randint(4, 8, (count, 1, 1))
    rows, columns = (torch.arange(side).expand(count, side, side) for _ in range(2))
    squares = (rows.transpose(1, 2) - centers[:, :1, None]) ** 2 + (columns - centers[:, 1:, None]) ** 2
    masks = (squares <= radii**2).long()
    return masks[:, None] + 0.3 * torch.randn(count, 1, side, side), masks
