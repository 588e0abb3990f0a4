"""Phantoms drawn once: the same patients serve hundreds of tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np
import pytest

from medvit import phantoms

KEPT = {"_patient": 64, "_radiograph": 64, "_eye": 32, "_slide": 8}
"""How many of each kind of phantom a worker keeps, by the function that draws it."""


@pytest.fixture(scope="session", autouse=True)
def drawn_once() -> Iterator[None]:
    """Keep the phantoms that are drawn, read-only."""
    with pytest.MonkeyPatch.context() as patched:
        for name, size in KEPT.items():
            patched.setattr(phantoms, name, lru_cache(size)(_read_only(getattr(phantoms, name))))
        yield


def _read_only(draw: Callable[..., tuple[object, object]]) -> Callable[..., tuple[object, object]]:
    def drawn(*arguments: int | str) -> tuple[object, object]:
        drawing = draw(*arguments)
        for part in drawing:
            for value in (part, *getattr(part, "__dict__", {}).values()):
                if isinstance(value, np.ndarray):
                    value.flags.writeable = False
        return drawing

    return drawn
