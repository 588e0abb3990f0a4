"""Number of patients in a set of images, and how many are assumed for lack of a patient identifier."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Self

from medvit.records import Row


def assumed_patients(rows: Iterable[Row]) -> frozenset[str]:
    """Return the assumed patients among the patients of a set of images.

    If images have no patient identifier, each image, series or study counts as a patient; such a patient is called
    assumed.
    """
    named: dict[str, bool] = {}
    for row in rows:
        named[row.patient_id] = named.get(row.patient_id, False) or not row.patient_is_assumed
    return frozenset(patient for patient, is_named in named.items() if not is_named)


@dataclass(frozen=True)
class PatientCount:
    """Number of patients; `assumed` of them have no patient identifier (see `assumed_patients`)."""

    total: int
    assumed: int = 0

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Self:
        """Count the patients of a set of images."""
        rows = list(rows)
        return cls.among({row.patient_id for row in rows}, assumed_patients(rows))

    @classmethod
    def among(cls, patients: Collection[str], assumed: Collection[str]) -> Self:
        """Count patients by their pseudonyms; `assumed` are the pseudonyms of all assumed patients."""
        found = set(patients)
        return cls(len(found), len(found & set(assumed)))

    @property
    def cell(self) -> str:
        """Return the number for a table cell, such as `12` or `40 (all assumed)`."""
        return f"{self.total}{self._doubt}"

    @property
    def note(self) -> str:
        """Return a sentence that explains assumed patients; empty without assumed patients."""
        if not self.assumed:
            return ""
        subject = f"{self.assumed} of {_named(self.total)} {'is' if self.assumed == 1 else 'are'}"
        return (
            f"{subject} assumed: without an identifier, an image, a series or a study counts as a patient, and "
            "several may be one person"
        )

    def __str__(self) -> str:
        return f"{_named(self.total)}{self._doubt}"

    @property
    def _doubt(self) -> str:
        if not self.assumed:
            return ""
        return f" ({'all' if self.assumed == self.total else self.assumed} assumed)"


def _named(number: int) -> str:
    return f"{number} patient{'' if number == 1 else 's'}"
