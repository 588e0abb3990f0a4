"""Groups of images by an attribute of the manifest: scanner, site, sex, age, quality, or another label.

Ages form bands, and the quality of a photograph forms strata. Other numbers with many values are divided into thirds.
Images without a value form the group `unknown`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from jaxtyping import Int
from numpy import ndarray as Array

from medvit.attributes import LATERALITY, QUALITY, finite_number, stratum
from medvit.errors import ConfigError
from medvit.models.image import ModelConfig
from medvit.models.slide import SlideModelConfig
from medvit.records import CHANNELS, Row

UNKNOWN = "unknown"
MAX_VALUES = 6
"""Number of values of a numeric attribute above which images are divided into thirds."""
MAX_GROUPS = 20
"""Number of groups of an attribute; images with rarer values form one more group."""
AGES: tuple[tuple[int, str], ...] = (
    (18, "under 18"),
    (40, "18 to 39"),
    (60, "40 to 59"),
    (80, "60 to 79"),
    (1000, "80 and over"),
)
"""First age above a band, in years, and the name of the band."""
AGE = "age_years"
MODALITY, FLAGS, DATASET = "modality", "flags", "dataset"
ATTRIBUTES = (
    "site",
    "period",
    DATASET,
    MODALITY,
    "manufacturer",
    "model",
    "field_strength_t",
    "kvp",
    "kernel",
    "sequence",
    "slice_thickness_mm",
    "echo_time_ms",
    "repetition_time_ms",
    "pixel_spacing",
    CHANNELS,
    LATERALITY,
    "view",
    QUALITY,
    FLAGS,
    "sex",
    AGE,
)
"""Attributes that are analyzed if `subgroups` is unset, in this order."""
ACQUISITION_LABELS = frozenset(
    ("age", "sex", "gender", "race", "ethnicity", "laterality", "side", "site", "center", "centre", "hospital")
    + ("institution", "scanner", "device", "manufacturer", "vendor", "model")
)
"""Names of labels that are analyzed like attributes if `subgroups` is unset, because they describe subject or scanner.
"""
_OF_ROW: Mapping[str, Callable[[Row], str | None]] = {
    MODALITY: lambda row: row.modality or None,
    DATASET: lambda row: row.dataset or None,
    FLAGS: lambda row: None if row.flags is None else " + ".join(row.flags) or "none",
}


def choose(rows: Sequence[Row], asked: Sequence[str] | None, predicted: Collection[str]) -> tuple[str, ...]:
    """Return the attributes to analyze: those in `asked`, or all that describe subject or acquisition.

    `predicted` are the labels that the model predicts, which define no subgroups.

    Raises:
        ConfigError: If no image has a requested attribute.
    """
    known = available(rows, predicted)
    if asked is None:
        return tuple(name for name in known if name in ATTRIBUTES or name.casefold() in ACQUISITION_LABELS)
    for name in asked:
        if name not in known:
            raise ConfigError(
                f"subgroups={name}: no evaluated image has this attribute; they have {', '.join(known) or 'none'}"
            )
    return tuple(dict.fromkeys(asked))


def predicted_labels(model: ModelConfig | SlideModelConfig) -> frozenset[str]:
    """Return the labels that a model predicts, which define no subgroups."""
    if isinstance(model, SlideModelConfig):
        return frozenset((model.label,))
    several = model.classes if model.kind == "multilabel" else [task.label for task in model.tasks]
    return frozenset((model.label, model.event, *several))


def available(rows: Sequence[Row], predicted: Collection[str] = ()) -> tuple[str, ...]:
    """Return the attributes and labels of which at least one image has a value; not the `predicted` labels."""
    attributes = {name for row in rows for name in row.attributes}
    attributes |= {name for name, value in _OF_ROW.items() if any(value(row) is not None for row in rows)}
    labels = sorted({name for row in rows for name in row.labels} - attributes - set(predicted))
    first = [name for name in ATTRIBUTES if name in attributes]
    return (*first, *sorted(attributes - set(first)), *labels)


def grouped(rows: Sequence[Row], attribute: str) -> dict[str, Int[Array, "m"]]:
    """Return the indices of the images in each group of an attribute; the group of unknown values comes last."""
    every = group_names(rows, attribute)
    counts = Counter(every)
    rare = {name for name, _ in counts.most_common()[MAX_GROUPS:]} - {UNKNOWN}
    other = f"{len(rare)} rarer values"
    names = [other if name in rare else name for name in every]
    order = [name for name in _ordered(rows, attribute, every) if name not in rare] + [other] * bool(rare)
    order = [name for name in order if name != UNKNOWN] + [UNKNOWN] * (UNKNOWN in counts)
    members = np.array(names, dtype=object)
    return {name: np.flatnonzero(members == name) for name in order}


def group_names(rows: Sequence[Row], attribute: str) -> list[str]:
    """Return the name of the group of each image."""
    if attribute == QUALITY:
        return [UNKNOWN if QUALITY not in row.attributes else stratum(row) for row in rows]
    values = [_value(row, attribute) for row in rows]
    numbers = [finite_number(value) for value in values]
    if any(value is not None and number is None for value, number in zip(values, numbers, strict=True)):
        return [value or UNKNOWN for value in values]
    if attribute == AGE or attribute.casefold() == "age":
        return [UNKNOWN if age is None else next(name for end, name in AGES if age < end) for age in numbers]
    if len(set(numbers) - {None}) > MAX_VALUES:
        return _thirds(numbers)
    return [value or UNKNOWN for value in values]


def _value(row: Row, attribute: str) -> str | None:
    of_row = _OF_ROW.get(attribute)
    if of_row is not None:
        return of_row(row)
    return row.attributes.get(attribute) or row.labels.get(attribute) or None


def _thirds(numbers: Sequence[float | None]) -> list[str]:
    known = [number for number in numbers if number is not None]
    low, high = (float(np.quantile(known, part, method="lower")) for part in (1 / 3, 2 / 3))
    names = (f"up to {low:g}", f"above {low:g} to {high:g}", f"above {high:g}")
    return [UNKNOWN if number is None else names[(number > low) + (number > high)] for number in numbers]


def _ordered(rows: Sequence[Row], attribute: str, names: Sequence[str]) -> list[str]:
    """Return the names of groups in the order of their smallest number, or in natural order (`year 2`, `year 10`).

    `names` has the name of the group of each image.
    """
    smallest: dict[str, float] = {}
    for row, name in zip(rows, names, strict=True):
        number = finite_number(_value(row, attribute))
        if number is not None:
            smallest[name] = min(number, smallest.get(name, number))
    return sorted(dict.fromkeys(names), key=lambda name: (smallest.get(name, np.inf), _natural(name)))


def _natural(name: str) -> list[tuple[bool, int, str]]:
    parts = re.split(r"(\d+)", name)
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts if part]
