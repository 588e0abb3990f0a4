"""Folders are classes only if nothing contradicts it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import pytest

from medvit.errors import DataError
from medvit.ingest.labels import _ordered, classes, from_folders, positive_classes
from medvit.records import Candidate, Row

Make = Callable[..., Candidate]


def labels(candidates: tuple[Candidate, ...]) -> set[str | None]:
    return {one.labels.get("label") for one in candidates}


def in_folders(candidate: Make, *folders: str, num_images: int = 5) -> list[Candidate]:
    return [candidate(f"{folder}/{n}.png") for folder in folders for n in range(num_images)]


@pytest.mark.parametrize("root", ["", "export/", "a/b/"])
def test_sibling_folders_of_images_are_classes(candidate: Make, root: str) -> None:
    images = in_folders(candidate, f"{root}benign", f"{root}malignant")
    assert labels(from_folders(images, "auto")) == {"benign", "malignant"}


def test_folders_of_splits_are_not_classes(candidate: Make) -> None:
    images = in_folders(candidate, "Training/glioma", "Training/none", "Testing/glioma", "Testing/none")
    assert labels(from_folders(images, "auto")) == {"glioma", "none"}


@pytest.mark.parametrize(
    "folders",
    [
        ("only-one",),
        ("images", "labels"),
        ("imagesTr", "imagesTs"),
        ("19630412", "19801224"),
        ("Miller^Anna", "Smith^John"),
        ("a/1", "a/2", "b"),
    ],
)
def test_folders_that_may_mean_something_else_are_not_taken(candidate: Make, folders: tuple[str, ...]) -> None:
    assert labels(from_folders(in_folders(candidate, *folders), "auto")) == {None}


def test_folders_of_one_patient_each_are_not_taken(candidate: Make) -> None:
    images = [candidate(f"{name}/{n}.dcm", patient=name) for name in ("anna", "john") for n in range(5)]
    assert labels(from_folders(images, "auto")) == {None}


def test_folders_of_a_few_images_are_not_taken(candidate: Make) -> None:
    assert labels(from_folders(in_folders(candidate, "a", "b", num_images=2), "auto")) == {None}


def test_folders_are_taken_on_demand_and_never_when_told_not_to(candidate: Make) -> None:
    images = in_folders(candidate, "a", "b", num_images=1)
    assert labels(from_folders(images, "folder")) == {"a", "b"}
    assert labels(from_folders(in_folders(candidate, "a", "b"), "off")) == {None}


def test_names_of_folders_that_are_not_utf8_stay_two_classes(candidate: Make) -> None:
    folders = ("d\udce9r", "d\udce8r", "benigne")
    found = from_folders([one for name in folders for one in in_folders(candidate, name)], "folder")
    assert labels(tuple(found)) == {"d%E9r", "d%E8r", "benigne"}


def row(label: str) -> Row:
    return Row("i", "p", "s", "e", "", "image", "x", "train", (1, 2, 2), "uint8", "0", labels={"label": label})


def test_classes_are_ordered_by_number_or_by_alphabet() -> None:
    assert classes(map(row, ["10", "9", "1"])) == {"label": ("1", "9", "10")}
    assert classes(map(row, ["b", "10", "a"])) == {"label": ("10", "a", "b")}


@pytest.mark.parametrize("names", [("nan", "1", "2"), ("inf", "1"), ("nan", "b", "10", "9")])
def test_the_order_of_classes_does_not_hang_on_the_order_of_rows(names: tuple[str, ...]) -> None:
    found = {_ordered(order) for order in permutations(names)}
    assert found == {tuple(sorted(names))}


def test_a_positive_class_is_found_in_its_label(candidate: Make) -> None:
    images = [candidate("a", labels={"finding": "cancer", "grade": "1"}), candidate("b", labels={"finding": "normal"})]
    images.append(candidate("c", labels={"grade": "2", "side": "cancer"}))
    assert positive_classes(images[:2], "cancer") == positive_classes(images, {"finding": "cancer"})
    assert positive_classes(images, "") == {}
    for positive, message in (
        ("cancer", r"2 labels have such a class \(finding, side\)"),
        ("tumor", "no label has such a class"),
        ({"stage": "1"}, "'1' of the label 'stage'; expected one of two classes: found finding, grade, side"),
        ({"finding": "tumor"}, "expected one of two classes: it has cancer, normal"),
    ):
        with pytest.raises(DataError, match=message):
            positive_classes(images, positive)
