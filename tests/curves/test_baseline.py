"""Logistic regression on pixels: what a network has to beat."""

from dataclasses import replace
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


def test_named_channels_are_put_in_order_and_missing_ones_are_zero(tmp_path: Path) -> None:
    """The label shows in T2 alone, which is stored first in every second image."""
    facts = Facts("halves", classes={"label": ("left", "right")})
    manifest = Manifest((), facts, tmp_path)
    generator, rows = np.random.default_rng(0), []
    for number in range(40):
        t1, t2 = generator.normal(100, 20, (2, 12, 12))
        t2[:, :6] += 60 * (number % 2)
        pixels = {"T2": t2, "T1": t1} if number // 2 % 2 else {"T2": t2} if number // 4 % 2 else {"T1": t1, "T2": t2}
        stored = np.stack(list(pixels.values())).astype(np.int16)
        label = {"label": ("left", "right")[number % 2]}
        name, attributes = f"i-{number:02}", {"channels": "+".join(pixels)}
        digest = manifest.store.put(stored)
        row = Row(name, name, name, name, "MR", "image", "d", "train", stored.shape, "int16", digest, labels=label)
        rows.append(replace(row, attributes=attributes))
    known, asked = (Manifest(tuple(part), facts, tmp_path) for part in (rows[:20], rows[20:]))
    assert value(regression_on_pixels(known, asked, "label", strength=1.0)) > 0.99
