"""Batches by epoch: images, their order and their random draws, all determined by the seed and the step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from pydantic import Field
from torch.utils.data import DataLoader, Dataset, Sampler

from medvit.config import Config, Count
from medvit.dataset.samples import Samples, TileSamples, collate
from medvit.seeds import mixed_seed
from medvit.training.loading.block_shuffle import Blocks
from medvit.training.resume import Position
from medvit.types import Sample

START = Position()


class LoaderOptions(Config):
    """Loading of images."""

    batch_size: Count | None = None
    """Number of images per batch on each device. Unset: proposed from the crop, the number of images and the memory of
    the device; 8 for whole slides.
    """
    num_workers: int = Field(default=0, ge=0)
    """Number of processes that prepare batches; 0 prepares them in the training process."""

    def over(self, proposed: Mapping[str, object]) -> LoaderConfig:
        """Return complete options: the given ones, then the proposed ones, then the defaults."""
        return LoaderConfig.parse({**proposed, **self.model_dump(exclude_none=True)})


class LoaderConfig(LoaderOptions):
    """Loading of images: batch size and number of processes."""

    batch_size: Count = 8
    """Number of images per batch on each device."""


@dataclass(frozen=True)
class Draw:
    """Request for one training sample: the index of the image, and the seed of its random transform."""

    index: int
    seed: int


@dataclass(frozen=True)
class Alternation:
    """Order in which batches of two kinds of images alternate.

    Images with an index below `num_first` are of the first kind, all others of the second kind.
    """

    num_first: int
    batch_size: int


class EpochSampler(Sampler[Draw]):
    """Sampler that draws images in successive random orders, `draws_per_epoch` per epoch in each training process.

    A resumed run skips the first `skip` draws of its first epoch, which the interrupted run has used. With `weights`,
    images are instead drawn with these probabilities and with replacement, as for rare classes. With `alternation`,
    batches of two kinds of images alternate. With `patients`, each random order spreads the images of a patient evenly,
    so that a batch contains as few images of one patient as possible. With `blocks`, orders are instead those of
    `Blocks.order`, in which the files of the samples can be read fast.
    """

    def __init__(
        self,
        num_images: int,
        *,
        draws_per_epoch: int,
        seed: int,
        first_epoch: int = 0,
        skip: int = 0,
        weights: Sequence[float] | None = None,
        alternation: Alternation | None = None,
        patients: Sequence[str] | None = None,
        blocks: Blocks | None = None,
    ) -> None:
        self.alternation, self.blocks = alternation, blocks
        self.groups = None if patients is None else np.unique(np.array(patients), return_inverse=True)[1]
        self._orders: dict[tuple[int, int], Int[np.ndarray, "n"]] = {}
        self.num_images, self.draws_per_epoch, self.seed = num_images, draws_per_epoch, seed
        self.epoch = self.first_epoch = first_epoch
        self.skip = skip
        self.odds = None if weights is None else np.array(weights) / np.sum(weights)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; Lightning calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.draws_per_epoch

    def __iter__(self) -> Iterator[Draw]:
        num_processes, rank = _world()
        start = self.epoch * self.draws_per_epoch * num_processes
        first = start + num_processes * (self.skip if self.epoch == self.first_epoch else 0)
        for position in range(first + rank, start + self.draws_per_epoch * num_processes, num_processes):
            yield Draw(self._index(position), mixed_seed(self.seed, 1, position))

    def _index(self, position: int) -> int:
        if self.odds is not None:
            return int(np.random.default_rng(mixed_seed(self.seed, 2, position)).choice(self.num_images, p=self.odds))
        if self.alternation is not None:
            return self._alternating(position, self.alternation)
        return self._in_order(0, position, self.num_images)

    def _alternating(self, position: int, alternation: Alternation) -> int:
        batch, place = divmod(position, alternation.batch_size * _world()[0])
        turn = batch % 2
        nth = batch // 2 * alternation.batch_size * _world()[0] + place
        sizes = (alternation.num_first, self.num_images - alternation.num_first)
        return turn * alternation.num_first + self._in_order(turn, nth, sizes[turn])

    def _in_order(self, turn: int, nth: int, num_images: int) -> int:
        """Return image number `nth` of a sequence of random orders.

        Each order contains all images. `turn` distinguishes the sequences of different kinds of images.
        """
        lap, place = divmod(nth, num_images)
        if (turn, lap) not in self._orders:
            parts = (0, lap) if turn == 0 else (0, lap, turn)
            self._orders = {key: order for key, order in self._orders.items() if key[0] != turn}
            generator = np.random.default_rng(mixed_seed(self.seed, *parts))
            self._orders[turn, lap] = self._order_of(turn, num_images, generator)
        return int(self._orders[turn, lap][place])

    def _order_of(self, turn: int, num_images: int, generator: np.random.Generator) -> Int[np.ndarray, "n"]:
        if self.blocks is not None and turn == 0:
            return self.blocks.order(generator)
        order = generator.permutation(num_images)
        return order if self.groups is None else spread(order, self.groups, generator)


def spread(
    order: Int[np.ndarray, "n"], groups: Int[np.ndarray, "n"], generator: np.random.Generator
) -> Int[np.ndarray, "n"]:
    """Return a random order, rearranged so that the members of each group are evenly spaced.

    `groups` gives the group of each image, from 0. If a group has k members and the order is divided into k equal
    parts, each part has one member of the group. The members of a group keep their order.
    """
    counts = np.bincount(groups)
    starts = generator.random(len(counts))
    by_group = order[np.argsort(groups[order], kind="stable")]
    ranks = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    own = groups[by_group]
    return by_group[np.argsort((ranks + starts[own]) / counts[own], kind="stable")]


class TwoKinds:
    """Concatenation of two sets of samples of different kinds."""

    def __init__(self, first: Samples, second: Samples) -> None:
        self.first, self.second = first, second

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __getitem__(self, index: int) -> Sample:
        own = index - len(self.first)
        return self.first[index] if own < 0 else self.second[own]

    def drawn(self, index: int, seed: int) -> Sample:
        """Return a sample for training. The seed determines its random parts, such as the choice of a slice."""
        own = index - len(self.first)
        return self.first.drawn(index, seed) if own < 0 else self.second.drawn(own, seed)


class Drawn(Dataset[Any]):
    """Dataset of samples; each access with a `Draw` returns a sample after a random transform."""

    def __init__(self, samples: Samples | TwoKinds, transform: Callable[[Sample, int], Any]) -> None:
        self.samples, self.transform = samples, transform

    def __getitem__(self, draw: Draw) -> Any:
        return self.transform(self.samples.drawn(draw.index, draw.seed), draw.seed)


def epoch_loader(
    config: LoaderConfig,
    samples: Samples | TwoKinds,
    transform: Callable[[Sample, int], Any],
    stack: Callable[[Sequence[Any]], Any],
    *,
    num_batches: int,
    seed: int,
    start: Position = START,
    weights: Sequence[float] | None = None,
    num_first: int | None = None,
    patients: Sequence[str] | None = None,
) -> DataLoader[Any]:
    """Return a loader of `num_batches` batches per iteration, starting where a resumed run continues.

    With `num_first`, batches of the first `num_first` samples alternate with batches of the others. If `patients` (the
    patient of each sample) is given, samples of one patient are spread over the epoch.
    """
    return draw_loader(
        config,
        Drawn(samples, transform),
        stack,
        num_images=len(samples),
        num_batches=num_batches,
        seed=seed,
        start=start,
        weights=weights,
        alternation=None if num_first is None else Alternation(num_first, config.batch_size),
        patients=patients,
        blocks=_blocks(samples),
    )


def draw_loader(
    config: LoaderConfig,
    drawn: Dataset[Any],
    stack: Callable[[Sequence[Any]], Any],
    *,
    num_images: int,
    num_batches: int,
    seed: int,
    start: Position,
    **order: Any,
) -> DataLoader[Any]:
    """Return a loader for a dataset whose samples are accessed with a `Draw`.

    The arguments in `order` determine the order of samples; they are passed to `EpochSampler`.
    """
    sampler = EpochSampler(
        num_images,
        draws_per_epoch=num_batches * config.batch_size,
        seed=seed,
        first_epoch=start.epochs,
        skip=start.batches * config.batch_size,
        **order,
    )
    return DataLoader(
        drawn,
        batch_size=config.batch_size,
        sampler=sampler,
        num_workers=config.num_workers,
        collate_fn=stack,
        persistent_workers=config.num_workers > 0,
    )


def _blocks(samples: Samples | TwoKinds) -> Blocks | None:
    first = samples.first if isinstance(samples, TwoKinds) else samples
    return Blocks(first.lengths) if isinstance(first, TileSamples) else None


def whole_images(samples: Samples) -> DataLoader[Any]:
    """Return a loader that yields every image whole, one by one, since their shapes may differ."""
    return DataLoader(samples, batch_size=1, collate_fn=collate)


def _world() -> tuple[int, int]:
    """Return the number of training processes, and the index of this one."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size(), torch.distributed.get_rank()
    return 1, 0
