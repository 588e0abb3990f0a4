"""Batches by round: which images, in which order, with which random draw, all from the seed and the step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch.utils.data import DataLoader, Dataset, Sampler

from medvit.config import Config, Count
from medvit.dataset import Samples, collate
from medvit.samples import Sample
from medvit.training.resuming import Position

START = Position()


class LoaderConfig(Config):
    """How images are fed."""

    batch_size: Count = 8
    """Images a step and a device."""
    num_workers: int = Field(default=0, ge=0)
    """Processes that prepare batches; 0 prepares them in the training process."""


@dataclass(frozen=True)
class Draw:
    """An image and the seed of what is random about it this time."""

    index: int
    seed: int


class RoundSampler(Sampler[Draw]):
    """`per_round` draws a round in each training process, through random orders of all images one after another.

    Of the first round, the first `skip` draws are left out: a run that was stopped in its middle has had them.
    With `weights`, images are drawn with these odds and replacement instead, as for rare classes.
    """

    def __init__(
        self,
        num_images: int,
        *,
        per_round: int,
        seed: int,
        first_round: int = 0,
        skip: int = 0,
        weights: Sequence[float] | None = None,
    ) -> None:
        self.num_images, self.per_round, self.seed = num_images, per_round, seed
        self.round = self.first_round = first_round
        self.skip = skip
        self.odds = None if weights is None else np.array(weights) / np.sum(weights)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the round; Lightning calls this, to which a round is an epoch."""
        self.round = epoch

    def __len__(self) -> int:
        return self.per_round

    def __iter__(self) -> Iterator[Draw]:
        num_processes, rank = _world()
        start = self.round * self.per_round * num_processes
        first = start + num_processes * (self.skip if self.round == self.first_round else 0)
        for position in range(first + rank, start + self.per_round * num_processes, num_processes):
            yield Draw(self._index(position), mixed_seed(self.seed, 1, position))

    def _index(self, position: int) -> int:
        lap, place = divmod(position, self.num_images)
        if self.odds is not None:
            return int(np.random.default_rng(mixed_seed(self.seed, 2, position)).choice(self.num_images, p=self.odds))
        if getattr(self, "_lap", None) != lap:
            self._lap = lap
            self._order = np.random.default_rng(mixed_seed(self.seed, 0, lap)).permutation(self.num_images)
        return int(self._order[place])


class Drawn(Dataset[Any]):
    """Samples after a random transform, looked up by `Draw`."""

    def __init__(self, samples: Samples, transform: Callable[[Sample, int], Any]) -> None:
        self.samples, self.transform = samples, transform

    def __getitem__(self, draw: Draw) -> Any:
        return self.transform(self.samples[draw.index], draw.seed)


def rounds(
    config: LoaderConfig,
    samples: Samples,
    transform: Callable[[Sample, int], Any],
    stack: Callable[[Sequence[Any]], Any],
    *,
    num_batches: int,
    seed: int,
    start: Position = START,
    weights: Sequence[float] | None = None,
) -> DataLoader[Any]:
    """A loader that gives `num_batches` batches each time it is gone through, from where a run goes on."""
    sampler = RoundSampler(
        len(samples),
        per_round=num_batches * config.batch_size,
        seed=seed,
        first_round=start.rounds,
        skip=start.batches * config.batch_size,
        weights=weights,
    )
    return DataLoader(
        Drawn(samples, transform),
        batch_size=config.batch_size,
        sampler=sampler,
        num_workers=config.num_workers,
        collate_fn=stack,
        persistent_workers=config.num_workers > 0,
    )


def whole_images(samples: Samples) -> DataLoader[Any]:
    """A loader that gives every image whole, one by one, since their shapes may differ."""
    return DataLoader(samples, batch_size=1, collate_fn=collate)


def mixed_seed(*parts: int) -> int:
    """One seed of several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])


def _world() -> tuple[int, int]:
    """Number of training processes, and which of them this is."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size(), torch.distributed.get_rank()
    return 1, 0
