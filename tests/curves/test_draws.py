"""Draws of labeled patients: nested, by class, and repeatable."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvit.curves.draws import nested_draws, patient_classes
from medvit.errors import ConfigError
from medvit.records import Row

AMOUNTS = (0.01, 0.1, 0.5, 1.0, 3, 7)


def image(patient: str, label: str) -> Row:
    return Row("i", patient, "s", "s", "MR", "image", "d", "train", (1, 4, 4), "uint8", "0", labels={"label": label})


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(8, 40), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_smaller_draws_are_within_larger_ones_and_have_every_class_in_its_share(sizes: list[int], seed: int) -> None:
    classes = {f"{name}-{number}": str(name) for name, size in enumerate(sizes) for number in range(size)}
    draws = nested_draws(classes, AMOUNTS, seed=seed)
    ordered = sorted(draws.values(), key=len)
    assert all(smaller <= larger for smaller, larger in pairwise(ordered))
    assert draws[1.0] == set(classes)
    for drawn in draws.values():
        counts = Counter(classes[patient] for patient in drawn)
        assert set(counts) == set(classes.values())
        for name, size in Counter(classes.values()).items():
            assert abs(counts[name] - len(drawn) * size / len(classes)) <= 1 + len(sizes) / 2
    assert len(draws[7]) == max(7, len(sizes))


def test_a_draw_is_that_of_its_seed() -> None:
    classes = {str(number): "" for number in range(100)}
    one, again, other = (nested_draws(classes, (0.1,), seed=seed)[0.1] for seed in (3, 3, 4))
    assert one == again != other


def test_a_patient_counts_for_its_rarest_class() -> None:
    rows = [image("a", "common"), image("a", "rare"), image("b", "common"), image("c", "common")]
    assert patient_classes(rows, "label") == {"a": "rare", "b": "common", "c": "common"}


def test_more_patients_than_there_are_cannot_be_drawn() -> None:
    with pytest.raises(ConfigError, match="labeled=5 asks for more than the 4 labeled training patients"):
        nested_draws(dict.fromkeys("abcd", ""), (5,), seed=0)
