"""Writers of results, one file format a file.

The contract. A writer takes the findings on a study and puts files of its format into the folder of the study. What the
source does not allow, as a segmentation without positions, it refuses with the reason, and the other writers go on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from medvit.records import Item, Refusal

Status = Literal["done", "skipped", "failed"]

STATUSES: tuple[Status, ...] = get_args(Status)

COLORS = ((230, 60, 60), (60, 180, 75), (70, 110, 240), (240, 200, 40), (200, 70, 220), (60, 200, 210), (245, 130, 48))
"""RGB of the classes in pictures and viewers, in turn."""


@dataclass(frozen=True)
class Study:
    """The images of one study, under its pseudonym `name`.

    `refusals` are files of the study that would have fitted the model but could not be taken; `num_unreadable` counts
    files beside its images that cannot be read at all.
    """

    name: str
    items: tuple[Item, ...] = field(repr=False)
    refusals: tuple[Refusal, ...] = field(default=(), repr=False)
    num_unreadable: int = 0
    num_others: int = 0
    """Other patients whose images have the same StudyInstanceUID."""

    def series_key(self, item: Item) -> str:
        """What names the series of one of its images: its identifier, else its place in the study."""
        return item.identity.series or f"{self.name}#{self.items.index(item)}"


@dataclass(frozen=True)
class Finding:
    """One line of `predictions.csv`: what was found of one class in one series.

    A classification has a `probability`; a segmentation has `num_voxels` and, where voxels have a size, `volume_ml`.
    """

    series: str
    label: str
    probability: float | None = None
    volume_ml: float | None = None
    num_voxels: int | None = None


@dataclass(frozen=True)
class Result:
    """What came of one study; `reason` names no patient, `outputs` are the names of files in its folder."""

    status: Status
    code: str = ""
    reason: str = ""
    outputs: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Maker:
    """What made a result, as its DICOM objects say: the hash of the model and the MLflow run."""

    version: str
    model_sha256: str
    run_id: str | None = None


@dataclass(frozen=True)
class Concept:
    """A coded term (DICOM PS3.16), such as SCT 10200004 Liver."""

    scheme: str
    value: str
    meaning: str
