"""Job that processes the series of one study: choose the series, read, predict, write."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray as Array

from medvit.deidentification.pseudonyms import SiteNames
from medvit.embeddings.neighbors import COLUMNS as NEIGHBOR_COLUMNS
from medvit.embeddings.reference import DISTANCE, CohortReference
from medvit.errors import DataError
from medvit.files.atomic import write_text
from medvit.files.spreadsheets import csv_text
from medvit.inference.operating_points import OperatingPoint, calls
from medvit.inference.review.gate import FLAGGED, Amounts, QualityGate
from medvit.inference.series_selection import SeriesChoice, choose, num_fitting
from medvit.models.disagreement import Disagreement
from medvit.models.image import AppliesTo
from medvit.readers import read
from medvit.readers.options import ValuesConfig
from medvit.records import Item
from medvit.types import Image, Prediction
from medvit.writers import Finding, ImageContext, Maker, Result, Study
from medvit.writers.outputs import Outputs

DUPLICATE = "duplicate"
"""Refusal code of a second copy of a file; no data are lost by refusing the copy."""
UNKNOWN_VALUES = (
    "stored values were read: the checkpoint is of a version that did not record values.*; if its training "
    "dataset was ingested with values.pet or values.radiographs, give the same to predict"
)
SETS = {(False, False): "neither", (False, True): "yes", (True, False): "no", (True, True): "yes or no"}
"""Whether absence and presence of a label are in its prediction set -> text in `predictions.csv`."""


@dataclass
class Collected:
    """Results of a model for a study, collected series by series."""

    notes: list[str]
    has_several: bool
    """Whether several series of the study are predicted."""
    outputs: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def result(self) -> Result:
        """Return the result of the study."""
        return Result("done", reason="; ".join(self.notes), outputs=tuple(self.outputs), findings=tuple(self.findings))


@dataclass(frozen=True)
class StudyJob:
    """Job that processes studies with one model; call it with a study and the folder for its outputs."""

    predict: Callable[[Image], Prediction]
    applies_to: AppliesTo
    names: SiteNames
    maker: Maker
    series: SeriesChoice = "best"
    codes: Mapping[str, str] = field(default_factory=dict)
    values: ValuesConfig | None = field(default_factory=ValuesConfig)
    """Pixel values that the model was trained on. None: unknown; stored values are read, and a note states this."""
    outputs: Outputs = field(default_factory=lambda: Outputs.of(None, "segmentation"))
    points: Sequence[OperatingPoint] = ()
    """Operating points at which calls are made."""
    task: str = ""
    """Task of the model, by which the disagreement of an ensemble is measured."""
    reference: CohortReference | None = None
    """Training cohort from which the distance of each image is reported. None: no distance is reported."""
    gate: QualityGate | None = None
    """Limits outside of which a prediction is flagged. None: it is not checked."""

    def __call__(self, study: Study, folder: Path) -> Result:
        """Return the result of a study.

        Raises:
            NoSeriesError: If none of its series fits the model.
            DataError: If the series cannot be read or is not accepted by the model.
        """
        items = choose(study, self.applies_to, self.series)
        collected = self.begin(study, num_chosen=len(items))
        for item in items:
            image = self.read(item)
            self.add(collected, study, item, image, self.predict(image), folder)
        return collected.result()

    def begin(self, study: Study, *, num_chosen: int) -> Collected:
        """Return the empty results of a study of which `num_chosen` series will be predicted."""
        notes = [*notes_on_patients(study), *_notes_on(study, num_fitting(study, self.applies_to) - num_chosen)]
        return Collected(notes, has_several=num_chosen > 1)

    def add(
        self, collected: Collected, study: Study, item: Item, image: Image, prediction: Prediction, folder: Path
    ) -> None:
        """Write the prediction for a series into a folder, and add it to the results of the study."""
        name = self._name(study, item, collected.findings)
        collected.notes += [UNKNOWN_VALUES] * (self.values is None and ValuesConfig.matter_for(item))
        collected.findings += with_uncertainty(findings_of(prediction, image, name), prediction, self.task)
        collected.notes += prediction.notes
        called = calls(self.points, prediction.classes, prediction.probabilities, name)
        collected.findings += called
        flags = self._flags(prediction)
        if self.reference is not None:
            vector = self.reference.embedder(image)
            distance = self.reference.distance(vector)
            collected.findings.append(Finding(name, DISTANCE, value=distance))
            note = self.reference.note(distance)
            flags += [f"{FLAGGED}{note}"] if note else []
        collected.notes += flags
        series = name if collected.has_several else ""
        # A prediction is on the grid of the first channel, if the image is made of several.
        context = ImageContext(
            item.parts[0],
            self.maker,
            self.codes,
            series,
            image=image,
            prediction=prediction,
            calls=tuple(replace(call, series="") for call in called),
            flags=tuple(flag.removeprefix(FLAGGED) for flag in flags),
        )
        if self.reference is not None and self.reference.neighbors is not None:
            found = self.reference.neighbors(vector, self.names.patients(item.parts[0].identity), study.name)
            write_text(context.path(folder, "neighbors", ".csv"), csv_text(NEIGHBOR_COLUMNS, found.lines()))
            collected.notes += found.warnings
        collected.notes += self.outputs.write(context, folder)
        collected.outputs += sorted(path.name for path in folder.iterdir() if path.name not in collected.outputs)

    def _flags(self, prediction: Prediction) -> list[str]:
        amounts = None if self.gate is None else Amounts.of(prediction)
        return [] if self.gate is None or amounts is None else self.gate.flags(amounts)

    def read(self, item: Item) -> Image:
        """Return the image with the pixel values that the model was trained on.

        A label map of the image is dropped.
        """
        image = read((self.values or ValuesConfig()).of(replace(item, mask=None)))
        if image.fallback:
            raise DataError(
                f"the model was trained on {image.fallback}, but the files lack the elements that these values "
                "require; predict on series that have them"
            )
        return image

    def _name(self, study: Study, item: Item, earlier: Sequence[Finding]) -> str:
        """Return the pseudonym of a series, with a number if `earlier` contains findings of the same series."""
        name = self.names.series(study.series_key(item))
        taken = {finding.series for finding in earlier if finding.series.startswith(name)}
        return f"{name}-{len(taken) + 1}" if taken else name


def findings_of(prediction: Prediction, image: Image, series: str) -> list[Finding]:
    """Return one finding per class.

    For a classification, it contains the probability of the class. For an ordinal classification, the classes are
    followed by a finding with the predicted grade, named by the label. For a segmentation, it contains the volume of
    the class, and the background is omitted. For a regression, the only finding contains the number. For survival, the
    classes are followed by a finding for each of the derived times. For a multi-task model, there are the findings of
    each label, named `LABEL.CLASS` or, for a number, by the label.
    """
    if prediction.by_label:
        names = iter(prediction.classes)
        return [
            one if one.label in own.grades and one.value is not None else replace(one, label=next(names))
            for own in prediction.by_label.values()
            for one in findings_of(own, image, series)
        ]
    if prediction.value is not None:
        return [Finding(series, prediction.classes[0], value=prediction.value)]
    if prediction.probabilities is not None:
        pairs = zip(prediction.classes, prediction.probabilities, strict=True)
        found = [Finding(series, name, probability=float(value)) for name, value in pairs]
        derived = {**prediction.times, **prediction.grades}
        return found + [Finding(series, name, value=value) for name, value in derived.items()]
    assert prediction.mask is not None
    counts = np.bincount(prediction.mask.ravel(), minlength=len(prediction.classes))
    voxel_ml = prediction.affine.voxel_ml if prediction.affine is not None and image.kind == "volume" else None
    return [
        Finding(series, name, volume_ml=None if voxel_ml is None else int(count) * voxel_ml, num_voxels=int(count))
        for name, count in list(zip(prediction.classes, counts, strict=True))[1:]
    ]


def with_uncertainty(findings: Sequence[Finding], prediction: Prediction, task: str) -> list[Finding]:
    """Add prediction set or interval, and the disagreement of several models, to the findings of an image.

    These are added to the findings of classes or labels, or to the finding of a number. A disagreement about the image
    is added to each of its classes, a disagreement about a label to this label.
    """
    found = prediction.prediction_set
    if found is None and prediction.members is None:
        return list(findings)
    is_own = [finding.probability is not None or prediction.value is not None for finding in findings]
    added: list[dict[str, Any]] = [{} for _ in range(sum(is_own))]
    if found is not None:
        texts = [""] * len(added) if found.is_in is None else set_texts(found.is_in)
        for one, text in zip(added, texts, strict=True):
            one |= {"in_set": text, "interval": found.interval, "coverage": found.coverage}
    if prediction.members is not None:
        measured = Disagreement.of(task, prediction.members)
        for number, one in enumerate(added):
            one |= {name: _at(getattr(measured, name), number) for name in ("entropy", "mutual_information")}
            one |= {"spread": measured.spread}
    every = iter(added)
    return [replace(one, **next(every)) if own else one for one, own in zip(findings, is_own, strict=True)]


def set_texts(is_in: Bool[Array, "l *two"]) -> list[str]:
    """Return for each class whether it is in a prediction set, as text, or for each label which values are."""
    if is_in.ndim == 1:
        return ["yes" if one else "no" for one in is_in]
    return [SETS[bool(absent), bool(present)] for absent, present in is_in]


def _at(values: Float[Array, "k"] | None, number: int) -> float | None:
    """Return the value of a label, or the one value of all classes."""
    return None if values is None else float(values[number if len(values) > 1 else 0])


def notes_on_patients(study: Study) -> list[str]:
    """Return a note if other patients have the same StudyInstanceUID."""
    return [f"{study.num_others} other patients have the same StudyInstanceUID"] if study.num_others else []


def _notes_on(study: Study, num_left: int) -> list[str]:
    notes = []
    if num_left > 0:
        notes.append(f"{num_left + 1} series fit the model, the largest was used")
    refused = [refusal for refusal in study.refusals if refusal.code != DUPLICATE]
    if refused:  # possibly the outermost slices of the same series: the grid does not show that they are missing
        notes.append(
            f"{sum(len(r.files) for r in refused)} files that may belong to it are excluded: {refused[0].reason}"
        )
    if study.num_unreadable:
        notes.append(f"{study.num_unreadable} files beside the images cannot be read")
    return notes
