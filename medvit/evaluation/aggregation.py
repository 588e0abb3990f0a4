"""Classification metrics by image, eye, visit and patient, and by strata of quality and uncertainty.

A clinical decision is rarely based on a single photograph. Aggregation works as follows:

- An eye has the images of one laterality of a patient in a study. Its probabilities are the mean over these images. An
  image without a laterality counts as a separate eye.
- A visit has all eyes of a patient in a study; a patient has all visits. If classes are ordered, the probabilities of a
  visit or patient are those of the worst eye, which has the highest expected class. If not, they are the mean over
  eyes.
- Classes are ordered if the config orders them, if there are two (negative and positive), or if they are numeric
  grades.
- The true class of a group is the worst among its images if classes are ordered. If not, its images must have the same
  true class; other groups are excluded.

Uncertainty is the entropy of the probabilities of an image (Shannon 1948), over its largest value.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray as Array

from medvit.attributes import LATERALITY, QUALITY, STRATA, stratum
from medvit.errors import ConfigError
from medvit.evaluation import Breakdown, Evaluation, MetricRow
from medvit.evaluation.positive import index_of
from medvit.evaluation.tasks.classification import class_estimates
from medvit.metrics import PATIENT_PREFIX, Classified
from medvit.patients import PatientCount, assumed_patients
from medvit.records import Row
from medvit.statistics import Estimate

AggregationLevel = Literal["image", "eye", "visit", "patient"]
LEVELS: tuple[AggregationLevel, ...] = ("image", "eye", "visit", "patient")
THIRDS = ("most certain third", "middle third", "least certain third")


@dataclass(frozen=True)
class Answers:
    """True classes (N,), probabilities (N, L) and patients of N items: images, eyes, visits or patients."""

    truth: Int[Array, "n"]
    probabilities: Float[Array, "n l"]
    patients: tuple[str, ...]
    eyes: tuple[Hashable, ...]
    """Key of eye and visit of each item; equal for images of one eye in one visit."""
    visits: tuple[Hashable, ...]

    def __len__(self) -> int:
        return len(self.truth)

    def at(self, indices: Sequence[int]) -> Answers:
        """Return the items at these indices."""
        chosen = [int(index) for index in indices]
        return Answers(
            self.truth[chosen],
            self.probabilities[chosen],
            tuple(self.patients[n] for n in chosen),
            tuple(self.eyes[n] for n in chosen),
            tuple(self.visits[n] for n in chosen),
        )


def answers(rows: Sequence[Row], truth: Int[Array, "n"], probabilities: Float[Array, "n l"]) -> Answers:
    """Return one item per image."""
    visits = tuple((row.patient_id, row.study_id) for row in rows)
    sides = [row.attributes.get(LATERALITY) for row in rows]
    eyes = tuple((visit, side or row.image_id) for visit, side, row in zip(visits, sides, rows, strict=True))
    return Answers(truth, probabilities, tuple(row.patient_id for row in rows), eyes, visits)


def at_level(
    images: Answers, level: AggregationLevel, *, is_ordered: bool, rank: Int[Array, "l"] | None = None
) -> Answers:
    """Merge the images of each group, which is an eye, a visit or a patient, into one item.

    If classes are not ordered, a group whose images have different true classes is dropped. `rank` is the severity of
    each class, from 0; None if the classes are already in ascending order of severity.
    """
    if level == "image":
        return images
    ranked = np.arange(images.probabilities.shape[1]) if rank is None else rank
    badness = ranked if is_ordered else None
    eyes = _together(images, images.eyes, _mean, badness)
    if level == "eye":
        return eyes
    join = partial(_worst, rank=ranked) if is_ordered else _mean
    visits = _together(eyes, eyes.visits, join, badness)
    return visits if level == "visit" else _together(visits, visits.patients, join, badness)


def of_patients(images: Answers) -> Answers:
    """Return one item per patient with the mean probabilities of all images.

    Patients whose images have different true classes are dropped.
    """
    return _together(images, images.patients, _mean, None)


def ranks(classes: Sequence[str], order: Sequence[str]) -> Int[Array, "l"]:
    """Return the rank of each class in an order from harmless to worst.

    Raises:
        ConfigError: If the order does not name each class once.
    """
    if sorted(order) != sorted(classes):
        raise ConfigError(f"order names {', '.join(order)}; expected each of {', '.join(classes)} once, the worst last")
    return np.array([list(order).index(name) for name in classes])


def are_ordered(classes: Sequence[str]) -> bool:
    """Return whether classes are assumed to be ordered by severity: there are two, or all are numbers."""
    return len(classes) == 2 or all(name.lstrip("-").isdigit() for name in classes)


def from_harmless(classes: Sequence[str], positive: int) -> tuple[str, ...]:
    """Return the classes ordered from harmless to worst.

    If there are two classes, the positive one comes last; `positive` is its index. More classes keep their order.
    """
    return (classes[1 - positive], classes[positive]) if len(classes) == 2 else tuple(classes)


def uncertainty(probabilities: Float[Array, "n l"]) -> Float[Array, "n"]:
    """Return the entropy of each row of probabilities, divided by the entropy of a uniform distribution, in [0, 1]."""
    logs = np.log(np.clip(probabilities, 1e-12, 1.0))
    return np.asarray(-(probabilities * logs).sum(axis=1) / np.log(probabilities.shape[1]))


def breakdowns(
    rows: Sequence[Row],
    images: Answers,
    classes: Sequence[str],
    levels: Sequence[AggregationLevel],
    *,
    resamples: int,
    seed: int,
    order: Sequence[str] = (),
    positive: int = 1,
    is_graded: bool = False,
) -> tuple[Breakdown, ...]:
    """Return metrics with intervals by aggregation level, by quality if images have a score, and by uncertainty.

    `order` names all classes from harmless to worst. If there are two classes, `positive` is the index of the positive
    one. `is_graded` is true for an ordinal classification.

    Raises:
        ConfigError: If `order` does not name exactly the classes.
    """
    assumed = assumed_patients(rows)

    def line(name: str, part: Answers) -> MetricRow:
        estimates = _estimates(part, classes, positive, is_graded=is_graded, resamples=resamples, seed=seed)
        return MetricRow(name, len(part), PatientCount.among(part.patients, assumed), estimates)

    found = []
    if len(levels) > 1:
        ordered = bool(order) or are_ordered(classes)
        rank = ranks(classes, order or from_harmless(classes, positive))
        parts = {level: at_level(images, level, is_ordered=ordered, rank=rank) for level in levels}
        lines = tuple(line(*part) for part in parts.items() if len(part[1]))
        found.append(Breakdown("By level", _rule(ordered), lines))
    if any(QUALITY in row.attributes for row in rows):
        strata = _strata([stratum(row) for row in rows], [*(name for name, *_ in STRATA), "not judged"])
        description = (
            "Quality of the photograph: the worst of the sharpness, exposure and field-of-view scores of ingest."
        )
        found.append(
            Breakdown("By quality", description, tuple(line(n, images.at(those)) for n, those in strata.items()))
        )
    if len(levels) > 1 and len(images) >= len(THIRDS):
        thirds = dict(zip(THIRDS, np.array_split(np.argsort(uncertainty(images.probabilities)), 3), strict=True))
        description = (
            "Images by the entropy of their probabilities: a well-calibrated model makes most errors in the last third."
        )
        found.append(
            Breakdown("By uncertainty", description, tuple(line(n, images.at(list(t))) for n, t in thirds.items()))
        )
    return tuple(found)


def _rule(is_ordered: bool) -> str:
    joined = "the probabilities of their worst eye" if is_ordered else "the mean of their eyes"
    return f"An eye has the mean of its images, visits and patients {joined}. Intervals are over patients."


def _strata(names: Sequence[str], order: Sequence[str]) -> Mapping[str, list[int]]:
    members: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(names):
        members[name].append(index)
    return {name: members[name] for name in order if name in members}


def _together(
    parts: Answers, keys: Sequence[Hashable], join: Callable[[Array], Array], badness: Int[Array, "l"] | None
) -> Answers:
    """Merge all items with the same key into one item.

    Its probabilities are computed by `join` from the probabilities of the merged items. Its true class is the worst
    true class among them, by the severity `badness` of each class. Without `badness`, items with the same key but
    different true classes are dropped.
    """
    members: dict[Hashable, list[int]] = defaultdict(list)
    for index, key in enumerate(keys):
        members[key].append(index)
    groups = [those for those in members.values() if badness is not None or len(set(parts.truth[those])) == 1]
    first = parts.at([those[0] for those in groups])
    worst = [those[0] if badness is None else max(those, key=lambda n: badness[parts.truth[n]]) for those in groups]
    joined = [join(parts.probabilities[those]) for those in groups]
    probabilities = np.stack(joined) if joined else parts.probabilities[:0]
    return Answers(parts.truth[worst], probabilities, first.patients, first.eyes, first.visits)


def _mean(probabilities: Float[Array, "n l"]) -> Float[Array, "l"]:
    return np.asarray(probabilities.mean(axis=0))


def _worst(probabilities: Float[Array, "n l"], *, rank: Int[Array, "l"]) -> Float[Array, "l"]:
    return np.asarray(probabilities[int(np.argmax(probabilities @ rank))])


def with_patients(images: Evaluation, *, resamples: int, seed: int) -> Evaluation:
    """Add metrics over patients, named `patient_...`, to a classification of images.

    If every patient has one image, the classification is returned unchanged.
    """
    patients = of_patients(answers(images.rows, images.truth, images.probabilities))
    assumed = assumed_patients(images.rows)
    everyone = {row.patient_id for row in images.rows}
    if len(everyone) == len(images.rows) or not len(patients):
        return images
    positive = index_of(images.positive, images.classes)
    how: dict[str, Any] = {"is_graded": images.is_graded, "resamples": resamples, "seed": seed}
    estimates = _estimates(patients, images.classes, positive, **how)
    counted = PatientCount.among(patients.patients, assumed)
    notes = [f"{counted}: each has the mean of the probabilities of its images"]
    if mixed := everyone - set(patients.patients):
        notes.append(f"with images of several classes, and excluded: {PatientCount.among(mixed, assumed)}")
    metrics = dict(images.metrics) | {f"{PATIENT_PREFIX}{name}": estimate for name, estimate in estimates.items()}
    return replace(images, metrics=metrics, notes=(*images.notes, *notes))


def _estimates(
    parts: Answers, classes: Sequence[str], positive: int, *, is_graded: bool, resamples: int, seed: int
) -> dict[str, Estimate]:
    items = Classified(parts.truth, parts.probabilities, classes, positive, is_graded)
    return class_estimates(items, parts.patients, resamples=resamples, seed=seed)
