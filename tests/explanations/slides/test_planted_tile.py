"""Bags of which one tile decides the class: the methods put it first, and the checks agree."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from medvit.errors import ConfigError
from medvit.explanations.checks import order_of
from medvit.explanations.explain import ExplanationOptions
from medvit.explanations.methods import MethodOptions
from medvit.explanations.outputs import ExplainedOutput
from medvit.explanations.slides.bags import TileBag, bag_score
from medvit.explanations.slides.explain import deletion_and_insertion_of_tiles, slide_checks
from medvit.explanations.slides.methods import METHODS, SlideMethod, TilePlaces, hidden_areas, slide_method_of
from medvit.heads import BagHead
from medvit.heads.abmil import AbmilConfig
from medvit.heads.mean_pool import MeanConfig
from medvit.heads.transformer_mil import TransformerMilConfig

NUM_TILES, WIDTH, COLUMNS, SIDE = 48, 12, 8, 32
HEADS = {
    "abmil": AbmilConfig(hidden=16),
    "transformer_mil": TransformerMilConfig(width=16, depth=1, heads=2, dropout=0.0),
}
OUTPUT = ExplainedOutput(1, "tumor")
QUICK = ExplanationOptions.parse({"check_steps": 12, "random_orders": 4, "window": 0.0})


@dataclass(frozen=True)
class PlantedBags:
    """Noise (B, N, D); in bags of class 1, the tile `place` has a large value in one dimension."""

    tiles: torch.Tensor
    classes: torch.Tensor
    places: torch.Tensor


def planted(count: int, seed: int) -> PlantedBags:
    generator = torch.Generator().manual_seed(seed)
    tiles = torch.randn(count, NUM_TILES, WIDTH, generator=generator)
    classes = torch.randint(2, (count,), generator=generator)
    places = torch.randint(NUM_TILES, (count,), generator=generator)
    tiles[torch.arange(count), places, 3] += 8.0 * classes
    return PlantedBags(tiles, classes, places)


def grid() -> TilePlaces:
    """Tiles of 8 columns and 6 rows that touch each other."""
    numbers = np.arange(NUM_TILES)
    xy = np.stack([numbers % COLUMNS, numbers // COLUMNS], axis=1) * SIDE
    return TilePlaces(xy, SIDE, (NUM_TILES // COLUMNS * SIDE, COLUMNS * SIDE))


def fitted(name: str, seed: int) -> BagHead:
    torch.manual_seed(seed)
    head = HEADS[name].build_for_bags(WIDTH, 2)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    for step in range(100):
        bags = planted(32, 1000 * seed + step)
        loss = F.cross_entropy(head.read(bags.tiles).logits, bags.classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return head.eval().requires_grad_(False)


@cache
def ensemble(name: str) -> list[BagHead]:
    torch.set_num_threads(1)
    return [fitted(name, seed) for seed in (1, 2)]


@pytest.fixture
def heads() -> list[BagHead]:
    return ensemble("abmil")


PAIRS = [(head, one) for head in HEADS for one in METHODS if (head, one.name) != ("transformer_mil", "attention")]
"""Heads and methods, without attention after layers of self-attention, in which every tile knows of the others."""


@pytest.mark.parametrize(("head", "method"), PAIRS, ids=lambda one: getattr(one, "name", one))
def test_the_tile_that_decides_comes_first(head: str, method: SlideMethod) -> None:
    heads = ensemble(head)
    bags = planted(24, 9)
    chosen = torch.nonzero(bags.classes == 1)[:8, 0].tolist()
    maps = [method.values_of(heads, TileBag(bags.tiles[number]), 1, grid(), QUICK) for number in chosen]
    hits = sum(int(found.argmax()) == int(bags.places[number]) for found, number in zip(maps, chosen, strict=True))
    assert hits >= 7


@pytest.mark.parametrize(("head", "method"), PAIRS, ids=lambda one: getattr(one, "name", one))
def test_deletion_is_below_insertion_and_random_weights_change_the_map(head: str, method: SlideMethod) -> None:
    heads = ensemble(head)
    bags = planted(24, 10)
    each = []
    for number in torch.nonzero(bags.classes == 1)[:4, 0].tolist():
        bag = TileBag(bags.tiles[number])
        values = method.values_of(heads, bag, 1, grid(), QUICK)
        each.append(slide_checks(heads, bag, OUTPUT, values, grid(), method, QUICK, 0))
    assert all(one.is_informative for one in each)
    assert all(one.deletion < 0.5 < 0.8 < one.insertion for one in each)
    assert abs(np.mean([one.correlation for one in each])) < 0.5


def test_occlusion_is_the_fall_without_the_tile(heads: list[BagHead]) -> None:
    bag = TileBag(planted(1, 3).tiles[0])
    values = slide_method_of("occlusion", heads).values_of(heads, bag, 1, grid(), QUICK)
    without = TileBag(torch.cat([bag.tiles[:5], bag.tiles[6:]]))
    fall = bag_score(heads, bag, 1) - bag_score(heads, without, 1)
    assert float(values[5]) == pytest.approx(float(fall), abs=1e-4)


def test_gradient_times_input_is_exact_for_a_linear_model() -> None:
    """The mean head is linear: the values add up to the log-odds minus those of a bag of zeros."""
    torch.manual_seed(0)
    head = MeanConfig().build_for_bags(WIDTH, 2).requires_grad_(False)
    bag = TileBag(torch.randn(NUM_TILES, WIDTH))
    values = slide_method_of("input_x_gradient", [head]).values_of([head], bag, 1, grid(), QUICK)
    expected = bag_score([head], bag, 1) - bag_score([head], TileBag(torch.zeros(1, WIDTH)), 1)
    assert float(values.sum()) == pytest.approx(float(expected), abs=1e-5)


def test_areas_cover_every_tile_and_a_small_window_is_one_tile() -> None:
    areas = hidden_areas(grid(), 0.3)
    assert np.stack(areas).sum(axis=0).min() >= 1
    assert max(area.sum() for area in areas) <= 9  # 0.3 of 256 pixels is less than 3 tiles
    assert sorted(area.sum() for area in hidden_areas(grid(), 0.01)) == [1] * NUM_TILES


def test_deletion_and_insertion_of_a_bag_of_equal_tiles_are_its_probability(heads: list[BagHead]) -> None:
    bag = TileBag(torch.ones(10, WIDTH))
    order = order_of(torch.arange(10.0))
    own = deletion_and_insertion_of_tiles(heads, bag, OUTPUT, order, steps=4)
    expected = float(bag_score(heads, bag, 1).sigmoid())
    assert own == pytest.approx((expected, expected), abs=1e-5)


def test_methods_that_do_not_apply_are_refused() -> None:
    head = MeanConfig().build_for_bags(WIDTH, 2)
    assert slide_method_of("auto", [head]).name == "occlusion"
    with pytest.raises(ConfigError, match="the head mean gives all tiles the same weight; give method=occlusion"):
        slide_method_of("attention", [head])
    with pytest.raises(ConfigError, match="method=rollout is not a method for models of slides; known are auto"):
        slide_method_of("rollout", [head])
    assert MethodOptions().window == 0.125
