"""The positive one of two classes: who names it, and its index."""

from __future__ import annotations

from collections.abc import Sequence

from medvit.errors import ConfigError


def choose_positive(
    classes: Sequence[str], *, asked: str, worst: str, model: str, dataset: str
) -> tuple[str, list[str]]:
    """Return which of two classes is positive, and a note where nobody said; empty of other numbers of classes.

    That is what the user `asked` for, else the `worst` of an order, else what the `model` or the `dataset` remembers.

    Raises:
        ConfigError: If there are not two classes, or none of this name, or order and positive differ.
    """
    if asked and (len(classes) != 2 or asked not in classes):
        raise ConfigError(f"positive={asked} is not one of two classes; the model has {', '.join(classes)}")
    if len(classes) != 2:
        return "", []
    if asked and worst in classes and worst != asked:
        raise ConfigError(f"positive={asked}, and order says that {worst} is the worst; give one of them")
    said = [name for name in (asked, worst, model, dataset) if name in classes]
    if said:
        return said[0], []
    last = classes[1]
    return last, [
        f"nobody said which class is positive: sensitivity, specificity and average precision are those of {last}, the "
        f"last of the classes; positive={classes[0]} gives those of the other"
    ]


def index_of(positive: str, classes: Sequence[str]) -> int:
    """Return the index of the positive one of two classes; 1 where there is no positive class."""
    return classes.index(positive) if positive else 1
