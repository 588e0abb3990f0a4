"""Writers of results, one file format per module.

A format is a module of this package, or of another package that extends it (`medvit.registry`), with a constant
`WRITER`. The file name of the module is the name in `outputs=[...]`. A writer declares the tasks it supports and
whether it *applies* to a prediction of an image. It *writes* files into an empty folder, from which they are moved into
the study's folder. If the source does not allow the format (a segmentation requires positions, for example), the writer
refuses with the reason, and the other writers continue (`medvit.writers.outputs`). To add a format, add a file and its
test (docs/how-to/add-a-writer.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, get_args

from medvit.config import unknown_name
from medvit.files.digests import digest_of_array
from medvit.records import Item, Refusal
from medvit.registry import occupants
from medvit.tasks import TaskName

if TYPE_CHECKING:
    from medvit.types import Image, Prediction
    from medvit.writers.slide_maps import SlideFinding
    from medvit.wsi.slide import Slide

Status = Literal["done", "skipped", "failed"]

STATUSES: tuple[Status, ...] = get_args(Status)

COLORS = ((230, 60, 60), (60, 180, 75), (70, 110, 240), (240, 200, 40), (200, 70, 220), (60, 200, 210), (245, 130, 48))
"""RGB of the classes in pictures and viewers, in order."""


@dataclass(frozen=True)
class Study:
    """Images of one study, under its pseudonym `name`.

    `refusals` are files of the study that fit the model but could not be used; `num_unreadable` counts files in the
    folders of its images that cannot be read at all.
    """

    name: str
    items: tuple[Item, ...] = field(repr=False)
    refusals: tuple[Refusal, ...] = field(default=(), repr=False)
    num_unreadable: int = 0
    num_others: int = 0
    """Number of other patients whose images have the same StudyInstanceUID."""

    def series_key(self, item: Item) -> str:
        """Return the identifier of an image's series.

        If the image has no series, its position in the study is used.
        """
        return item.identity.series or f"{self.name}#{self.items.index(item)}"


@dataclass(frozen=True)
class Finding:
    """One line of `predictions.csv`: the result for one class in one series.

    A classification has a `probability`; a segmentation has `num_voxels` and, if voxels have a size, `volume_ml`. A
    regression has a `value` in the unit of the label, which `label` names. A survival prediction has a `probability`
    for each time, and a `value` for its mean and median time; an ordinal classification has one for each grade, and
    the predicted grade as a `value`. At each operating point, there is a finding with the `call`, the `threshold`, and
    the `probability` that was compared with it. `in_set` and `interval` are those of conformal prediction, with their
    `coverage`.
    """

    series: str
    label: str
    probability: float | None = None
    volume_ml: float | None = None
    num_voxels: int | None = None
    value: float | None = None
    model: str = ""
    """Name of the model; empty if there is only one."""
    operating_point: str = ""
    """Name of the operating point of a call; empty for other findings."""
    threshold: float | None = None
    call: str = ""
    """Call at the operating point: positive or negative."""
    in_set: str = ""
    """Whether the class is in the prediction set: yes or no. For a label of several: yes if only its presence is in the
    set, no if only its absence is, `yes or no` if both are, and `neither`.
    """
    interval: tuple[float, float] | None = None
    """Lower and upper end of the interval of a number."""
    coverage: float | None = None
    """Probability with which set or interval contains the truth."""
    entropy: float | None = None
    """Entropy of the mean probabilities of several models, in nats."""
    mutual_information: float | None = None
    """Disagreement of several models: mutual information of class and model, in nats."""
    spread: float | None = None
    """Disagreement of several models about a number: their standard deviation."""


@dataclass(frozen=True)
class Result:
    """Outcome of one study; `reason` does not name a patient, `outputs` are the names of files in its folder."""

    status: Status
    code: str = ""
    reason: str = ""
    outputs: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Maker:
    """Origin of a result, stated in its DICOM objects: the hash and name of the model, and the MLflow run."""

    version: str
    model_sha256: str
    run_id: str | None = None
    name: str = ""
    """Name of the model: that of its folder."""
    series_number: int | None = None
    """SeriesNumber of results; None: it follows from the number of the source series."""
    settings: str = ""
    """Options on which the prediction depends, as text."""


@dataclass(frozen=True)
class WriterContext:
    """Input of every writer: the source of a result, and its origin."""

    item: Item = field(repr=False)
    """Image as its reader found it, with identifiers of the patient."""
    maker: Maker
    codes: Mapping[str, str] = field(default_factory=dict)
    """Coded terms of classes, from `PredictConfig.codes`."""
    series: str = ""
    """Pseudonym of the series, if one folder contains results of several series."""

    def path(self, folder: Path, stem: str, suffix: str) -> Path:
        """Return the path of an output file, `STEM.SUFFIX`.

        If the study has several series, the name of the series follows the stem.
        """
        return folder / f"{stem}{'-' * bool(self.series)}{self.series}{suffix}"


@dataclass(frozen=True, kw_only=True)
class ImageContext(WriterContext):
    """Image or volume with its prediction on the same grid."""

    image: Image
    prediction: Prediction
    calls: tuple[Finding, ...] = ()
    """Calls at operating points."""
    flags: tuple[str, ...] = ()
    """Reasons why a person should look at the result first."""

    @cached_property
    def pixels_sha256(self) -> str:
        """Digest of the pixels that the model was given, which is computed once for all writers."""
        return digest_of_array(self.image.pixels)


@dataclass(frozen=True, kw_only=True)
class SlideContext(WriterContext):
    """Open slide with a model's prediction for its tiles."""

    slide: Slide
    prediction: SlideFinding


ModelTask = Literal[TaskName, "slide"]
ContextT = TypeVar("ContextT", bound=WriterContext, contravariant=True)


class ResultWriter(Protocol[ContextT]):
    """Output format of results."""

    name: str
    """Name of the format in `outputs=[...]`, and of its module."""
    title: str
    """Name of the output in notes: "there is no DICOM segmentation: ..."."""
    tasks: Sequence[ModelTask]
    """Tasks for whose models results can be written in this format."""

    def applies(self, item: Item, prediction: Any) -> bool:
        """Return whether this format applies to a prediction, which is a `Prediction` or a `SlideFinding`."""

    def write(self, context: ContextT, folder: Path) -> Sequence[str]:
        """Write files into an empty folder; return notes for human review, which do not name patients.

        Raises:
            MedvitError: If the source does not allow the format; the text does not name a patient.
        """


def writers() -> tuple[ResultWriter[Any], ...]:
    """Return every writer, by name."""
    return occupants(__name__, "WRITER")


def writer(name: str) -> ResultWriter[Any]:
    """Return the writer with a name.

    Raises:
        ValueError: If no writer has this name; the message has the nearest known name and the list of names.
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
