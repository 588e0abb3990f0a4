"""Predictions of models on the same images, as they are and under each condition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.dataset.manifest import Manifest
from medvit.dataset.samples import load
from medvit.errors import DataError, MedvitError, unexpected
from medvit.evaluation.robustness import CLEAN, Condition
from medvit.evaluation.robustness.scoring import Scoring
from medvit.inference.predictor import Predictor
from medvit.progress import with_progress
from medvit.records import Row
from medvit.transforms.corruptions import Corruption
from medvit.types import Image

ImageNumbers = list[list[Sequence[float]]]
"""Numbers of an image, by condition and model."""


@dataclass(frozen=True)
class CorruptedPredictions:
    """Truth (N, T) of N images, and predictions (N, M) of each model under each condition."""

    rows: tuple[Row, ...]
    truth: Float[Array, "n t"]
    found: tuple[dict[Condition, Float[Array, "n m"]], ...]
    """Predictions of one model per element: of the model, and of the reference if there is one."""


def conditions_of(corruptions: Sequence[Corruption], severities: Sequence[int]) -> list[Condition]:
    """Return no corruption, then each corruption in each severity."""
    return [CLEAN, *(Condition(one.name, severity) for one in corruptions for severity in sorted(severities))]


def predict_corrupted(
    manifest: Manifest,
    predictors: Sequence[Predictor],
    scoring: Scoring,
    corruptions: Sequence[Corruption],
    severities: Sequence[int],
    failures: list[str],
    *,
    seed: int,
) -> CorruptedPredictions:
    """Predict every image under every condition with every model.

    All conditions and models have the same images: one that fails under a condition is excluded from all, and a line is
    added to `failures`.

    Raises:
        DataError: If all images fail.
    """
    conditions = conditions_of(corruptions, severities)
    known = {one.name: one for one in corruptions}
    rows: list[Row] = []
    tables: list[ImageNumbers] = []
    for row in with_progress(manifest.rows, total=len(manifest), title="Evaluating", unit="image"):
        try:
            image = load(manifest, row)
            found = [_scored(row, image, one, predictors, scoring, known, seed) for one in conditions]
        except MedvitError as error:
            failures.append(f"{row}: {error}")
        except (RuntimeError, ValueError, OSError) as error:  # a damaged array, an image too large for the device
            failures.append(f"{row}: {unexpected(error)}")
        else:
            rows.append(row)
            tables.append(found)
    if not rows:
        raise DataError(f"{manifest.folder}: all {len(manifest)} images failed, first {failures[0]}")
    truth = np.array([list(scoring.truth(row)) for row in rows], np.float64)
    return CorruptedPredictions(
        tuple(rows), truth, tuple(_of_model(tables, model, conditions) for model in range(len(predictors)))
    )


def _scored(
    row: Row,
    image: Image,
    condition: Condition,
    predictors: Sequence[Predictor],
    scoring: Scoring,
    corruptions: Mapping[str, Corruption],
    seed: int,
) -> list[Sequence[float]]:
    """Return the numbers of an image under a condition, by model."""
    name = condition.corruption
    shown = corruptions[name](image, condition.severity, seed=seed) if name else image
    return [scoring.found(row, shown, predictor(shown)) for predictor in predictors]


def _of_model(
    tables: Sequence[ImageNumbers], model: int, conditions: Sequence[Condition]
) -> dict[Condition, Float[Array, "n m"]]:
    return {
        condition: np.array([table[place][model] for table in tables], np.float64)
        for place, condition in enumerate(conditions)
    }
