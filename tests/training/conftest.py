"""Tiny datasets to train on: balls with masks, squares in two classes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medvit.dataset.manifest import Facts, Manifest
from medvit.geometry import Affine
from medvit.records import Row


def row(manifest: Manifest, number: int, split: str, voxels: np.ndarray, mask: np.ndarray | None, labels: dict) -> Row:
    name = f"i-{number}"
    volume = voxels.ndim == 4
    affine = Affine.from_spacing((1.0, 1.0, 1.0))
    return Row(
        name,
        f"p-{number}",
        name,
        name,
        "MR",
        "volume" if volume else "image",
        "tiny",
        split,
        voxels.shape,
        str(voxels.dtype),
        manifest.store.put(voxels),
        labels=labels,
        mask=None if mask is None else manifest.store.put(mask),
        spacing_mm=affine.spacing_mm if volume else None,
        affine=tuple(affine.matrix.ravel()) if volume else None,
    )


def dataset(folder: Path, *, ndim: int) -> Path:
    """Bright balls on noise with their masks in 3D; bright and dark squares as two classes in 2D."""
    folder.mkdir()
    facts = Facts(
        "tiny", classes={"label": ("dark", "bright")}, mask_classes=("background", "ball") if ndim == 3 else ()
    )
    manifest = Manifest((), facts, folder)
    generator = np.random.default_rng(0)
    rows = []
    for number in range(12):
        split = "val" if number % 3 == 0 else "train"
        noise = generator.normal(100, 10, (16,) * ndim)
        if ndim == 3:
            center = generator.uniform(5, 11, 3)
            inside = np.linalg.norm(np.indices(noise.shape).T - center, axis=-1).T < 4
            voxels, labels = noise + 80 * inside, {}
        else:
            inside = None
            voxels, labels = noise * (1 + number % 2), {"label": ("dark", "bright")[number % 2]}
        mask = None if inside is None else inside.astype(np.uint8)
        rows.append(row(manifest, number, split, voxels[None].astype(np.int16), mask, labels))
    Manifest(tuple(rows), facts, folder).write()
    return folder


def with_core(
    volumes: Path,
    folder: Path,
    classes: tuple[str, ...],
    *,
    num_test: int,
    is_without: Callable[[int], bool] = lambda number: False,
) -> Manifest:
    """A copy of the balls, not yet written, with a core; the first `num_test` are the test split.

    Label maps whose number `is_without` accepts lack the core.
    """
    manifest = Manifest.read(volumes)
    copied = replace(manifest, folder=folder, facts=replace(manifest.facts, mask_classes=classes))
    rows = []
    for number, row in enumerate(manifest):
        copied.store.link(manifest.store, row.sha256)
        mask = manifest.store.get(row.mask)
        mask[:, :, 8:] *= 1 if is_without(number) else 2
        split = "test" if number < num_test else row.split
        rows.append(replace(row, mask=copied.store.put(mask), split=split))
    return replace(copied, rows=tuple(rows))


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    return dataset(tmp_path_factory.mktemp("data") / "volumes", ndim=3)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return dataset(tmp_path_factory.mktemp("data") / "images", ndim=2)
