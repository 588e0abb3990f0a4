"""Multi-pattern matcher: finds all needles at once, in texts and bytes, as whole words or numbers.

Each window of a few bytes is looked up in a table of the first windows of the needles (Rabin and Karp 1987), so the
search time does not depend on the number of needles.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Int64
from numpy import ndarray as Array

from medvit.audit.needles import Needle
from medvit.audit.rarity import LONG_WORD

SHORT_MIXED = 8
"""Maximum length of a needle of mixed letters and digits that is found only as a whole word; a longer one is found
anywhere.
"""
WINDOW = 6
"""Length of a window in bytes. Needles shorter than a window are searched for only as whole words in texts."""
TABLE_BITS = 22
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
"""Odd number near 2^64 divided by the golden ratio: products with it spread over the table."""
BLOCK = 2**16
"""Number of windows that are looked up at once. Their keys fit into the processor's cache."""
MIN_BYTES_IN_PIXELS = 8
"""Minimum bytes of a needle that is searched for in binary content; shorter ones would be found in compressed pixels by
chance.
"""
_BASE64 = re.compile(r"[A-Za-z0-9+/=]{200,}")
_HEX = re.compile(r"\b[0-9a-f]{32,}\b")


_CELLS = re.compile(r"[\n\r\t,;|<>=:]")
_AROUND = " \"'^`()[]{}"
"""Separators of table cells, JSON values and lines of text (`_CELLS`), and characters that may surround a value
(`_AROUND`).
"""


class Matcher:
    """Matcher of needles (identifying values to search for), compiled once and used on many texts."""

    def __init__(self, needles: Iterable[Needle]) -> None:
        self._words: dict[str, Needle] = {}
        self._pairs: dict[tuple[str, ...], Needle] = {}
        self._wholes: dict[str, Needle] = {}
        self._starts: dict[bytes, list[tuple[bytes, Needle]]] = {}
        for needle in needles:
            encoded = needle.text.encode("utf-8", "replace")
            if needle.shape == "pair":
                self._pairs[tuple(needle.text.split())] = needle
            elif needle.shape == "whole":
                self._wholes[needle.text] = needle
            elif len(encoded) < WINDOW or (needle.shape == "word" and needle.is_common):
                self._words[needle.text] = needle
            else:
                self._starts.setdefault(encoded[:WINDOW], []).append((encoded, needle))
        self._table = np.zeros(2**TABLE_BITS, dtype=bool)
        for start in self._starts:
            self._table[_slots(start)] = True

    def in_text(self, text: str) -> set[Needle]:
        """Return the needles that occur in a text."""
        folded = _HEX.sub(" ", _BASE64.sub(" ", text).casefold())
        composed = folded if folded.isascii() else unicodedata.normalize("NFC", folded)
        words = re.findall(r"[^\W_]+", composed)
        found = {self._words[word] for word in set(words) if word in self._words}
        if self._pairs:
            found |= {self._pairs[pair] for pair in set(pairwise(words)) if pair in self._pairs}
        if self._wholes:
            alone = (part.strip(_AROUND) for part in _CELLS.split(composed))
            found |= {self._wholes[part] for part in set(alone) if part in self._wholes}
        return found | self._in(folded.encode("utf-8", "replace"), 0)

    def in_bytes(self, content: bytes, *, min_bytes: int = WINDOW) -> set[Needle]:
        """Return the needles that occur in binary content; needles of fewer than `min_bytes` bytes are ignored."""
        return self._in(content.lower(), min_bytes)

    def _in(self, content: bytes, min_bytes: int) -> set[Needle]:
        if len(content) < WINDOW or not self._starts:
            return set()
        found: set[Needle] = set()
        for begin in range(0, len(content) - WINDOW + 1, BLOCK):
            slots = _slots(content[begin : begin + BLOCK + WINDOW - 1])
            for place in np.flatnonzero(self._table.take(slots)) + begin:
                found |= self._at(content, int(place), min_bytes)
        return found

    def _at(self, content: bytes, place: int, min_bytes: int) -> set[Needle]:
        there = self._starts.get(content[place : place + WINDOW], ())
        return {
            needle
            for encoded, needle in there
            if len(encoded) >= min_bytes
            and content.startswith(encoded, place)
            and _is_apart(content, place, place + len(encoded), needle)
        }


@dataclass(frozen=True, order=True)
class Trace:
    """Finding of an audit: the place where an identifying value was found, and the source element with this value.

    A place that could not be searched is reported too, with `is_unsearched`; `source` is then the reason.
    """

    place: str
    source: str
    is_unsearched: bool = False

    def __str__(self) -> str:
        if self.is_unsearched:
            return f"{self.place}: could not be searched: {self.source}"
        return f"{self.place}: a value of {self.source}"


def _slots(content: bytes) -> Int64[Array, "windows"]:
    """Return the index in the table for each window of `WINDOW` bytes in `content` (multiplicative hash, Knuth)."""
    count = len(content) - WINDOW + 1
    integers = np.ndarray(count, dtype="<u8", buffer=content.ljust(count + 7, b"\0"), strides=(1,))
    keys = integers << np.uint64(64 - 8 * WINDOW)
    keys *= MULTIPLIER
    keys >>= np.uint64(64 - TABLE_BITS)
    return keys.view(np.int64)


def _is_apart(content: bytes, begin: int, end: int, needle: Needle) -> bool:
    """Return whether a match from `begin` to `end` stands alone; other matches may be coincidences.

    A number within a longer number or a hash does not stand alone, nor does a short word within a longer word.
    """
    before, after = content[max(begin - 2, 0) : begin], content[end : end + 2]
    text = needle.text
    if text.isdigit():
        is_open = not after[:1].isalnum() or (needle.is_date and after.isdigit())
        return (
            not before[-1:].isalnum()
            and is_open
            and not re.search(rb"\d\.\Z", before)
            and not re.match(rb"\.\d", after)
        )
    if re.fullmatch(r"[+-]?[\d.]+", text):
        return not re.search(rb"[\d.]\Z", before) and not re.match(rb"\.?\d", after)
    if text.isalnum() and not text.isalpha() and len(text) <= SHORT_MIXED:  # as in a hash by chance
        return not before[-1:].isalnum() and not after[:1].isalnum()
    if text.isalpha() and text.isascii() and len(text) < LONG_WORD:
        return not before[-1:].isalpha() and not after[:1].isalpha()
    return True
