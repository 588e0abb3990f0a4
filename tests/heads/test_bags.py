"""Bag heads (except TransMIL) ignore the order, return their attention, and read a bag in pieces or whole alike."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor

from medvit.artifacts import Checkpoint
from medvit.backbones.vit import VitConfig
from medvit.errors import ConfigError
from medvit.heads import BagHead, HeadConfig, of_earlier_version
from medvit.heads.abmil import AbmilConfig
from medvit.heads.dense import DenseConfig
from medvit.heads.mean_pool import MeanConfig
from medvit.heads.transformer_mil import TransformerMilConfig
from medvit.heads.transmil import TransmilConfig
from medvit.models.slide import SlideModel, SlideModelConfig

WIDTH, CLASSES = 24, 3
HEADS = {
    "abmil": AbmilConfig(hidden=8, maps=2),
    "mean": MeanConfig(),
    "transformer_mil": TransformerMilConfig(width=16, depth=2, heads=2),
    "transmil": TransmilConfig(width=16, heads=2, landmarks=4),
}
each_head = pytest.mark.parametrize("config", HEADS.values(), ids=HEADS)


class InMemory:
    """Tiles that record how many were requested at once."""

    def __init__(self, embeddings: Float[Tensor, "n d"]) -> None:
        self.embeddings, self.most = embeddings, 0

    def __len__(self) -> int:
        return len(self.embeddings)

    def take(self, indices: Int[Tensor, "m"]) -> Float[Tensor, "m d"]:
        self.most = max(self.most, len(indices))
        return self.embeddings[indices]


def build(config: HeadConfig) -> BagHead:
    torch.manual_seed(0)
    return config.build_for_bags(WIDTH, CLASSES).eval().requires_grad_(False)


def bags(*sizes: int) -> tuple[Tensor, Tensor]:
    """Bags of different length, filled up with numbers that must not matter."""
    generator = torch.Generator().manual_seed(1)
    filled = torch.randn(len(sizes), max(sizes), WIDTH, generator=generator)
    return filled, torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]


@pytest.mark.parametrize("config", [HEADS["abmil"], HEADS["mean"], HEADS["transformer_mil"]])
def test_the_order_of_tiles_means_nothing(config):
    head, (filled, _) = build(config), bags(9)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(2))
    first, second = head.read(filled), head.read(filled[:, order])
    torch.testing.assert_close(second.logits, first.logits)
    torch.testing.assert_close(second.attention, first.attention[..., order])


@each_head
def test_every_attention_map_sums_to_one_over_its_own_tiles(config):
    filled, present = bags(3, 7, 1)
    attention = build(config).read(filled, present).attention
    assert (attention >= 0).all()
    torch.testing.assert_close(attention.sum(-1), torch.ones(attention.shape[:2]))
    assert (attention * ~present[:, None]).abs().max() == 0


@each_head
def test_what_fills_up_a_short_bag_is_not_read(config):
    head, (filled, present) = build(config), bags(3, 7)
    together = head.read(filled, present)
    alone = head.read(filled[:1, :3])
    torch.testing.assert_close(together.logits[:1], alone.logits)
    torch.testing.assert_close(together.attention[:1, :, :3], alone.attention)


@pytest.mark.parametrize("config", [HEADS["abmil"], HEADS["mean"]], ids=["abmil", "mean"])
def test_a_bag_of_one_tile_is_read_by_the_linear_layer_alone(config):
    head, (filled, _) = build(config), bags(1)
    maps = head.linear.in_features // WIDTH
    torch.testing.assert_close(head.read(filled).logits, head.linear(filled[:, 0].repeat(1, maps)))


@each_head
@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_a_bag_read_in_pieces_holds_few_tiles_at_once(config, chunk):
    head, (filled, _) = build(config), bags(11)
    tiles = InMemory(filled[0])
    reading = head.stream(tiles, chunk)
    assert tiles.most <= chunk
    torch.testing.assert_close(reading.attention.sum(-1), torch.ones(reading.attention.shape[:2]))
    if chunk >= 11 or config.name != "transformer_mil":
        whole = head.read(filled)
        torch.testing.assert_close(reading.logits, whole.logits)
        torch.testing.assert_close(reading.attention, whole.attention)


def test_a_transformer_reads_a_large_bag_as_the_mean_of_interleaved_parts():
    head, (filled, _) = build(TransformerMilConfig(width=16, depth=1, heads=2, max_tiles=4)), bags(8)
    parts = [head.read(filled[:, start::2]) for start in range(2)]
    reading = head.stream(InMemory(filled[0]), 100)
    torch.testing.assert_close(reading.logits, (parts[0].logits + parts[1].logits) / 2)
    torch.testing.assert_close(reading.attention[..., 1::2], parts[1].attention / 2)


def test_attention_finds_the_planted_tile():
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    head = AbmilConfig(hidden=16, dropout=0.0).build_for_bags(WIDTH, 2)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2, fused=True)
    signal = torch.nn.functional.normalize(torch.randn(WIDTH, generator=generator), dim=0) * 8
    for _ in range(150):
        tiles, targets = torch.randn(16, 50, WIDTH, generator=generator), torch.arange(16) % 2
        tiles[targets == 1, 7] += signal
        loss = torch.nn.functional.cross_entropy(head.read(tiles).logits, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    tiles = torch.randn(8, 50, WIDTH, generator=generator)
    tiles[:, 31] += signal
    reading = head.eval().read(tiles)
    assert (reading.logits.argmax(1) == 1).all()
    assert (reading.attention[:, 0].argmax(-1) == 31).all()


@each_head
def test_the_patches_of_an_image_are_a_bag_too(config):
    backbone = VitConfig(ndim=2, channels=1, patch_size=8, width=WIDTH, depth=1, heads=2).build()
    head = config.build(backbone, CLASSES).eval()
    pixels = torch.randn(2, 1, 16, 24)
    tokens = backbone(pixels)
    torch.testing.assert_close(head([tokens], pixels), head.read(tokens.patches).logits)


def test_a_head_that_reads_no_bags_says_which_do():
    with pytest.raises(
        ConfigError, match=r"head.name=dense does not accept bags .* abmil, transmil, transformer_mil or mean"
    ):
        DenseConfig().build_for_bags(WIDTH, CLASSES)


@pytest.mark.parametrize("config", [TransmilConfig, TransformerMilConfig])
def test_a_width_that_heads_cannot_share_is_refused(config):
    with pytest.raises(ConfigError, match="width 10 is not a multiple of heads 4"):
        config.parse({"width": 10, "heads": 4})


def test_what_earlier_versions_called_transmil_is_read_under_its_name_now():
    stored = {**TransformerMilConfig(width=16).tree(), "name": "transmil"}
    assert of_earlier_version({"head": stored})["head"] == TransformerMilConfig(width=16).tree()
    present = {"head": TransmilConfig().tree()}
    assert of_earlier_version(present) == present
    with pytest.raises(ConfigError, match=r"depth and max_tiles belong to the head .* now transformer_mil"):
        TransmilConfig.parse(stored)


def test_a_checkpoint_with_the_head_that_was_called_transmil_predicts_what_it_did(tmp_path):
    config = SlideModelConfig.parse(
        {
            "backbone": {"name": "vit", "ndim": 2, "channels": 1, "width": WIDTH, "depth": 1, "heads": 2},
            "head": {"name": "transformer_mil", "width": 16, "heads": 2},
            "members": 1,
            "features": "class",
            "tiles": {"size": 16, "mpp": 0.5},
            "classes": ["a", "b"],
            "label": "kind",
        }
    )
    model = SlideModel(config, config.backbone.build(), WIDTH).eval()
    tree = config.tree()
    tree["head"]["name"] = "transmil"
    Checkpoint(tmp_path, tree, {}, model.state_dict()).save()
    tiles = InMemory(bags(5)[0][0])
    found = SlideModel.from_checkpoint(Checkpoint.load(tmp_path)).read(tiles)
    assert (found.probabilities == model.read(tiles).probabilities).all()
