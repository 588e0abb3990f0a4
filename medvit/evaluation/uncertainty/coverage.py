"""Coverage of prediction sets and intervals on the evaluated images, with intervals over patients.

The guarantee of conformal prediction is for an image drawn at random from a new patient. In all numbers here, each
patient therefore has the same weight, whatever the number of images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray as Array

from medvit.evaluation import Evaluation
from medvit.evaluation.subgroups.grouping import grouped
from medvit.models.conformal import Conformal
from medvit.statistics import Estimate
from medvit.statistics.bootstrap import bootstrap
from medvit.statistics.clusters import Clusters
from medvit.statistics.proportion import proportion_of_patients

ALL = "all images"


@dataclass(frozen=True)
class CoverageRow:
    """Coverage of some images: of all, of a true class, or of a subgroup; of one label if the model predicts several.

    `size` is the mean number of classes in a set, or the mean width of an interval. `empty` and `single` are the shares
    of sets with no and with one class; None for intervals.
    """

    label: str
    name: str
    num_images: int
    num_patients: int
    coverage: Estimate
    size: Estimate
    empty: Estimate | None = None
    single: Estimate | None = None


@dataclass(frozen=True)
class _Outcomes:
    """Whether each image is covered, the size of its set or interval, and its patient."""

    label: str
    is_covered: Bool[Array, "n"]
    sizes: Float[Array, "n"]
    patients: Sequence[str]
    is_set: bool

    def row(self, name: str, those: Int[Array, "m"], *, resamples: int, seed: int) -> CoverageRow:
        """Return the coverage of the images at these indices."""
        patients, sizes = [self.patients[int(index)] for index in those], self.sizes[those]
        is_covered = self.is_covered[those]
        shares = [proportion_of_patients(sizes == number, patients) for number in (0, 1)] if self.is_set else []
        return CoverageRow(
            self.label,
            name,
            len(those),
            len(set(patients)),
            proportion_of_patients(is_covered, patients),
            _mean_of_patients(sizes, patients, resamples=resamples, seed=seed),
            *shares,
        )


def coverage_rows(
    evaluation: Evaluation, conformal: Conformal, attributes: Sequence[str], *, resamples: int, seed: int
) -> list[CoverageRow]:
    """Return the coverage of all images, of each true class, and of the groups of each attribute."""
    groups = {f"{name}: {group}": those for name in attributes for group, those in _groups(evaluation, name).items()}
    found = []
    for outcomes, classes, known in _each(evaluation, conformal):
        place = np.full(len(evaluation.rows), -1)
        place[known] = np.arange(known.size)
        parts = {ALL: np.arange(known.size), **classes}
        parts |= {name: place[those][place[those] >= 0] for name, those in groups.items()}
        found += [
            outcomes.row(name, those, resamples=resamples, seed=seed) for name, those in parts.items() if those.size
        ]
    return found


def set_columns(evaluation: Evaluation, conformal: Conformal) -> dict[str, Float[Array, "n"]]:
    """Return columns of `predictions.parquet`: whether each class is in the set of each image, or the interval."""
    if evaluation.kind == "regression":
        low, high = _intervals(evaluation, conformal).T
        return {"low": low, "high": high}
    if evaluation.kind == "multilabel":
        sets = conformal.label_sets(evaluation.probabilities)
        pairs = [(place, f"{'with' if value else 'without'}.{name}", value) for place, name in
                 enumerate(evaluation.classes) for value in (0, 1)]  # fmt: skip
        return {f"in_set.{name}": sets[:, place, value].astype(float) for place, name, value in pairs}
    columns = conformal.sets(evaluation.probabilities).T.astype(float)
    return {f"in_set.{name}": column for name, column in zip(evaluation.classes, columns, strict=True)}


def _each(
    evaluation: Evaluation, conformal: Conformal
) -> Iterator[tuple[_Outcomes, Mapping[str, Int[Array, "m"]], Int[Array, "k"]]]:
    """Yield outcomes, indices of the images of each true class, and images whose truth is known; for each label."""
    patients, every = evaluation.patients, np.arange(len(evaluation.rows))
    if evaluation.kind == "regression":
        ends, truth = _intervals(evaluation, conformal), evaluation.columns["truth"]
        is_inside = (ends[:, 0] <= truth) & (truth <= ends[:, 1])
        yield _Outcomes("", is_inside, ends[:, 1] - ends[:, 0], patients, is_set=False), {}, every
    elif evaluation.kind == "multilabel":
        sets = conformal.label_sets(evaluation.probabilities)
        for place, name in enumerate(evaluation.classes):
            truth = evaluation.label_truth[:, place]
            known = np.flatnonzero(~np.isnan(truth))
            own = [patients[int(index)] for index in known]
            yield _of_sets(name, sets[known, place], truth[known].astype(int), own, ("without", "with")) + (known,)
    else:
        sets = conformal.sets(evaluation.probabilities)
        yield _of_sets("", sets, evaluation.truth, patients, evaluation.classes) + (every,)


def _of_sets(
    label: str, sets: Bool[Array, "n l"], truth: Int[Array, "n"], patients: Sequence[str], classes: Sequence[str]
) -> tuple[_Outcomes, Mapping[str, Int[Array, "m"]]]:
    is_covered = sets[np.arange(len(truth)), truth]
    outcomes = _Outcomes(label, is_covered, sets.sum(axis=1).astype(float), patients, is_set=True)
    return outcomes, {f"true class: {name}": np.flatnonzero(truth == place) for place, name in enumerate(classes)}


def _groups(evaluation: Evaluation, attribute: str) -> Mapping[str, Int[Array, "m"]]:
    found = grouped(evaluation.rows, attribute)
    return found if len(found) > 1 else {}


def _intervals(evaluation: Evaluation, conformal: Conformal) -> Float[Array, "n 2"]:
    return conformal.intervals(evaluation.columns["predicted"], evaluation.columns.get("spread"))


def _mean_of_patients(values: Float[Array, "n"], patients: Sequence[str], *, resamples: int, seed: int) -> Estimate:
    """Return the mean over patients of the mean of their images, with its bootstrap interval."""
    clusters = Clusters.of(patients)
    means = clusters.sums(values) / clusters.sums(np.ones(len(values)))
    names = [str(number) for number in range(clusters.total)]
    return bootstrap(lambda drawn: {"": float(means[drawn].mean())}, names, resamples=resamples, seed=seed)[""]
