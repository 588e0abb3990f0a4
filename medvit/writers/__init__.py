"""Writers of results, one file format a file.

The contract. A module of this room, or of another package that extends it (`medvit.registry`), with a `WRITER` is a
format. Its name is that of its file and what `outputs=[...]` takes. A writer says for which models it is, whether it
*applies* to what was predicted of an image, and *writes* files into an empty folder, from which they are moved into
that of the study once it returns. What the source does not allow, such as a segmentation without positions, it refuses
with the reason, and the other writers continue (`medvit.writers.outputs`). Adding one is adding a file and its test
(docs/how-to/add-a-writer.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, get_args

from medvit.config import unknown_name
from medvit.records import Item, Refusal
from medvit.registry import occupants

if TYPE_CHECKING:
    from medvit.types import Image, Prediction
    from medvit.writers.slide_maps import SlideFinding
    from medvit.wsi.slide import Slide

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
        """Return what names the series of one of its images: its identifier, else its place in the study."""
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
class WriterContext:
    """What every writer is given: where a result comes from, and what made it."""

    item: Item = field(repr=False)
    """The image, as its reader found it: identifiers in it are of the patient."""
    maker: Maker
    codes: Mapping[str, str] = field(default_factory=dict)
    """Coded terms of classes, as `PredictConfig.codes`."""
    series: str = ""
    """Pseudonym of the series, where results of several series are in one folder."""

    def path(self, folder: Path, stem: str, suffix: str) -> Path:
        """Return where a file goes: `STEM.SUFFIX`, with the series behind the stem where there are several."""
        return folder / f"{stem}{'-' * bool(self.series)}{self.series}{suffix}"


@dataclass(frozen=True, kw_only=True)
class ImageContext(WriterContext):
    """An image or volume with its prediction on the same grid."""

    image: Image
    prediction: Prediction


@dataclass(frozen=True, kw_only=True)
class SlideContext(WriterContext):
    """An open slide with what a model says of its tiles."""

    slide: Slide
    prediction: SlideFinding


ModelTask = Literal["classification", "segmentation", "slide"]
ContextT = TypeVar("ContextT", bound=WriterContext, contravariant=True)


class ResultWriter(Protocol[ContextT]):
    """One file format of results."""

    name: str
    """Its key in `outputs=[...]`, and the name of its file."""
    title: str
    """What it writes, as notes call it: "there is no DICOM segmentation: ..."."""
    tasks: Sequence[ModelTask]
    """For which models it is."""

    def applies(self, item: Item, prediction: Any) -> bool:
        """Whether there is something to write: of a `Prediction`, or of a `SlideFinding`."""

    def write(self, context: ContextT, folder: Path) -> Sequence[str]:
        """Write files into an empty folder, and return notes for a person, which name no patient.

        Raises:
            MedvitError: One of its kinds, if the source does not allow it; the text names no patient.
        """


def writers() -> tuple[ResultWriter[Any], ...]:
    """Return every writer, by name."""
    return occupants(__name__, "WRITER")


def writer(name: str) -> ResultWriter[Any]:
    """Return the writer of a name.

    Raises:
        ValueError: With the nearest known name and the list.
    """
    known = {one.name: one for one in writers()}
    if name not in known:
        raise ValueError(unknown_name("writer", name, list(known)))
    return known[name]


@dataclass(frozen=True)
class Concept:
    """A coded term (DICOM PS3.16), such as SCT 10200004 Liver."""

    scheme: str
    value: str
    meaning: str
