"""Cohort table: patients, sexes, ages, scanners, sites and prevalence of several sets of images side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from medvit.attributes import PERIOD, SITE, attribute_title
from medvit.cards.variables import is_numeric
from medvit.document import Table
from medvit.patients import PatientCount
from medvit.records import Row

SEX, AGE = "sex", "age_years"
NOMINAL = (SEX, SITE, PERIOD, "manufacturer", "model", "field_strength_t", "laterality")
"""Attributes whose values are counted, in the order of the table."""
SHOWN_VALUES = 8
"""Maximum number of values of an attribute that the table lists; the others are counted together."""
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Cohort:
    """Characteristics of a set of images and their patients.

    A patient with several values of an attribute counts for each of them.
    """

    patients: PatientCount
    num_studies: int
    num_images: Mapping[str, int]
    """Number of images by kind."""
    num_masks: int
    values: Mapping[str, Mapping[str, int]]
    """Number of patients by value of each attribute of `NOMINAL`; `unknown` counts those without a value."""
    ages: tuple[float, ...]
    """Ages in years, one for each age of a patient."""
    classes: Mapping[str, Mapping[str, int]]
    """Number of images by class of each nominal label."""
    numbers: Mapping[str, tuple[float, ...]]
    """Values of each numeric label."""
    num_unlabeled: Mapping[str, int]
    """Number of images without each label."""

    @classmethod
    def of(cls, rows: Sequence[Row], labels: Mapping[str, Collection[str]]) -> Self:
        """Describe a set of images; `labels` has the classes of each label to describe."""
        numeric = {key for key, names in labels.items() if is_numeric(names)}
        classes = {key: Counter(row.labels[key] for row in rows if key in row.labels) for key in labels}
        return cls(
            PatientCount.of(rows),
            len({(row.patient_id, row.study_id) for row in rows}),
            dict(Counter(row.kind for row in rows)),
            sum(row.mask is not None for row in rows),
            {key: _patients_by_value(rows, key) for key in NOMINAL},
            tuple(float(age) for _, age in sorted(_pairs(rows, AGE))),
            {key: counts for key, counts in classes.items() if key not in numeric},
            {key: tuple(float(row.labels[key]) for row in rows if key in row.labels) for key in numeric},
            {key: sum(key not in row.labels for row in rows) for key in labels},
        )

    @property
    def tree(self) -> dict[str, object]:
        """The characteristics as plain values, for JSON."""
        return {
            "patients": self.patients.total,
            "assumed_patients": self.patients.assumed,
            "studies": self.num_studies,
            "images": dict(self.num_images),
            "with_label_map": self.num_masks,
            "patients_by_value": {key: dict(counts) for key, counts in self.values.items() if set(counts) - {UNKNOWN}},
            "age_years": _quartiles(self.ages),
            "images_by_class": {key: dict(counts) for key, counts in self.classes.items()},
            "numbers": {key: _quartiles(values) for key, values in self.numbers.items()},
            "unlabeled": dict(self.num_unlabeled),
        }


def cohort_table(cohorts: Mapping[str, Cohort]) -> Table:
    """Return a table with a column for each cohort, and a line for each characteristic that one of them has.

    Shares are of the patients with a known value, or of the images with a label.
    """
    columns = list(cohorts.values())
    lines: list[list[object]] = [
        ["patients", *(one.patients.cell for one in columns)],
        ["studies", *(one.num_studies for one in columns)],
    ]
    kinds = dict.fromkeys(kind for one in columns for kind in one.num_images)
    lines += [[f"{kind}s", *(one.num_images.get(kind, 0) for one in columns)] for kind in kinds]
    if any(one.num_masks for one in columns):
        lines.append(["with a label map", *(one.num_masks for one in columns)])
    if any(one.ages for one in columns):
        lines.append(["age: median [quartiles], lowest to highest", *(_spread(one.ages) for one in columns)])
    for key in NOMINAL:
        lines += _lines_of_values(f"{attribute_title(key)}, patients", [one.values[key] for one in columns])
    for key in columns[0].classes:
        counts = [
            {**one.classes[key], **({UNKNOWN: one.num_unlabeled[key]} if one.num_unlabeled[key] else {})}
            for one in columns
        ]
        lines += _lines_of_values(f"{key}, images", counts)
    for key in columns[0].numbers:
        title = f"{key}, images: median [quartiles], lowest to highest"
        lines.append([title, *(_spread(one.numbers[key]) for one in columns)])
    return Table(["", *cohorts], lines)


def _lines_of_values(title: str, columns: Sequence[Mapping[str, int]]) -> Iterable[list[object]]:
    """Yield a line for each of the most frequent values, one for all others, and one for unknown values."""
    total = sum((Counter(counts) for counts in columns), Counter[str]())
    names = [name for name, _ in sorted(total.items(), key=lambda one: (-one[1], one[0])) if name != UNKNOWN]
    if not names:
        return
    shown, rest = names[:SHOWN_VALUES], names[SHOWN_VALUES:]
    known = [sum(count for name, count in counts.items() if name != UNKNOWN) for counts in columns]
    for name in shown:
        yield [f"{title}: {name}", *(_share(c.get(name, 0), n) for c, n in zip(columns, known, strict=True))]
    if rest:
        cells = [_share(sum(c.get(name, 0) for name in rest), n) for c, n in zip(columns, known, strict=True)]
        yield [f"{title}: {len(rest)} rarer values", *cells]
    if total[UNKNOWN]:
        yield [f"{title}: {UNKNOWN}", *(counts.get(UNKNOWN, 0) for counts in columns)]


def _patients_by_value(rows: Sequence[Row], key: str) -> dict[str, int]:
    pairs = _pairs(rows, key)
    counts = Counter(value for _, value in pairs)
    unknown = len({row.patient_id for row in rows} - {patient for patient, _ in pairs})
    return {**counts, **({UNKNOWN: unknown} if unknown else {})}


def _pairs(rows: Sequence[Row], key: str) -> set[tuple[str, str]]:
    return {(row.patient_id, row.attributes[key]) for row in rows if key in row.attributes}


def _share(count: int, total: int) -> str:
    return f"{count} ({count / total:.0%})" if total else str(count)


def _quartiles(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    names = ("lowest", "first_quartile", "median", "third_quartile", "highest")
    found = dict(zip(names, np.quantile(values, (0, 0.25, 0.5, 0.75, 1)).tolist(), strict=True))
    return {"number": len(values), **found}


def _spread(values: Sequence[float]) -> str:
    if not values:
        return UNKNOWN
    low, first, middle, third, high = np.quantile(values, (0, 0.25, 0.5, 0.75, 1))
    return f"{middle:.4g} [{first:.4g}, {third:.4g}], {low:.4g} to {high:.4g}"
