"""The positive class of two is the one that was given, with a note if none was."""

from __future__ import annotations

import pytest

from medvit.errors import ConfigError
from medvit.evaluation.positive import choose_positive

CLASSES = ("cancer", "normal")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"asked": "cancer", "model": "normal", "dataset": "normal"}, "cancer"),
        ({"worst": "cancer", "model": "normal"}, "cancer"),
        ({"model": "cancer", "dataset": "normal"}, "cancer"),
        ({"dataset": "cancer"}, "cancer"),
    ],
)
def test_who_said_it_last_decides(given: dict[str, str], expected: str) -> None:
    nothing = dict.fromkeys(("asked", "worst", "model", "dataset"), "")
    assert choose_positive(CLASSES, **(nothing | given)) == (expected, [])


def test_where_nobody_said_the_last_is_taken_with_a_note() -> None:
    positive, (note,) = choose_positive(CLASSES, asked="", worst="", model="", dataset="")
    assert positive == "normal"
    assert "refer to normal" in note
    assert "positive=cancer" in note


@pytest.mark.parametrize(("classes", "asked"), [(CLASSES, "tumor"), (("a", "b", "c"), "a"), ((), "a")])
def test_what_is_not_one_of_two_classes_is_refused(classes: tuple[str, ...], asked: str) -> None:
    with pytest.raises(ConfigError, match=f"positive={asked} is not one of two classes"):
        choose_positive(classes, asked=asked, worst="", model="", dataset="")


def test_an_order_that_says_another_is_refused() -> None:
    with pytest.raises(ConfigError, match="normal is the worst of order"):
        choose_positive(CLASSES, asked="cancer", worst="normal", model="", dataset="")
