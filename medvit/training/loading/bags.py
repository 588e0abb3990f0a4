"""Bags of tile embeddings for training on slide labels, with new random slides and tiles in every epoch."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from medvit.config import Config, Count
from medvit.models.features import Features
from medvit.models.slide import WholeBag
from medvit.models.tile_embedder import EmbeddedSlide
from medvit.training.loading.epochs import Draw, LoaderConfig, draw_loader
from medvit.training.resume import Position
from medvit.types import Bags

log = logging.getLogger("medvit")


class BagConfig(Config):
    """Training on whole slides, each of which is a bag of tile embeddings."""

    tiles: Count = 2048
    """Number of tiles drawn from a slide in each training step. Validation and inference use all tiles."""
    features: Features = "class_mean"
    """Embedding of a tile. class: the class token. mean: the mean of the patch tokens. class_mean: both."""


EARLIER_KEYS = frozenset({"folds", "members"})
"""Options of `bags` in earlier versions, which are now `folds` and `seeds`."""


@dataclass(frozen=True)
class Bag:
    """Slide with its class, and the subset of its tiles drawn for a step."""

    slide: EmbeddedSlide
    target: int


class DrawnBags(Dataset[tuple[torch.Tensor, Bag]]):
    """Dataset of slides; each access with a `Draw` returns a random subset of the tiles of a slide."""

    def __init__(self, bags: Sequence[Bag], max_tiles: int) -> None:
        self.bags, self.max_tiles = bags, max_tiles

    def __getitem__(self, draw: Draw) -> tuple[torch.Tensor, Bag]:
        bag = self.bags[draw.index]
        embeddings = bag.slide.embeddings
        order = np.random.default_rng(draw.seed).permutation(len(embeddings))[: self.max_tiles]
        return embeddings.take(torch.from_numpy(np.sort(order))), bag


class WholeBags(Dataset[WholeBag]):
    """Slides with all of their tiles, read on demand."""

    def __init__(self, bags: Sequence[Bag]) -> None:
        self.bags = bags

    def __len__(self) -> int:
        return len(self.bags)

    def __getitem__(self, index: int) -> WholeBag:
        bag = self.bags[index]
        return WholeBag(bag.slide.embeddings, torch.tensor([bag.target]), (bag.slide.row,))


def stack_bags(drawn: Sequence[tuple[torch.Tensor, Bag]]) -> Bags:
    """Return a padded batch of bags of different lengths."""
    tiles = torch.nn.utils.rnn.pad_sequence([part for part, _ in drawn], batch_first=True)
    lengths = torch.tensor([len(part) for part, _ in drawn])
    present = torch.arange(tiles.shape[1]) < lengths[:, None]
    targets = torch.tensor([bag.target for _, bag in drawn])
    return Bags(tiles, present, targets, tuple(bag.slide.row for _, bag in drawn))


def bag_loader(
    config: LoaderConfig,
    bags: Sequence[Bag],
    *,
    max_tiles: int,
    num_batches: int,
    seed: int,
    start: Position,
    weights: Sequence[float] | None = None,
) -> DataLoader[object]:
    """Return a loader of `num_batches` batches per iteration, starting where a resumed run continues."""
    return draw_loader(
        config,
        DrawnBags(bags, max_tiles),
        stack_bags,
        num_images=len(bags),
        num_batches=num_batches,
        seed=seed,
        start=start,
        weights=weights,
    )


def whole_bags(bags: Sequence[Bag]) -> DataLoader[object]:
    """Return a loader that yields one slide at a time, with all its tiles."""
    return DataLoader(WholeBags(bags), batch_size=None)


def folds_of_bags(given: Mapping[str, Any], bags: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with `bags.folds` and `bags.members` of earlier versions as `folds` and `seeds`.

    Raises:
        ValueError: If the number of models is not a multiple of the number of folds, or an option is given twice.
    """
    folds = int(bags.get("folds", given.get("folds", 0)))
    found: dict[str, int] = {"folds": folds} if "folds" in bags else {}
    if "members" in bags:
        members = int(bags["members"])
        if members % max(folds, 1):
            raise ValueError(f"bags.members={members} is not a multiple of folds={folds}; give seeds, models per fold")
        found["seeds"] = members // max(folds, 1)
    for key in found.keys() & given.keys():
        raise ValueError(f"bags.{'members' if key == 'seeds' else key} is now called {key}, and both are given")
    log.warning("bags.folds and bags.members are now folds and seeds; the next version refuses the old names")
    return {**given, **found, "bags": {key: value for key, value in bags.items() if key not in EARLIER_KEYS}}
