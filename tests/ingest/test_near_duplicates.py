"""Patients whose images are near duplicates fall into one split, unless the source itself keeps them apart."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medvit.dataset.manifest import Manifest
from medvit.ingest.splits import SplitConfig, assign
from medvit.leakage import find_overlaps
from medvit.records import Candidate
from pipelines.ingest import IngestConfig, ingest
from tests.leakage.test_second_look import texture

Make = Callable[..., Candidate]
CONFIG = SplitConfig(keep_together="near_duplicates")
NUM_PAIRS = 5


def test_joined_patients_share_the_split_of_one_of_them(candidate: Make) -> None:
    images = [candidate(f"{n}.png", patient=f"p{n}") for n in range(400)]
    joined = {f"p{n}": f"p{n // 2 * 2}" for n in range(200)}
    splits = {one.patient.id: one.split for one in assign(images, CONFIG, joined).candidates}
    alone = {one.patient.id: one.split for one in assign(images, CONFIG).candidates}
    assert all(splits[f"p{n}"] == splits[f"p{n + 1}"] == alone[f"p{n}"] for n in range(0, 200, 2))
    assert all(splits[f"p{n}"] == alone[f"p{n}"] for n in range(200, 400))


def test_official_splits_stay_and_others_follow_those_they_are_joined_with(candidate: Make) -> None:
    images = [
        candidate("0", patient="a", split="test"),
        candidate("1", patient="b"),
        candidate("2", patient="c", split="train"),
        candidate("3", patient="d", split="val"),
    ]
    splits = [one.split for one in assign(images, CONFIG, dict.fromkeys("abc", "c")).candidates]
    assert splits == ["test", "test", "train", "val"]


def test_a_validation_split_cut_from_an_official_one_takes_joined_patients_whole(candidate: Make) -> None:
    images = [candidate(f"{n}", patient=f"p{n}", split="train" if n else "test") for n in range(200)]
    joined = {f"p{n}": f"p{n // 2 * 2}" for n in range(2, 200)}
    splits = {one.patient.id: one.split for one in assign(images, CONFIG, joined).candidates}
    assert all(splits[f"p{n}"] == splits[f"p{n + 1}"] for n in range(2, 200, 2))
    assert set(splits.values()) == {"train", "val", "test"}


def write_pairs(source: Path, *folders: str, first: int = 0) -> None:
    """Pictures that each have a near duplicate, shifted, cropped or brighter, and are patients of their own."""
    for number in range(first, first + NUM_PAIRS):
        whole = texture(number, 168)[0]
        changed = (whole[4:164, 2:162], whole[:160], np.minimum(whole * 1.2, 255).astype(np.uint8))[number % 3]
        for folder, name, pixels in zip(folders, ("one", "other"), (whole, changed), strict=True):
            (source / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(source / folder / f"{number}-{name}.png")


def made(folder: Path, name: str, **options: object) -> Manifest:
    defaults = {"source": folder / "source", "dataset": folder / name, "key": folder / "site.key", "name": "test"}
    return ingest(IngestConfig.parse({**defaults, "tracking": {"enabled": False}, **options}))


def crossing(manifest: Manifest) -> int:
    return sum(overlap.crosses for overlap in find_overlaps({"": manifest}, ("pixel", "perceptual")))


TOGETHER = {"val": 0.2, "test": 0.4, "keep_together": "near_duplicates"}


def test_no_near_duplicates_cross_the_splits_of_a_dataset_also_after_an_update(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_pairs(tmp_path / "source", "", "")
    assert crossing(made(tmp_path, "apart", splits={"val": 0.2, "test": 0.4})) > 0
    with caplog.at_level(logging.INFO, "medvit"):
        whole = made(tmp_path, "whole", splits=TOGETHER)
    assert crossing(whole) == 0
    assert "near duplicates: 10 images of 10 patients, joined into 5 groups" in caplog.text
    write_pairs(tmp_path / "source", "more", "", first=NUM_PAIRS)
    updated = made(tmp_path, "updated", splits=TOGETHER, update=tmp_path / "whole")
    assert (len(updated), crossing(updated)) == (4 * NUM_PAIRS, 0)
    splits = {row.image_id: row.split for row in updated}
    assert all(splits[row.image_id] == row.split for row in whole)


def test_near_duplicates_in_splits_of_the_source_are_reported_and_stay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_pairs(tmp_path / "source", "train", "test")
    manifest = made(tmp_path, "dataset", splits=TOGETHER)
    assert Counter(row.split == "test" for row in manifest) == {True: NUM_PAIRS, False: NUM_PAIRS}
    assert f"the official splits of the source separate {NUM_PAIRS} groups of patients" in caplog.text
