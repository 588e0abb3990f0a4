"""Scores under all conditions with intervals over patients, and errors relative to the reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy import ndarray as Array

from medvit.evaluation.robustness import CLEAN, Condition, ConditionScores, CorruptionScores, Robustness
from medvit.evaluation.robustness.predictions import CorruptedPredictions
from medvit.evaluation.robustness.scoring import Scoring
from medvit.statistics import Estimate
from medvit.statistics.bootstrap import bootstrap

WHOLE = ""
"""Name under which the mean over all corruptions is computed."""


def robustness(
    predictions: CorruptedPredictions, scoring: Scoring, *, resamples: int, seed: int
) -> tuple[Robustness, Robustness | None]:
    """Return the scores of the model, relative to the reference if there is one, and the scores of the reference.

    Model and reference are compared on the same resamples of patients.
    """

    def numbers(drawn: Int[Array, "m"]) -> dict[str, float]:
        scores = [
            {condition: scoring.compute(predictions.truth[drawn], found[drawn]) for condition, found in own.items()}
            for own in predictions.found
        ]
        found: dict[str, float] = {}
        for model, own in enumerate(scores):
            for condition, (metric, error) in own.items():
                found |= {_key(model, "metric", condition): metric, _key(model, "error", condition): error}
            errors = {condition: error for condition, (_, error) in own.items()}
            reference = {condition: error for condition, (_, error) in scores[-1].items()} if len(scores) > 1 else None
            for name, values in errors_of_corruptions(errors, reference if model == 0 else None).items():
                found |= {f"{model}|{kind}|{name}": value for kind, value in values.items()}
        return found

    patients = [row.patient_id for row in predictions.rows]
    estimates = bootstrap(numbers, patients, resamples=resamples, seed=seed)
    models = [_collected(estimates, model, list(own)) for model, own in enumerate(predictions.found)]
    return models[0], (models[1] if len(models) > 1 else None)


def errors_of_corruptions(
    errors: Mapping[Condition, float], reference: Mapping[Condition, float] | None = None
) -> dict[str, dict[str, float]]:
    """Return mean error and rise of each corruption, and of all (`WHOLE`); with a reference, also the relative errors.

    A relative error is undefined (NaN) if the denominator, which is the error or the rise of the reference, is not
    positive. The mean over all corruptions is then undefined, too: it always covers the same corruptions.
    """
    found = {
        name: _mean_and_rise(errors, name) for name in dict.fromkeys(one.corruption for one in errors if one != CLEAN)
    }
    if reference is not None:
        for name, own in found.items():
            theirs = _mean_and_rise(reference, name)
            own["balanced"] = own["mean_error"] / theirs["mean_error"] if theirs["mean_error"] > 0.0 else float("nan")
            own["relative"] = own["rise"] / theirs["rise"] if theirs["rise"] > 0.0 else float("nan")
    kinds = next(iter(found.values())).keys()
    whole = {kind: float(np.mean([own[kind] for own in found.values()])) for kind in kinds}
    return {**found, WHOLE: whole}


def _mean_and_rise(errors: Mapping[Condition, float], name: str) -> dict[str, float]:
    mean = float(np.mean([error for condition, error in errors.items() if condition.corruption == name]))
    return {"mean_error": mean, "rise": mean - errors[CLEAN]}


def _collected(estimates: Mapping[str, Estimate], model: int, conditions: list[Condition]) -> Robustness:
    def of_corruption(name: str) -> CorruptionScores:
        values: dict[str, Any] = {
            kind: estimates.get(f"{model}|{kind}|{name}") for kind in ("mean_error", "rise", "balanced", "relative")
        }
        return CorruptionScores(**values)

    scores = {
        one: ConditionScores(estimates[_key(model, "metric", one)], estimates[_key(model, "error", one)])
        for one in conditions
    }
    names = dict.fromkeys(one.corruption for one in conditions if one != CLEAN)
    return Robustness(scores, {name: of_corruption(name) for name in names}, of_corruption(WHOLE))


def _key(model: int, kind: str, condition: Condition) -> str:
    return f"{model}|{kind}|{condition.corruption}|{condition.severity}"


def tree_of(found: Robustness) -> dict[str, Any]:
    """Return scores as a tree for JSON; undefined numbers are None."""
    return {
        "conditions": [
            {
                "corruption": one.corruption,
                "severity": one.severity,
                "metric": scores.metric.plain_interval,
                "error": scores.error.plain_interval,
            }
            for one, scores in found.conditions.items()
        ],
        "corruptions": {name: _of_corruption(scores) for name, scores in found.corruptions.items()},
        "all": _of_corruption(found.whole),
    }


def _of_corruption(scores: CorruptionScores) -> dict[str, Any]:
    kinds = {
        "mean_error": scores.mean_error,
        "rise": scores.rise,
        "balanced_error": scores.balanced,
        "relative_balanced_error": scores.relative,
    }
    return {kind: estimate.plain_interval for kind, estimate in kinds.items() if estimate is not None}
