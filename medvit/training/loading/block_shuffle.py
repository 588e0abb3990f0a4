"""Random order of samples for fast reading.

Neighboring samples of a file are read together, and yet a batch has samples of many slides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Int

BLOCK, AT_ONCE = 32, 64
"""Length of a block of neighboring samples in a file, and number of interleaved blocks."""


@dataclass(frozen=True)
class Blocks:
    """Blocks of neighboring samples in files; `lengths` are the numbers of samples in each file."""

    lengths: tuple[int, ...]

    def order(self, generator: np.random.Generator) -> Int[np.ndarray, "n"]:
        """Return the indices of all samples, with the blocks of neighboring samples in random order.

        `AT_ONCE` blocks at a time are interleaved, so that a batch contains samples of many blocks. In each call, the
        files are divided into blocks at different positions.
        """
        blocks = self._cut(generator)
        shuffled = [blocks[n] for n in generator.permutation(len(blocks))]
        parts = [_dealt(shuffled[n : n + AT_ONCE]) for n in range(0, len(shuffled), AT_ONCE)]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def _cut(self, generator: np.random.Generator) -> list[Int[np.ndarray, "b"]]:
        blocks, first = [], 0
        for length in self.lengths:
            edges = [0, *range(int(generator.integers(1, BLOCK + 1)), length, BLOCK), length]
            blocks += [np.arange(first + a, first + b) for a, b in pairwise(edges) if b > a]
            first += length
        return blocks


def _dealt(blocks: Sequence[Int[np.ndarray, "b"]]) -> Int[np.ndarray, "n"]:
    """Return the first index of each block, then the second index of each block, and so on."""
    ranks = np.concatenate([np.arange(len(block)) for block in blocks])
    return np.asarray(np.concatenate(blocks)[np.argsort(ranks, kind="stable")])
