"""Pairs of images of which one is known to have the event before the other, counted in O(N sqrt(N)) time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray as Array


@dataclass(frozen=True)
class EventPairs:
    """For each image, the number of images that are known to have the event later.

    `later` (N,) counts all of them; `right` (N,) counts those with a later predicted time, and equal predictions as
    half. Both are 0 for an image without the event.
    """

    later: Float[Array, "n"]
    right: Float[Array, "n"]


def pairs_of_events(times: Float[Array, "n"], events: Bool[Array, "n"], expected: Float[Array, "n"]) -> EventPairs:
    """Count the pairs, given predicted times; at equal times, an event comes before censoring (Harrell 1996)."""
    _, rank = np.unique(expected, return_inverse=True)
    moment = 2 * np.unique(times, return_inverse=True)[1] + ~events
    order = np.argsort(-moment, kind="stable")  # the latest first
    num_later = np.searchsorted(-moment[order], -moment, side="left")
    asked = np.flatnonzero(events)
    higher = np.zeros(len(times))
    higher[asked] = _num_higher(rank[order], num_later[asked], rank[asked])
    return EventPairs(np.where(events, num_later, 0).astype(np.float64), higher)


def _num_higher(ranks: Int[Array, "n"], lengths: Int[Array, "m"], asked: Int[Array, "m"]) -> Float[Array, "m"]:
    """Return, for each of `asked`, how many of the first `lengths` ranks are above it; equal ranks count half.

    Whole blocks of ranks are looked up in cumulative counts; the remaining ranks are compared one by one.
    """
    block = max(1, int(np.sqrt(len(ranks))))
    num_blocks, num_ranks = len(ranks) // block, int(ranks.max(initial=0)) + 1
    counts = np.zeros((num_blocks + 1, num_ranks + 1))
    whole = np.arange(num_blocks * block)
    np.add.at(counts, (whole // block + 1, ranks[whole]), 1.0)
    counts = np.cumsum(np.cumsum(counts, axis=0)[:, ::-1], axis=1)[:, ::-1]  # of this rank or higher
    full = lengths // block
    found = (counts[full, asked] + counts[full, asked + 1]) / 2.0
    places = full[:, None] * block + np.arange(block)
    rest = ranks[np.minimum(places, len(ranks) - 1)]
    score = (rest > asked[:, None]) + 0.5 * (rest == asked[:, None])
    return np.asarray(found + (score * (places < lengths[:, None])).sum(axis=1))
