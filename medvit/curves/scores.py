"""Scores of images, stored in one file per run, and metrics computed from them with weighted patients."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray as Array

from medvit.errors import DataError
from medvit.files.atomic import write_bytes
from medvit.records import Row


@dataclass(frozen=True)
class ClassScores:
    """True classes and predicted probabilities of n images.

    `truth` are class indices, and `patient` is the index of the patient of each image.
    """

    truth: Int[Array, "n"]
    probabilities: Float[Array, "n l"]
    patient: Int[Array, "n"]

    def metric(self, weights: Float[Array, "r p"]) -> Float[Array, "r"]:
        """Return one AUROC for each row of `weights`, which are the weights of the patients.

        With more than two classes, it is the mean of the AUROCs of each class against the rest, over the classes with
        cases and controls. It is NaN if no class has both.
        """
        each = weights[:, self.patient]
        labels = (1,) if self.probabilities.shape[1] == 2 else range(self.probabilities.shape[1])
        areas = np.stack([_auroc(self.truth == label, self.probabilities[:, label], each) for label in labels])
        is_defined = ~np.isnan(areas)
        with np.errstate(invalid="ignore"):
            return np.asarray(np.where(is_defined, areas, 0.0).sum(axis=0) / is_defined.sum(axis=0))


@dataclass(frozen=True)
class CaseScores:
    """One score for each of n images, such as its Dice; `patient` is the index of the patient of each image."""

    score: Float[Array, "n"]
    patient: Int[Array, "n"]

    def metric(self, weights: Float[Array, "r p"]) -> Float[Array, "r"]:
        """Return one mean score for each row of `weights`, which are the weights of the patients.

        The scores of each patient's images are averaged first. Images with an undefined score are ignored.
        """
        num_patients = weights.shape[1]
        known = ~np.isnan(self.score)
        sums = np.bincount(self.patient[known], self.score[known], minlength=num_patients)
        counts = np.bincount(self.patient[known], minlength=num_patients)
        has_score = counts > 0
        means = sums[has_score] / counts[has_score]
        given = weights[:, has_score]
        with np.errstate(invalid="ignore"):
            return np.asarray(given @ means / given.sum(axis=1))


ImageScores = ClassScores | CaseScores


def patient_indices(rows: Sequence[Row]) -> Int[Array, "n"]:
    """Return the index of the patient of each row; patients are numbered in the order of their identifiers."""
    return np.unique([row.patient_id for row in rows], return_inverse=True)[1]


def save(path: Path, scores: ImageScores) -> None:
    """Write scores to a file (.npz), atomically."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **vars(scores))
    write_bytes(path, buffer.getvalue())


def load(path: Path) -> ImageScores:
    """Return the scores in a file.

    Raises:
        DataError: If a probability is not finite.
    """
    with np.load(path, allow_pickle=False) as arrays:
        found = dict(arrays)
    scores = ClassScores(**found) if "truth" in found else CaseScores(**found)
    require_finite(scores, path.stem)
    return scores


def require_finite(scores: ImageScores, run: str) -> None:
    """Check that all probabilities of a run are finite; the Dice of an image may be undefined.

    Raises:
        DataError: If a probability is not finite.
    """
    if isinstance(scores, ClassScores) and not np.isfinite(scores.probabilities).all():
        number = int((~np.isfinite(scores.probabilities)).any(axis=1).sum())
        raise DataError(f"{run}: the probabilities of {number} of {len(scores.truth)} images are not finite")


def value(scores: ImageScores) -> float:
    """Return the metric of scores with equal weights for all patients."""
    return float(scores.metric(np.ones((1, int(scores.patient.max()) + 1)))[0])


def _auroc(positive: Bool[Array, "n"], scores: Float[Array, "n"], weights: Float[Array, "r n"]) -> Float[Array, "r"]:
    """Return one AUROC for each row of image weights.

    The AUROC is the weighted fraction of pairs of a positive and a negative image in which the positive image has the
    higher score. A tie counts as half.
    """
    order = np.argsort(scores, kind="stable")
    ranked, is_case = scores[order], positive[order]
    ordered = weights[:, order]
    controls = np.zeros((len(weights), len(scores) + 1))
    np.cumsum(ordered * ~is_case, axis=1, out=controls[:, 1:])
    cases = ordered[:, is_case]
    below, up_to = (np.searchsorted(ranked, ranked[is_case], side) for side in ("left", "right"))
    wins = (cases * (controls[:, below] + controls[:, up_to])).sum(axis=1) / 2
    with np.errstate(invalid="ignore"):
        return np.asarray(wins / (cases.sum(axis=1) * controls[:, -1]))
