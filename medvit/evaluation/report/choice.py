"""Choice of the cases that a report shows: the worst errors first, then a median and a best case."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray as Array

from medvit.evaluation import Evaluation
from medvit.evaluation.tasks.classification import classified
from medvit.records import Row

MIDDLE, BEST = "median", "best"
"""Names of the two cases after the errors, which show how a typical and a good result look."""
NUM_OTHERS = 2
"""Number of cases that are not errors."""

LesionSize = Callable[[Row], float]
"""Function that returns the number of labeled pixels of an image; 0 if it has no label map."""


@dataclass(frozen=True)
class ChosenCase:
    """Case to show: an image, the kind of its error, truth and prediction in words, and a score in words."""

    row: Row
    kind: str
    truth: str
    prediction: str
    score: str = ""


def choose_cases(evaluation: Evaluation, limit: int, lesion_size: LesionSize = lambda _: 0.0) -> list[ChosenCase]:
    """Return at most `limit` cases, the worst errors first, each image once.

    False negatives come first, those with the largest lesion or the lowest probability before others. False positives
    follow, then other errors, and last a median and a best case. For a multi-task model, each label has its share.
    """
    if evaluation.parts:
        share = max(1, limit // len(evaluation.parts))
        return [
            ChosenCase(one.row, f"{label}: {one.kind}", one.truth, one.prediction, one.score)
            for label, part in evaluation.parts.items()
            for one in choose_cases(part, share, lesion_size)
        ][:limit]
    found = {
        "segmentation": _of_masks,
        "regression": _of_values,
        "survival": _of_survival,
        "multilabel": _of_labels,
    }.get(evaluation.kind)
    errors, scores, describe = found(evaluation) if found else _of_classes(evaluation, lesion_size)
    num_errors = max(1, limit - NUM_OTHERS)
    chosen = list(islice(_once(_alternating(errors, num_errors)), num_errors))
    rest = _middle_and_best(scores, {index for index, _ in chosen})
    return [describe(index, kind) for index, kind in [*chosen, *rest]][:limit]


CaseErrors = Sequence[Sequence[tuple[int, str]]]
"""Indices of images with the kind of their error: one list per kind of error, the worst first."""
CaseChoice = tuple[CaseErrors, Float[Array, "n"], Callable[[int, str], ChosenCase]]
"""Errors, the score of each image (higher is better), and the description of a case."""


def _of_masks(evaluation: Evaluation) -> CaseChoice:
    """Missed structures by size, structures predicted although absent by size, then the lowest Dice."""
    columns, names = evaluation.columns, evaluation.classes[1:]
    missed, invented = [], []
    for name in names:
        true, given = columns[f"true_voxels.{name}"], columns[f"voxels.{name}"]
        hit = columns[f"overlap_voxels.{name}"]
        missed += [(true[n], int(n), f"false negative: {name}") for n in np.flatnonzero((true > 0) & (hit == 0))]
        invented += [(given[n], int(n), f"false positive: {name}") for n in np.flatnonzero((true == 0) & (given > 0))]
    scores = columns["dice"]
    low = [(int(n), "low Dice") for n in np.argsort(scores, kind="stable") if scores[n] < np.nanmedian(scores)]

    def describe(index: int, kind: str) -> ChosenCase:
        sizes = [_sizes(evaluation, index, key) for key in ("true_", "")]
        return ChosenCase(evaluation.rows[index], kind, sizes[0], sizes[1], f"Dice {scores[index]:.3f}")

    return [_largest(missed), _largest(invented), low], scores, describe


def _largest(found: Iterable[tuple[float, int, str]]) -> list[tuple[int, str]]:
    return [(index, kind) for _, index, kind in sorted(found, key=lambda one: -one[0])]


def _sizes(evaluation: Evaluation, index: int, key: str) -> str:
    """Return the size of each structure in one image, in mL if known, else in pixels."""
    parts = []
    for name in evaluation.classes[1:]:
        volume = evaluation.columns.get(f"{key}volume_ml.{name}")
        size = evaluation.columns[f"{key}voxels.{name}"][index]
        if not np.isnan(size):
            parts.append(f"{name} {size:.0f} px" if volume is None else f"{name} {volume[index]:.3g} mL")
    return ", ".join(parts)


def _of_classes(evaluation: Evaluation, lesion_size: LesionSize) -> CaseChoice:
    """False negatives and false positives of two classes, or wrong classes, the most confident first."""
    classes, truth, probabilities = evaluation.classes, evaluation.truth, evaluation.probabilities
    images = classified(evaluation)
    found, positive = images.chosen, images.positive
    scores = probabilities[np.arange(len(truth)), truth]
    wrong = [int(n) for n in np.argsort(scores, kind="stable") if found[n] != truth[n]]
    if len(classes) == 2:
        false_negatives = [n for n in wrong if truth[n] == positive]
        false_negatives.sort(key=lambda n: -lesion_size(evaluation.rows[n]))
        false_positives = [(n, "false positive") for n in wrong if truth[n] != positive]
        errors: CaseErrors = [[(n, "false negative") for n in false_negatives], false_positives]
    elif evaluation.is_graded:
        wrong.sort(key=lambda n: -abs(int(found[n]) - int(truth[n])))
        errors = [[(n, f"{abs(int(found[n]) - int(truth[n]))} grades off") for n in wrong]]
    else:
        errors = [[(n, "wrong class") for n in wrong]]

    def describe(index: int, kind: str) -> ChosenCase:
        given = f"{classes[found[index]]} ({probabilities[index, found[index]]:.3f})"
        score = f"probability of the true class {scores[index]:.3f}"
        return ChosenCase(evaluation.rows[index], kind, classes[truth[index]], given, score)

    return errors, scores, describe


def _of_labels(evaluation: Evaluation) -> CaseChoice:
    """Findings missed and findings predicted although absent, the most confident first."""
    truth = evaluation.label_truth
    probabilities = evaluation.probabilities
    distance = np.abs(probabilities - truth)
    scores = -np.nanmean(distance, axis=1)
    errors: CaseErrors = [
        _by_distance(evaluation.classes, distance, (truth == 1) & (probabilities <= 0.5), "false negative"),
        _by_distance(evaluation.classes, distance, (truth == 0) & (probabilities > 0.5), "false positive"),
    ]

    def describe(index: int, kind: str) -> ChosenCase:
        named = [
            ", ".join(name for name, is_so in zip(evaluation.classes, found, strict=True) if is_so) or "nothing"
            for found in (truth[index] == 1, probabilities[index] > 0.5)
        ]
        score = f"mean error of probabilities {-scores[index]:.3f}"
        return ChosenCase(evaluation.rows[index], kind, named[0], named[1], score)

    return errors, scores, describe


def _by_distance(
    classes: Sequence[str], distance: Float[Array, "n l"], is_wrong: Int[Array, "n l"], kind: str
) -> list[tuple[int, str]]:
    places = [(int(n), int(label)) for n, label in np.argwhere(is_wrong)]
    places.sort(key=lambda place: -distance[place])
    return [(n, f"{kind}: {classes[label]}") for n, label in places]


def _of_values(evaluation: Evaluation) -> CaseChoice:
    """Numbers with the largest errors."""
    truth, predicted = evaluation.columns["truth"], evaluation.columns["predicted"]
    scores = -np.abs(predicted - truth)
    order = [int(n) for n in np.argsort(scores, kind="stable") if scores[n] < np.median(scores)]
    errors = [(n, "too high" if predicted[n] > truth[n] else "too low") for n in order]

    def describe(index: int, kind: str) -> ChosenCase:
        values = f"{truth[index]:.4g}", f"{predicted[index]:.4g}"
        return ChosenCase(evaluation.rows[index], kind, *values, f"error {predicted[index] - truth[index]:+.4g}")

    return [errors], scores, describe


def _of_survival(evaluation: Evaluation) -> CaseChoice:
    """Events long before the predicted mean time, and patients without an event long after it."""
    columns = evaluation.columns
    time, event, predicted = columns["truth"], columns["event"] == 1.0, columns["predicted"]
    gap = predicted - time
    early = [(int(n), "event earlier than predicted") for n in np.argsort(-gap) if event[n] and gap[n] > 0]
    late = [(int(n), "without event for longer than predicted") for n in np.argsort(gap) if gap[n] < 0]

    def describe(index: int, kind: str) -> ChosenCase:
        state = "event" if event[index] else "no event up to then"
        return ChosenCase(evaluation.rows[index], kind, f"{time[index]:.4g} ({state})", f"{predicted[index]:.4g}")

    return [early, late], np.where(event, -np.abs(gap), np.nan), describe


def _alternating(errors: CaseErrors, limit: int) -> Iterator[tuple[int, str]]:
    """Yield equal shares of each kind of error, kind by kind; kinds with fewer errors leave their share to others."""
    kinds = [len({index for index, _ in kind}) for kind in errors]
    shares = [0] * len(errors)
    while sum(shares) < limit and any(share < size for share, size in zip(shares, kinds, strict=True)):
        for number, size in enumerate(kinds):
            shares[number] += int(shares[number] < size and sum(shares) < limit)
    for kind, share in zip(errors, shares, strict=True):
        yield from islice(_once(kind), share)
    for kind in errors:  # images that were wrong in two ways leave places free
        yield from kind


def _once(found: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Yield each image once, with the first kind of error that it has."""
    seen = set[int]()
    for index, kind in found:
        if index not in seen:
            seen.add(index)
            yield index, kind


def _middle_and_best(scores: Float[Array, "n"], taken: set[int]) -> list[tuple[int, str]]:
    """Return the images with the median and the best score that are not among the errors."""
    order = [int(n) for n in np.argsort(scores, kind="stable") if not np.isnan(scores[n])]
    if not order:
        return []
    found = {order[len(order) // 2]: MIDDLE, order[-1]: BEST}
    return [(index, kind) for index, kind in found.items() if index not in taken]
