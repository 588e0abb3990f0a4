"""Images are dropped only on request and then listed; the test split has priority."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import pytest

from medvit.ingest.curation import CurationConfig, curate
from medvit.records import Candidate, Split, Taken

Make = Callable[..., Candidate]
TAKEN = Taken("a", (1, 8, 8), "uint8", "MR", None, 0, None, None, None, 1.0, 0.0, "", flags=())


def group(candidate: Make, *members: tuple[str, Split, str]) -> tuple[list[Candidate], dict[str, Taken]]:
    """Candidates (path, split, label), all with the same pixels."""
    made = [candidate(path, split=split, labels={"label": label}) for path, split, label in members]
    return made, {one.key: TAKEN for one in made}


def kept(candidates: list[Candidate], taken: dict[str, Taken], duplicates: str = "drop") -> set[str]:
    curated = curate(candidates, taken, CurationConfig(duplicates=duplicates))
    assert {one.key for one in curated.candidates} == set(curated.taken)
    assert len(curated.candidates) + len(curated.refusals) == len(candidates)
    return {one.key for one in curated.candidates}


def test_by_default_every_copy_stays_and_is_told_of(candidate: Make, caplog: pytest.LogCaptureFixture) -> None:
    made, taken = group(candidate, ("0.png", "train", "a"), ("1.png", "test", "b"), ("2.png", "train", "a"))
    with caplog.at_level(logging.INFO, "medvit"):
        assert kept(made, taken, "keep") == {"0.png", "1.png", "2.png"}
    assert "identical pixels: 1, of 3 images" in caplog.text
    assert "in several splits: 1; curation.duplicates=drop" in caplog.text
    assert "with different labels: 1" in caplog.text


@pytest.mark.parametrize(
    ("splits", "stays"),
    [(("train", "test"), {"1"}), (("val", "train"), {"0"}), (("val", "test"), {"1"}), (("train", "train"), {"0"})],
)
def test_of_copies_the_most_protected_stays(candidate: Make, splits: tuple[Split, Split], stays: set[str]) -> None:
    assert kept(*group(candidate, *((str(n), split, "a") for n, split in enumerate(splits)))) == stays


def test_dropped_copies_are_listed_with_their_reason(candidate: Make) -> None:
    made, taken = group(candidate, ("0", "train", "a"), ("1", "test", "a"), ("2", "test", "a"))
    refusals = curate(made, taken, CurationConfig(duplicates="drop")).refusals
    assert {(refusal.code, refusal.files[0].name) for refusal in refusals} == {("leakage", "0"), ("duplicate", "2")}
    assert "the test split has the same pixels" in next(r.reason for r in refusals if r.code == "leakage")


def test_copies_that_contradict_each_other_both_stay_in_their_split(candidate: Make) -> None:
    assert kept(*group(candidate, ("0", "train", "a"), ("1", "train", "b"), ("2", "train", "b"))) == {"0", "1"}


def test_copies_with_other_label_maps_stay(candidate: Make) -> None:
    made, taken = group(candidate, ("0", "train", "a"), ("1", "train", "a"))
    taken["1"] = replace(TAKEN, mask="m")
    assert kept(made, taken) == {"0", "1"}


def test_constant_images_are_no_copies(candidate: Make) -> None:
    made, taken = group(candidate, ("0", "train", "a"), ("1", "test", "a"))
    assert kept(made, {key: replace(one, flags=("constant",)) for key, one in taken.items()}) == {"0", "1"}


def test_images_that_could_not_be_read_are_passed_over(candidate: Make) -> None:
    made, taken = group(candidate, ("0", "train", "a"), ("1", "train", "a"))
    del taken["1"]
    assert len(curate(made, taken, CurationConfig(duplicates="drop")).refusals) == 0


def test_attributes_are_left_out_when_asked(candidate: Make) -> None:
    made, taken = group(candidate, ("0", "train", "a"))
    known = {key: replace(one, attributes={"sex": "F"}) for key, one in taken.items()}
    assert curate(made, known, CurationConfig()).taken["0"].attributes == {"sex": "F"}
    assert curate(made, known, CurationConfig(attributes=False)).taken["0"].attributes == {}
