"""From raw files to a dataset, in steps that each do one thing.

The contract. A step takes the images found in a source as `Candidate`s and gives them back with more known: who they
are of, their labels, their split. Only then are pixels read and stored, which makes a `Taken` of each. A candidate
knows names, identifiers and paths; a row does not, and only pseudonyms pass from one to the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from medvit.samples import Flag, Item, Refusal, Split

VERSION = 1
"""Raised when what is stored or noted of an image changes, so that an update of a dataset takes it again."""

SPLIT_NAMES: Mapping[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""What people call the three splits, in folders and tables."""


def place_in_file(item: Item) -> str:
    """Which image of a file that holds many is meant, as `#test/7`; nothing for a file that is one image."""
    return "" if item.index is None else f"#{item.split or ''}/{item.index}"


@dataclass(frozen=True)
class Patient:
    """Who an image is of, in the words of the source.

    `is_known_elsewhere` says that the identifier means the same person in other datasets of the site, as a DICOM
    PatientID does and a file name does not.
    """

    id: str = field(repr=False)
    is_known_elsewhere: bool = False


@dataclass(frozen=True)
class Candidate:
    """An image found in the source, before its pixels are read.

    `paths` are relative to the source, one for each file of the item. `split` is the official one until splits are
    assigned.
    """

    item: Item = field(repr=False)
    paths: tuple[str, ...] = field(repr=False)
    patient: Patient
    labels: Mapping[str, str] = field(default_factory=dict)
    split: Split | None = None

    @property
    def key(self) -> str:
        """What tells it from all others of the source."""
        return "\n".join(self.paths) + place_in_file(self.item)

    def told(self, labels: Mapping[str, str], split: Split | None = None, patient: str = "") -> Self:
        """The candidate with what a table says of it."""
        return replace(
            self,
            labels={**self.labels, **labels},
            split=split or self.split,
            patient=Patient(patient, is_known_elsewhere=True) if patient else self.patient,
        )

    def refused(self, code: str, reason: str) -> Refusal:
        """Its files, not taken."""
        return Refusal(self.item.files, code, reason)


@dataclass(frozen=True)
class Taken:
    """What was stored of an image, and what its pixels say: the part of a row that needed reading.

    `num_mask_values` is one more than the largest value of its label map.
    """

    sha256: str
    shape: tuple[int, ...]
    dtype: str
    modality: str
    mask: str | None
    num_mask_values: int
    spacing_mm: tuple[float, float, float] | None
    affine: tuple[float, ...] | None
    mpp: float | None
    slope: float
    intercept: float
    unit: str
    flags: tuple[Flag, ...] | None = None
    perceptual_hash: str | None = None
    file_sha256: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    writing: str = ""
    """What became of writing in its pixels: masked or kept; nothing where none was seen."""

    @classmethod
    def of(cls, tree: Mapping[str, Any]) -> Self:
        """Itself from plain values, lists in place of tuples."""
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in tree.items()
        }
        return cls(**fields)
