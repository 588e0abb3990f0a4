"""What single elements of a data set hold, as plain values, whatever is wrong with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydicom import Dataset


def numbers(dataset: Dataset, keyword: str, how_many: int) -> tuple[float, ...] | None:
    """The `how_many` numbers an element holds; none where it is missing or holds anything else."""
    try:
        values = tuple(float(value) for value in dataset.get(keyword) or ())
    except (TypeError, ValueError):
        return None
    return values if len(values) == how_many else None


def text(dataset: Dataset, keyword: str) -> str:
    """The text an element holds; empty where it is missing."""
    value = dataset.get(keyword)
    return "" if value is None else str(value).strip()


def texts(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """The texts an element of several values holds; none where it is missing."""
    value = dataset.get(keyword) or ()
    return (value.strip(),) if isinstance(value, str) else tuple(str(part).strip() for part in value)


def count(dataset: Dataset, keyword: str, default: int) -> int:
    """A whole number; `default` where there is none, -1 where something else stands."""
    try:
        value = dataset.get(keyword)
        return default if value is None or value == "" else int(value)
    except (TypeError, ValueError):
        return -1
