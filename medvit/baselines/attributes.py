"""Age, sex and scanner as features: whether a label can be predicted without the pixels.

A model that is not better than this baseline may have learned the scanner instead of the disease.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.attributes import finite_number
from medvit.dicom.acquisition import AGE, NUMBERS, SEX, TEXTS
from medvit.errors import DataError
from medvit.records import Row

ATTRIBUTES = (AGE, SEX, *TEXTS, *NUMBERS)
"""Attributes that are used unless others are requested: age, sex, and those of the scanner and its protocol."""


@dataclass(frozen=True)
class AttributeFeatures:
    """Encoding of attributes as numbers, fitted to the training images.

    An attribute whose known values in the training images are all numbers is one column; a missing value is the mean,
    and a second column marks it if values are missing in training. Any other attribute has one column for each of its
    values in training, and one for images without the attribute; a value that training images do not have is zero in
    all of them.
    """

    means: dict[str, float]
    """Mean of each numeric attribute over the training images that have it."""
    values: dict[str, tuple[str, ...]]
    """Values of each other attribute in the training images, in alphabetical order; `""` if missing."""
    marked: tuple[str, ...]
    """Numeric attributes that some training images lack."""

    @classmethod
    def of(cls, rows: Sequence[Row], names: Sequence[str]) -> AttributeFeatures:
        """Return the encoding of the attributes that training images have; attributes with one value are omitted.

        Raises:
            DataError: If no attribute has two values.
        """
        means, values, marked = {}, {}, []
        for name in names:
            found = [value_of(row, name) for row in rows]
            known = [text for text in found if text]
            if len(set(found)) < 2:
                continue
            if all(finite_number(text) is not None for text in known):
                means[name] = float(np.mean([float(text) for text in known]))
                marked += [name] * (len(known) < len(found))
            else:
                values[name] = tuple(sorted(set(found)))
        if not means and not values:
            raise DataError(
                f"none of the attributes {', '.join(names)} has two different values in the train split; name others "
                "with attributes=[...]"
            )
        return cls(means, values, tuple(marked))

    @property
    def names(self) -> tuple[str, ...]:
        """Encoded attributes."""
        return (*self.means, *self.values)

    def __call__(self, rows: Sequence[Row]) -> Float[Array, "n f"]:
        """Return the features of images."""
        columns = []
        for name, mean in self.means.items():
            texts = [value_of(row, name) for row in rows]
            numbers = [finite_number(text) for text in texts]
            columns.append([mean if number is None else number for number in numbers])
            if name in self.marked:
                columns.append([float(number is None) for number in numbers])
        for name, values in self.values.items():
            texts = [value_of(row, name) for row in rows]
            columns += [[float(text == value) for text in texts] for value in values]
        return np.array(columns, dtype=np.float64).T


def value_of(row: Row, name: str) -> str:
    """Return an attribute of an image, or a label of this name, as a label table may give the age; empty if neither."""
    return row.attributes.get(name) or row.labels.get(name) or ""
