"""Attributes as features: numbers, names, missing values and values that training images do not have."""

from __future__ import annotations

import pytest

from medvit.baselines.attributes import ATTRIBUTES, AttributeFeatures
from medvit.errors import DataError
from medvit.records import Row


def row(**attributes: str) -> Row:
    return Row("i", "p", "s", "q", "CT", "volume", "d", "train", (1, 2, 2, 2), "int16", "0", attributes=attributes)


def test_numbers_are_columns_and_names_have_one_column_a_value() -> None:
    rows = [row(age_years="40", sex="F", model="A"), row(age_years="60", sex="M", model="A")]
    encoding = AttributeFeatures.of(rows, ATTRIBUTES)
    assert encoding.names == ("age_years", "sex")  # all have the same model
    assert encoding(rows).tolist() == [[40, 1, 0], [60, 0, 1]]


def test_missing_numbers_are_the_mean_and_marked() -> None:
    rows = [row(age_years="40"), row(age_years="60"), row()]
    assert AttributeFeatures.of(rows, ATTRIBUTES)(rows).tolist() == [[40, 0], [60, 0], [50, 1]]


def test_a_value_that_training_images_lack_is_zero_everywhere() -> None:
    encoding = AttributeFeatures.of([row(sex="F"), row(sex="M"), row()], ATTRIBUTES)
    assert encoding([row(sex="O"), row()]).tolist() == [[0, 0, 0], [1, 0, 0]]


def test_a_label_can_be_used_like_an_attribute() -> None:
    rows = [
        Row("i", "p", "s", "q", "CT", "volume", "d", "train", (1, 2, 2, 2), "int16", "0", labels={"ward": name})
        for name in ("north", "south")
    ]
    assert AttributeFeatures.of(rows, ["ward"])(rows).tolist() == [[1, 0], [0, 1]]


def test_without_two_values_of_an_attribute_the_baseline_is_refused() -> None:
    with pytest.raises(DataError, match=r"name others with attributes=\[\.\.\.\]"):
        AttributeFeatures.of([row(sex="F"), row(sex="F")], ATTRIBUTES)
