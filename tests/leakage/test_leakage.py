"""Overlap of splits and datasets is found, reported by its kind, and shown."""

from __future__ import annotations

import csv
import logging
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medvit.dataset.manifest import Facts, Manifest
from medvit.dataset.store import Store
from medvit.evaluation.caveats import near_duplicates_in_training
from medvit.leakage import CHECKS, Groups, Overlap, find_copies, find_overlaps, report
from medvit.leakage.perceptual_hash import hash_image
from medvit.records import Row
from tests.leakage.test_second_look import texture


def picture(number: int, side: int = 120) -> np.ndarray:
    """Blobs at random places, (1, H, W) of 8 bits."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[:side, :side] / side
    blobs = sum(
        np.exp(-((y - rng.random()) ** 2 + (x - rng.random()) ** 2) / rng.uniform(2e-3, 2e-2)) for _ in range(9)
    )
    return (blobs / blobs.max() * 255).astype(np.uint8)[None]


def row(folder: Path, number: int, pixels: np.ndarray, **changes: object) -> Row:
    """An image of a patient of its own, its pixels in the store of the folder."""
    plain = Row(
        image_id=f"i-{number}",
        patient_id=f"p-{number}",
        study_id=f"s-{number}",
        series_id=f"e-{number}",
        modality="MR",
        kind="image",
        dataset="toy",
        split="train",
        shape=pixels.shape,
        dtype=pixels.dtype.name,
        sha256=Store(folder / "images").put(pixels),
        labels={"label": "no"},
        flags=(),
        perceptual_hash=hash_image(pixels),
    )
    return replace(plain, **changes)


def dataset(folder: Path, *rows: Row, name: str = "toy") -> Manifest:
    return Manifest(rows, Facts(name), folder)


def found(overlaps: tuple[Overlap, ...]) -> list[tuple[str, bool, list[str]]]:
    return [(o.check, o.crosses, sorted(member.row.image_id for member in o.members)) for o in overlaps]


def noisy(pixels: np.ndarray) -> np.ndarray:
    return np.clip(pixels + np.random.default_rng(0).normal(0, 5, pixels.shape), 0, 255).astype(np.uint8)


def test_a_clean_dataset_has_none(tmp_path: Path) -> None:
    rows = [row(tmp_path, n, picture(n), split=split) for n, split in enumerate(("train", "val", "test"))]
    assert find_overlaps({"": dataset(tmp_path, *rows)}) == ()


def test_patients_and_studies_in_two_splits_are_found(tmp_path: Path) -> None:
    rows = [
        row(tmp_path, 0, picture(0), patient_id="p", study_id="s"),
        row(tmp_path, 1, picture(1), patient_id="p", study_id="s"),
        row(tmp_path, 2, picture(2), patient_id="p", split="test"),
        row(tmp_path, 3, picture(3), study_id="s", split="val"),
        row(tmp_path, 4, picture(4), patient_id="q"),
        row(tmp_path, 5, picture(5), patient_id="q"),
    ]
    assert found(find_overlaps({"": dataset(tmp_path, *rows)})) == [
        ("patient", True, ["i-0", "i-1", "i-2"]),
        ("study", True, ["i-0", "i-1", "i-3"]),
    ]


def test_identical_pixels_and_files_are_grouped_wherever_they_lie(tmp_path: Path) -> None:
    rows = [
        row(tmp_path, 0, picture(0), file_sha256="f"),
        row(tmp_path, 1, picture(0), file_sha256="f"),
        row(tmp_path, 2, picture(1), split="test"),
        row(tmp_path, 3, picture(1)),
    ]
    assert found(find_overlaps({"": dataset(tmp_path, *rows)})) == [
        ("file", False, ["i-0", "i-1"]),
        ("pixel", True, ["i-2", "i-3"]),
        ("pixel", False, ["i-0", "i-1"]),
    ]


def test_lookalikes_are_one_group_with_their_copies(tmp_path: Path) -> None:
    one, other = picture(0), noisy(picture(0))
    rows = [row(tmp_path, n, pixels) for n, pixels in enumerate((one, other, one, picture(7)))]
    (overlap,) = find_overlaps({"": dataset(tmp_path, *rows)}, ["perceptual"])
    assert [member.row.image_id for member in overlap.members] == ["i-0", "i-1", "i-2"]
    assert 0 <= overlap.distance <= 20


@pytest.mark.parametrize("turn", ["mirrored", "upside down", "turned", "turned back", "transposed"])
def test_a_copy_that_was_turned_is_a_lookalike(turn: str, tmp_path: Path) -> None:
    turns = {
        "mirrored": lambda p: p[:, :, ::-1],
        "upside down": lambda p: p[:, ::-1],
        "turned": lambda p: np.rot90(p, 1, (1, 2)),
        "turned back": lambda p: np.rot90(p, 3, (1, 2)),
        "transposed": lambda p: p.transpose(0, 2, 1),
    }
    copy = np.ascontiguousarray(turns[turn](noisy(picture(0))))
    rows = [row(tmp_path, 0, picture(0)), row(tmp_path, 1, picture(1)), row(tmp_path, 2, copy, split="test")]
    (overlap,) = find_overlaps({"": dataset(tmp_path, *rows)})
    assert found((overlap,)) == [("perceptual", True, ["i-0", "i-2"])]
    assert overlap.is_turned


def test_a_mirrored_volume_is_a_lookalike(tmp_path: Path) -> None:
    one = np.stack([picture(n // 4, 40)[0] for n in range(24)], axis=-1)[None].astype(np.int16)
    copy = np.ascontiguousarray(one[:, ::-1]) * 2
    rows = [row(tmp_path, n, pixels, kind="volume") for n, pixels in enumerate((one, copy))]
    (overlap,) = find_overlaps({"": dataset(tmp_path, *rows)})
    assert overlap.is_turned


def test_a_near_hash_of_other_pixels_is_no_lookalike(tmp_path: Path) -> None:
    rows = [row(tmp_path, 0, picture(0)), row(tmp_path, 1, picture(1), perceptual_hash=hash_image(picture(0)))]
    assert find_overlaps({"": dataset(tmp_path, *rows)}) == ()


def test_constant_images_have_nothing_in_common(tmp_path: Path) -> None:
    blank = np.zeros((1, 20, 20), np.uint8)
    rows = [row(tmp_path, n, blank, flags=("constant",), split=s) for n, s in enumerate(("train", "test"))]
    assert find_overlaps({"": dataset(tmp_path, *rows)}) == ()


@pytest.mark.parametrize("earlier", [None, "ab" * 32])
def test_an_older_dataset_without_such_hashes_is_hashed_anew(earlier: str | None, tmp_path: Path) -> None:
    rows = [
        row(tmp_path, n, p, flags=None, perceptual_hash=earlier) for n, p in enumerate((picture(0), noisy(picture(0))))
    ]
    assert [overlap.check for overlap in find_overlaps({"": dataset(tmp_path, *rows)})] == ["perceptual"]


def test_two_datasets_share_patients_and_pixels_in_any_split(tmp_path: Path) -> None:
    a = dataset(tmp_path / "a", row(tmp_path / "a", 0, picture(0), patient_id="p"))
    b = dataset(tmp_path / "b", row(tmp_path / "b", 1, picture(0), patient_id="p"))
    overlaps = find_overlaps({"a": a, "b": b})
    assert found(overlaps) == [("patient", True, ["i-0", "i-1"]), ("pixel", True, ["i-0", "i-1"])]
    assert overlaps[0].places == ("a train", "b train")
    assert report.hits(overlaps)[1] == "identical pixels: 1 group in a train + b train"


def test_lookalikes_across_splits_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [row(tmp_path, 0, picture(0)), row(tmp_path, 1, noisy(picture(0)), split="test")]
    with caplog.at_level(logging.WARNING, "medvit"):
        find_copies(dataset(tmp_path, *rows))
    assert "near duplicates in several splits: 1" in caplog.text


def test_links_of_links_are_one_group_with_the_largest_distance() -> None:
    groups = Groups(6)
    groups.join(0, 1, 3)
    groups.join(3, 4, 9)
    groups.join(1, 4, 5)
    assert groups.are_joined(0, 3)
    assert not groups.are_joined(0, 2)
    assert list(groups.found()) == [([0, 1, 3, 4], 9)]


def test_the_report_lists_every_image_and_stands_alone(tmp_path: Path) -> None:
    rows = [
        row(tmp_path, 0, picture(0), patient_id="p"),
        row(tmp_path, 1, noisy(picture(0)), split="test", patient_id="p"),
        row(tmp_path, 2, picture(3)),
        row(tmp_path, 3, picture(3), labels={}),
    ]
    manifests = {"": dataset(tmp_path, *rows)}
    overlaps = find_overlaps(manifests)
    report.write(tmp_path, manifests, overlaps, CHECKS)
    page = (tmp_path / "leakage.html").read_text(encoding="utf-8")
    assert "2 groups of images cross splits or datasets." in page
    assert page.count("data:image/png;base64,") == 3
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    lines = list(csv.DictReader((tmp_path / "hits.csv").open(encoding="utf-8")))
    assert [(line["check"], line["crosses"], line["image_id"]) for line in lines] == [
        ("patient", "true", "i-1"),
        ("patient", "true", "i-0"),
        ("pixel", "false", "i-2"),
        ("pixel", "false", "i-3"),
        ("perceptual", "true", "i-1"),
        ("perceptual", "true", "i-0"),
    ]
    assert report.summary(overlaps, CHECKS).lines == [
        ["same patient", 1, 1, 2],
        ["same study", 0, 0, 0],
        ["identical files", 0, 0, 0],
        ["identical pixels", 1, 0, 0],
        ["near duplicates", 1, 1, 2],
    ]


def test_a_report_without_a_hit_says_so(tmp_path: Path) -> None:
    manifests = {"": dataset(tmp_path, row(tmp_path, 0, picture(0), patient_is_assumed=True))}
    report.write(tmp_path, manifests, find_overlaps(manifests), CHECKS)
    page = (tmp_path / "leakage.html").read_text(encoding="utf-8")
    assert "Nothing crosses." in page
    assert "toy: 1 of 1 patient is assumed" in page, "patients that nothing names may cross unseen"


def test_a_copy_shifted_by_a_few_pixels_is_a_lookalike_though_its_hash_is_far(tmp_path: Path) -> None:
    whole = texture(1, 340)
    one, other = np.ascontiguousarray(whole[:, :320, :320]), np.ascontiguousarray(whole[:, 3:323, 5:325])
    rows = [
        row(tmp_path, 0, one),
        row(tmp_path, 1, other, split="test"),
        row(tmp_path, 2, texture(2)),
        row(tmp_path, 3, texture(3)),
    ]
    (overlap,) = find_overlaps({"": dataset(tmp_path, *rows)})
    assert found((overlap,)) == [("perceptual", True, ["i-0", "i-1"])]


def test_an_evaluation_counts_the_images_that_have_near_duplicates_in_training(tmp_path: Path) -> None:
    pixels = [texture(1), noisy(texture(1)), texture(1), texture(2), texture(3)]
    splits = ("train", "test", "test", "test", "val")
    rows = [row(tmp_path, n, p, split=s) for n, (p, s) in enumerate(zip(pixels, splits, strict=True))]
    whole, alone = dataset(tmp_path, *rows), dataset(tmp_path, *rows[3:])
    (note,) = near_duplicates_in_training(whole, whole.split("test"), "test")
    assert note.startswith("2 of 3 evaluated images have copies or near duplicates in the train split")
    assert near_duplicates_in_training(alone, alone.split("test"), "test") == []


def test_a_cropped_copy_is_a_lookalike_among_many_images(tmp_path: Path) -> None:
    several = [texture(n) // 2 + picture(n, 320) // 2 for n in range(12)]
    whole = several[0]
    rows = [row(tmp_path, n, pixels, split="test") for n, pixels in enumerate(several) if n > 1]
    rows += [row(tmp_path, 0, whole), row(tmp_path, 1, np.ascontiguousarray(whole[:, 12:, :304]), split="test")]
    (overlap,) = find_overlaps({"": dataset(tmp_path, *rows)})
    assert found((overlap,)) == [("perceptual", True, ["i-0", "i-1"])]
    assert find_overlaps({"": dataset(tmp_path, *rows)}, max_distance=0) == ()
