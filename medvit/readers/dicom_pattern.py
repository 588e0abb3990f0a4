"""Where the elements of a file lie, told by a few bytes where a file before was laid out in the same way.

Instances of a series mostly differ in what their values hold, not in how long these are. The way through a file depends
on no byte but those that are seen on it: tags, value representations and lengths. Where a file of the same size holds
the same bytes there, the way through it is the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from numpy import ndarray as Array

from medvit.readers.dicom_places import Bytes, Place, Span

Raw = tuple[tuple[int, bytes | None, bytes], ...]
"""Elements as tag, value representation and bytes: equal ones say the same."""


class Way(NamedTuple):
    """What is found on the way through a file: elements of its meta information, those that were sought, its pixels."""

    meta: Mapping[int, Place]
    places: Mapping[int, Place]
    pixels: Span | None
    is_implicit: bool


@dataclass(frozen=True, eq=False)
class Pattern:
    """A way, the places of all bytes that decide it, and what they hold."""

    way: Way
    decisive: Int[Array, "n"]
    held: bytes

    @classmethod
    def of(cls, way: Way, seen: Sequence[Span], content: Bytes) -> Pattern:
        """The pattern of a way through some bytes on which no others than these were seen."""
        decisive = _indices(seen)
        return cls(way, decisive, _taken(content, decisive))

    def fits(self, content: Bytes) -> bool:
        """Whether it is the way through other bytes, as many and of a file as large."""
        return _taken(content, self.decisive) == self.held

    def said(self, content: Bytes, tags: tuple[int, ...]) -> bytes | None:
        """The values of those elements of `tags` that are there, joined; none if one has no length of its own."""
        indices = _of_values(self, tags)
        return None if indices is None else _taken(content, indices)

    def raw(self, said: bytes, tags: tuple[int, ...]) -> Raw:
        """What was `said`, element by element."""
        found, at = [], 0
        for tag, (vr, start, stop, _) in self._there(tags):
            found.append((tag, vr, said[at : at + stop - start]))
            at += stop - start
        return tuple(found)

    def _there(self, tags: Iterable[int]) -> list[tuple[int, Place]]:
        places = {**self.way.meta, **self.way.places}
        return [(tag, places[tag]) for tag in tags if tag in places]


@lru_cache(256)
def _of_values(pattern: Pattern, tags: tuple[int, ...]) -> Int[Array, "n"] | None:
    there = pattern._there(tags)
    if any(is_undefined for _, (_, _, _, is_undefined) in there):
        return None
    return _indices([(start, stop) for _, (_, start, stop, _) in there])


def _indices(spans: Sequence[Span]) -> Int[Array, "n"]:
    """Every place in some spans, one span after the other."""
    starts, stops = np.array(spans, dtype=np.int64).reshape(-1, 2).T
    lengths = stops - starts
    return np.arange(lengths.sum()) + np.repeat(starts - lengths.cumsum() + lengths, lengths)


def _taken(content: Bytes, indices: Int[Array, "n"]) -> bytes:
    return np.frombuffer(content, np.uint8)[indices].tobytes()
