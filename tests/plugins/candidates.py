"""Small sources: images drawn by number, DICOM of phantoms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medvit.records import Candidate, Identity, Item, Patient, Split

Write = Callable[..., Path]


@pytest.fixture
def write_png(tmp_path: Path) -> Write:
    """Writes a gray image of 8 x 6 pixels, another one for every number, below `tmp_path/source`."""

    def write(path: str, number: int = 0) -> Path:
        file = tmp_path / "source" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (8, 6), dtype=np.uint8)
        Image.fromarray(pixels).save(file)
        return file

    return write


@pytest.fixture
def candidate() -> Callable[..., Candidate]:
    """A candidate made from its paths, without files."""

    def make(
        *paths: str, patient: str = "", split: Split | None = None, labels: Mapping[str, str] | None = None
    ) -> Candidate:
        item = Item("image", tuple(map(Path, paths)), "image", identity=Identity(patient=patient), split=split)
        return Candidate(item, paths, Patient(patient or paths[0], bool(patient)), labels or {}, split)

    return make
