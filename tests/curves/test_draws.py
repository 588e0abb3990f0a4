"""Draws of labeled patients: nested, by class, and repeatable; amounts in order and within the pool."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvit.curves.amounts import ALL, num_labeled, parse_amount, patients_by_amount, tuned_amount
from medvit.curves.draws import classes_by_rarity, ordered_patients, patient_classes
from medvit.errors import ConfigError
from medvit.records import Row

AMOUNTS = (0.01, 0.1, 0.5, ALL, 3, 7)


def image(patient: str, label: str) -> Row:
    return Row("i", patient, "s", "s", "MR", "image", "d", "train", (1, 4, 4), "uint8", "0", labels={"label": label})


def drawn(classes: dict[str, str], number: int, seed: int) -> set[str]:
    counts = Counter(classes.values())
    rarity = sorted(counts, key=lambda name: (counts[name], name))
    return set(ordered_patients({patient: {name} for patient, name in classes.items()}, rarity, seed=seed)[:number])


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(8, 40), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_smaller_draws_are_within_larger_ones_and_have_every_class_in_its_share(sizes: list[int], seed: int) -> None:
    classes = {f"{name}-{number}": str(name) for name, size in enumerate(sizes) for number in range(size)}
    numbers = {amount: num_labeled(amount, len(classes), len(sizes)) for amount in AMOUNTS}
    draws = {amount: drawn(classes, number, seed) for amount, number in numbers.items()}
    ordered = sorted(draws.values(), key=len)
    assert all(smaller <= larger for smaller, larger in pairwise(ordered))
    assert draws[ALL] == set(classes)
    for patients in draws.values():
        counts = Counter(classes[patient] for patient in patients)
        assert set(counts) == set(classes.values())
        for name, size in Counter(classes.values()).items():
            assert abs(counts[name] - len(patients) * size / len(classes)) <= 1 + len(sizes) / 2
    assert len(draws[7]) == max(7, len(sizes))


def test_a_draw_is_that_of_its_seed() -> None:
    classes = {str(number): "" for number in range(100)}
    one, again, other = (drawn(classes, 10, seed) for seed in (3, 3, 4))
    assert one == again != other


@settings(max_examples=50, deadline=None)
@given(
    patients=st.lists(st.sets(st.sampled_from("abcd"), min_size=1), min_size=4, max_size=20), seed=st.integers(0, 99)
)
def test_the_smallest_draw_covers_every_class_of_patients_with_several(patients: list[set[str]], seed: int) -> None:
    rows = [image(str(number), label) for number, labels in enumerate(patients) for label in sorted(labels)]
    classes, rarity = patient_classes(rows, "label"), classes_by_rarity(rows, "label")
    first = ordered_patients(classes, rarity, seed=seed)[: len(rarity)]
    assert set().union(*(classes[patient] for patient in first)) == set(rarity)


def test_classes_are_counted_by_images() -> None:
    rows = [image("a", "common"), image("a", "rare"), image("b", "common"), image("c", "common")]
    assert patient_classes(rows, "label") == {"a": {"common", "rare"}, "b": {"common"}, "c": {"common"}}
    assert classes_by_rarity(rows, "label") == ["rare", "common"]


@pytest.mark.parametrize(("given", "amount"), [("1", 1), (2, 2), ("0.05", 0.05), (0.5, 0.5), ("all", ALL)])
def test_an_amount_is_a_fraction_a_number_or_all(given: object, amount: object) -> None:
    assert parse_amount(given) == amount
    assert type(parse_amount(given)) is type(amount)


@pytest.mark.parametrize("given", ["1.0", 1.0, 0, "-1", "2.5", "few", "nan"])
def test_another_amount_is_refused(given: object) -> None:
    with pytest.raises(ValueError, match="expected a fraction below 1, a whole number of patients, or all"):
        parse_amount(given)


def test_amounts_are_ordered_by_patients_and_stay_within_the_pool() -> None:
    ordered = patients_by_amount([ALL, 0.5, 3, 0.01], 20, 2)
    assert list(ordered.items()) == [(0.01, 2), (3, 3), (0.5, 10), (ALL, 20)]
    assert tuned_amount(ALL, ordered) == 0.5
    assert tuned_amount(3, ordered) == 3
    with pytest.raises(ConfigError, match="labeled=5 asks for more than the 4 labeled training patients"):
        patients_by_amount([5], 4, 1)
    with pytest.raises(ConfigError, match="labeled=4 is all of the 4 labeled training patients"):
        patients_by_amount([2, 4], 4, 1)
    with pytest.raises(ConfigError, match=r"labeled=0\.01 and labeled=2 are both 2 patients"):
        patients_by_amount([0.01, 2], 20, 2)
