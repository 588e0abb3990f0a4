"""Variables by which two sets of images are compared: columns of numbers, one row per patient and set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray as Array

MAX_COMPONENTS = 16
"""Maximum number of principal components of the embeddings that are compared."""
FEWEST_OF_A_VALUE = 5
"""Minimum number of patients with a value of an attribute; rarer values are one value, `other`."""


@dataclass(frozen=True)
class Variables:
    """Columns (N, V) of N patients in one of two sets, with a name for each column and the group it belongs to."""

    names: tuple[str, ...]
    groups: tuple[str, ...]
    """Group of each column: embeddings, attributes or scores."""
    values: Float[Array, "n v"]

    def beside(self, other: Variables) -> Variables:
        """Return both, side by side; they have the same patients."""
        values = np.concatenate([self.values, other.values], axis=1)
        return Variables(self.names + other.names, self.groups + other.groups, values)


def of_patients(values: Float[Array, "m v"], patient: Int[Array, "m"]) -> Float[Array, "n v"]:
    """Return the mean over the images of each patient, which `patient` numbers from 0; NaN if no image has a value."""
    known = ~np.isnan(values)
    counts = np.zeros((int(patient.max()) + 1, values.shape[1]))
    sums = np.zeros_like(counts)
    np.add.at(counts, patient, known.astype(float))
    np.add.at(sums, patient, np.where(known, values, 0.0))
    with np.errstate(invalid="ignore"):
        return np.asarray(sums / counts)


def of_embeddings(vectors: Float[Array, "m e"], patient: Int[Array, "m"]) -> Variables:
    """Return the principal components of the embeddings of both sets together, and the spread along each."""
    means = of_patients(vectors.astype(np.float64), patient)
    centered = means - means.mean(axis=0)
    left, lengths, _ = np.linalg.svd(centered, full_matrices=False)
    number = min(MAX_COMPONENTS, int((lengths > 1e-6 * lengths[0]).sum())) if len(lengths) and lengths[0] > 0 else 0
    components = left[:, :number] * np.sqrt(len(left))
    names = tuple(f"component {n + 1} of the embeddings" for n in range(number))
    return _with_spread(names, components, "embeddings")


def of_numbers(columns: Mapping[str, Sequence[float]], patient: Int[Array, "m"], group: str) -> Variables:
    """Return numeric columns and the spread of each; missing values are NaN, and are replaced by the mean."""
    names = tuple(columns)
    if not names:
        return Variables((), (), np.zeros((int(patient.max()) + 1, 0)))
    values = of_patients(np.array([list(columns[name]) for name in names], dtype=float).T, patient)
    missing = np.isnan(values)
    filled = np.where(missing, np.nan_to_num(np.nanmean(values, axis=0)), values)
    found = _with_spread(names, filled, group)
    gone = [n for n in range(len(names)) if missing[:, n].any()]
    marks = Variables(
        tuple(f"{names[n]} is missing" for n in gone), (group,) * len(gone), missing[:, gone].astype(float)
    )
    return found.beside(marks)


def of_names(columns: Mapping[str, Sequence[str | None]], patient: Int[Array, "m"], group: str) -> Variables:
    """Return, for each value of each column of texts, the share of the images of a patient that have it."""
    names, parts = [], []
    for column, texts in columns.items():
        given = [text or "missing" for text in texts]
        patients: dict[str, set[int]] = {}
        for text, number in zip(given, patient.tolist(), strict=True):
            patients.setdefault(text, set()).add(number)
        frequent = sorted(text for text, found in patients.items() if len(found) >= FEWEST_OF_A_VALUE)
        kept = [text if text in frequent else "other" for text in given]
        for value in sorted(set(kept)):
            names.append(f"{column} = {value}")
            parts.append([float(text == value) for text in kept])
    if not parts:
        return Variables((), (), np.zeros((int(patient.max()) + 1, 0)))
    return Variables(tuple(names), (group,) * len(names), of_patients(np.array(parts).T, patient))


def _with_spread(names: tuple[str, ...], values: Float[Array, "n v"], group: str) -> Variables:
    """Return columns and, for each, the squared distance from its mean, whose mean is the variance."""
    squares = (values - values.mean(axis=0)) ** 2
    spread = tuple(f"{name}, spread" for name in names)
    return Variables(names + spread, (group,) * (2 * len(names)), np.concatenate([values, squares], axis=1))
