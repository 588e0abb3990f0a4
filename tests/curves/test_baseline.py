"""Logistic regression on pixels: what a network has to beat."""

from pathlib import Path

import numpy as np
import pytest

from medvit.curves.baseline import regression_on_pixels
from medvit.curves.scores import value
from medvit.dataset.manifest import Facts, Manifest
from medvit.records import Row


@pytest.mark.parametrize("side", [12, 40])
def test_a_bright_half_is_found_in_images_of_any_size(tmp_path: Path, side: int) -> None:
    facts = Facts("halves", classes={"label": ("left", "right")})
    manifest = Manifest((), facts, tmp_path)
    generator, rows = np.random.default_rng(0), []
    for number in range(40):
        pixels = generator.normal(100, 20, (1, side, side))
        pixels[:, :, : side // 2] += 60 * (number % 2 == 0)
        pixels[:, :, side // 2 :] += 60 * (number % 2)
        digest = manifest.store.put(pixels.astype(np.int16))
        label = {"label": ("left", "right")[number % 2]}
        name = f"i-{number:02}"
        shape = (1, side, side)
        rows.append(Row(name, name, name, name, "MR", "image", "d", "train", shape, "int16", digest, labels=label))
    parts = [Manifest(tuple(rows[start::2][:10]), facts, tmp_path) for start in (0, 1)]
    mixed = [Manifest(tuple(rows[start : start + 10]), facts, tmp_path) for start in (0, 20)]
    assert value(regression_on_pixels(*mixed, "label", strength=1.0)) > 0.99
    assert len({row.labels["label"] for row in parts[0]}) == 1  # one class teaches nothing: refused by scikit-learn
    with pytest.raises(ValueError, match="class"):
        regression_on_pixels(*parts, "label", strength=1.0)
