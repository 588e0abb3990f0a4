"""Phantoms drawn once: the same patients serve hundreds of tests."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medvit import phantoms
from medvit.geometry import Affine

KEPT = {"_patient": 64, "_radiograph": 64, "_eye": 32, "_slide": 8}
"""Number of phantoms that a worker keeps in memory, by the function that draws them."""

Drawing = tuple[object, object]


@pytest.fixture(scope="session", autouse=True)
def drawn_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the phantoms that are drawn, read-only, in files that all workers of this run share; and CT series as bytes.

    A test of the drawing asks for `drawn_anew`.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    folder = folder / "phantoms"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patched:
        for name, size in KEPT.items():
            draw = _shared(getattr(phantoms, name), folder)
            patched.setattr(phantoms, name, lru_cache(size)(_read_only(draw)))
        patched.setattr(phantoms, "write_ct_series", _written_once(phantoms.write_ct_series))
        yield


@pytest.fixture
def drawn_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw phantoms each time, for tests of the drawing."""
    for name in (*KEPT, "write_ct_series"):
        monkeypatch.setattr(phantoms, name, getattr(phantoms, name).own)


def _shared(draw: Callable[..., Drawing], folder: Path) -> Callable[..., Drawing]:
    def drawn(*arguments: int | str) -> Drawing:
        kept = folder / f"{draw.__name__}-{'-'.join(map(str, arguments))}.pickle"
        if not kept.exists():
            new = kept.with_suffix(f".{os.getpid()}")
            new.write_bytes(pickle.dumps(draw(*arguments)))
            new.rename(kept)
        drawing: Drawing = pickle.loads(kept.read_bytes())
        return drawing

    drawn.own = draw  # type: ignore[attr-defined]
    return drawn


def _read_only(draw: Any) -> Callable[..., Drawing]:
    def drawn(*arguments: int | str) -> Drawing:
        drawing: Drawing = draw(*arguments)
        for part in drawing:
            for value in (part, *getattr(part, "__dict__", {}).values()):
                if isinstance(value, np.ndarray):
                    value.flags.writeable = False
        return drawing

    drawn.own = draw.own  # type: ignore[attr-defined]
    return drawn


def _written_once(write: Callable[..., list[Path]]) -> Callable[..., list[Path]]:
    kept: dict[object, list[tuple[str, bytes]]] = {}

    def written(folder: Path, hu: np.ndarray, affine: Affine, **options: object) -> list[Path]:
        series = hu.tobytes(), hu.shape, affine.matrix.tobytes(), *options.items()
        if series not in kept:
            kept[series] = [(path.name, path.read_bytes()) for path in write(folder, hu, affine, **options)]
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in kept[series]:
            (folder / name).write_bytes(content)
        return [folder / name for name, _ in kept[series]]

    written.own = write  # type: ignore[attr-defined]
    return written
