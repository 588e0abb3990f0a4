"""Bags of tile embeddings for training on slide labels, with new random slides and tiles in every epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field
from torch.utils.data import DataLoader, Dataset

from medvit.config import Config, Count
from medvit.models.slide import WholeBag
from medvit.models.tile_embedder import EmbeddedSlide, Features
from medvit.records import Row
from medvit.seeds import mixed_seed
from medvit.training.loading.epochs import Draw, LoaderConfig, draw_loader
from medvit.training.resume import Position
from medvit.types import Bags


class BagConfig(Config):
    """Training on whole slides, each of which is a bag of tile embeddings."""

    members: Count = 5
    """Number of heads, trained from different seeds. The model averages their logits."""
    folds: int = Field(default=0, ge=0)
    """Number of folds into which the train and val patients are divided. Each head selects its epoch on one fold and is
    trained on the others. 0: every head is trained on the train split and selects its epoch on the val split.
    """
    tiles: Count = 2048
    """Number of tiles drawn from a slide in each training step. Validation and inference use all tiles."""
    features: Features = "class_mean"
    """Embedding of a tile. class: the class token. mean: the mean of the patch tokens. class_mean: both."""


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


def divide(
    rows: Sequence[Row], member: int, *, folds: int, seed: int, classes: Sequence[int] | None = None
) -> tuple[list[int], list[int]]:
    """Return indices of the training rows and of the validation rows for one head; no patient is in both.

    If `folds` is 0, these are the splits of the dataset. Otherwise, patients are distributed over the folds at random.
    Head number `member` is validated on one of the folds. After every `folds` heads, patients are distributed again. If
    the `classes` of the rows are given, each fold gets about the same share of each class.
    """
    if not folds:
        chosen = {row.patient_id for row in rows if row.split == "val"}
        held_out = [row.split == "val" for row in rows]
    else:
        patients = sorted({row.patient_id for row in rows})
        order = np.random.default_rng(mixed_seed(seed, 4, member // folds)).permutation(len(patients))
        highest = dict.fromkeys(patients, 0)
        for row, number in zip(rows, classes or [0] * len(rows), strict=True):
            highest[row.patient_id] = max(highest[row.patient_id], number)
        dealt = sorted((patients[place] for place in order), key=highest.__getitem__)
        chosen = set(dealt[member % folds :: folds])
        held_out = [row.patient_id in chosen for row in rows]
    return [n for n, out in enumerate(held_out) if not out], [n for n, out in enumerate(held_out) if out]
