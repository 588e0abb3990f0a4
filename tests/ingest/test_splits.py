"""A patient's split depends only on the patient, or on the official splits of the data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvit.errors import ConfigError
from medvit.ingest.splits import SplitConfig, assign, better_salt, split_of
from medvit.records import Candidate

CONFIG = SplitConfig()
Make = Callable[..., Candidate]


@given(st.lists(st.text(min_size=1), unique=True, min_size=2))
def test_adding_patients_moves_nobody(patients: list[str]) -> None:
    from medvit.records import Item, Patient

    all_of_them = [Candidate(Item("image", (), "image"), (name,), Patient(name)) for name in patients]
    some = all_of_them[::2]
    before = {one.patient: one.split for one in assign(some, CONFIG).candidates}
    after = {one.patient: one.split for one in assign(all_of_them, CONFIG).candidates}
    assert before.items() <= after.items()


def test_the_fractions_are_kept_within_every_class() -> None:
    counts = Counter(split_of(f"patient {n}", CONFIG) for n in range(20_000))
    assert counts["test"] / 20_000 == pytest.approx(0.2, abs=0.01)
    assert counts["val"] / 20_000 == pytest.approx(0.1, abs=0.01)


def test_the_splits_are_the_same_at_every_site_and_for_ever() -> None:
    found = " ".join(split_of(f"hippocampus_{n:03d}", CONFIG) for n in range(8))
    assert found == "test train train train train train train train"


def test_another_salt_divides_in_another_way() -> None:
    patients = [str(n) for n in range(100)]
    other = SplitConfig(salt=1)
    assert [split_of(p, CONFIG) for p in patients] != [split_of(p, other) for p in patients]


def test_a_patient_with_images_of_several_classes_is_in_one_split(candidate: Make) -> None:
    images = [
        candidate(f"{label}/{n}.png", patient=f"patient {n}", labels={"label": label})
        for n in range(50)
        for label in ("benign", "malignant")
    ]
    splits: dict[str, set[str | None]] = {}
    for one in assign(images, CONFIG).candidates:
        splits.setdefault(one.patient.id, set()).add(one.split)
    assert all(len(found) == 1 for found in splits.values())
    assert set.union(*splits.values()) == {"train", "val", "test"}


def test_official_splits_are_kept(candidate: Make) -> None:
    images = [candidate(f"{n}", split=split) for n, split in enumerate(["train", "val", "test"] * 20)]
    assert assign(images, CONFIG).candidates == tuple(images)


def test_a_validation_split_is_cut_from_the_official_training_split(candidate: Make) -> None:
    images = [candidate(f"{n}", split="train" if n % 2 else "test") for n in range(200)]
    assigned = assign(images, CONFIG).candidates
    assert {one.split for one in assigned if one.item.split == "train"} == {"train", "val"}
    assert {one.split for one in assigned if one.item.split == "test"} == {"test"}


def test_a_patient_of_two_official_splits_stays_in_the_more_protected_one(candidate: Make) -> None:
    images = [candidate("a", patient="Anna", split="train"), candidate("b", patient="Anna", split="test")]
    assignment = assign(images, CONFIG)
    assert [(one.paths, one.split) for one in assignment.candidates] == [(("b",), "test")]
    assert [refusal.code for refusal in assignment.refusals] == ["leakage"]
    assert "Anna" not in assignment.refusals[0].reason


def test_an_image_without_official_split_follows_its_patient(candidate: Make) -> None:
    images = [candidate(f"{n}", patient="Anna", split="test" if n == 0 else None) for n in range(5)]
    assert {one.split for one in assign(images, CONFIG).candidates} == {"test"}


def test_a_salt_is_offered_where_the_one_in_use_is_unlucky(candidate: Make) -> None:
    unlucky = [name for name in map(str, range(500)) if split_of(name, CONFIG) == "train"][:30]
    images = [candidate(name) for name in unlucky]
    salt = better_salt(images, CONFIG)
    assert salt is not None
    assert {split_of(name, SplitConfig(salt=salt)) for name in unlucky} == {"train", "val", "test"}
    assert better_salt(images, SplitConfig(salt=salt)) is None


@pytest.mark.parametrize("fractions", [{"val": 0.5, "test": 0.5}, {"test": 1.0, "val": 0.1}, {"val": -0.1}])
def test_fractions_that_leave_nothing_to_train_are_refused(fractions: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        SplitConfig.parse(fractions)


def test_patients_for_calibration_are_taken_from_training_alone() -> None:
    names = [f"patient {number}" for number in range(2000)]
    without, with_it = (
        [split_of(name, SplitConfig(val=0.1, test=0.2, calibration=share)) for name in names] for share in (0.0, 0.15)
    )
    moved = {pair for pair in zip(without, with_it, strict=True) if pair[0] != pair[1]}
    assert moved == {("train", "calibration")}
    assert with_it.count("calibration") / len(names) == pytest.approx(0.15, abs=0.03)
