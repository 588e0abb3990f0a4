"""Amounts of labels: a fraction of the labeled training patients, a number of patients, or all of them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from medvit.errors import ConfigError

ALL: Literal["all"] = "all"
"""All labeled training patients."""


def parse_amount(value: Any) -> int | float | Literal["all"]:
    """Return an amount of labels from a text or a number.

    Raises:
        ValueError: If it is neither a fraction below 1, nor a whole number, nor `all`.
    """
    text = str(value).strip()
    if text == ALL:
        return ALL
    if re.fullmatch(r"[1-9]\d*", text):
        return int(text)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if 0 < number < 1:
        return number
    raise ValueError(
        f"found {value}; expected a fraction below 1, a whole number of patients, or all for all training patients"
    )


LabelAmount = Annotated[int | float | Literal["all"], BeforeValidator(parse_amount)]
"""Amount of labels: a fraction of the training patients below 1, a number of patients, or `all`."""


def num_labeled(amount: LabelAmount, total: int, num_classes: int) -> int:
    """Return the number of labeled patients for an amount of labels; it is at least the number of classes.

    `total` is the number of labeled training patients.
    """
    if isinstance(amount, str):
        return total
    return max(amount if isinstance(amount, int) else round(amount * total), num_classes)


def patients_by_amount(amounts: Iterable[LabelAmount], total: int, num_classes: int) -> dict[LabelAmount, int]:
    """Return the number of labeled patients for each amount of labels, in ascending order.

    Raises:
        ConfigError: If an amount needs more patients than there are, does not leave patients for choosing settings, or
            has as many patients as another one.
    """
    found = {amount: num_labeled(amount, total, num_classes) for amount in amounts}
    for amount, number in found.items():
        if number > total:
            raise ConfigError(f"labeled={amount} asks for more than the {total} labeled training patients")
        if number == total and amount != ALL:
            raise ConfigError(
                f"labeled={amount} is all of the {total} labeled training patients, which leaves none to choose "
                "settings by; give all, or a smaller amount"
            )
    ordered = dict(sorted(found.items(), key=lambda item: item[1]))
    for (one, number), (other, same) in pairwise(ordered.items()):
        if number == same:
            raise ConfigError(f"labeled={one} and labeled={other} are both {number} patients; remove one of them")
    return ordered


def tuned_amount(amount: LabelAmount, by_amount: Iterable[LabelAmount]) -> LabelAmount:
    """Return the amount of labels whose tuned settings apply to `amount`; `by_amount` are all amounts, ascending.

    This is `amount` itself, except for `all`, which does not leave patients for tuning: its settings are those of the
    largest other amount.
    """
    return amount if amount != ALL else [each for each in by_amount if each != ALL][-1]
