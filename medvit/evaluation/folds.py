"""Out-of-fold predictions in a report: how they are pooled, and AUROC between patients of the same fold.

Each patient is predicted once, by the mean of the models that were not trained on it. Metrics are those of all patients
together, with intervals over patients: patients, not folds, are the independent observations. The models are fixed: the
variation that other training patients or seeds would cause is not in the intervals, and cannot be estimated without
bias from folds (Bengio and Grandvalet, Journal of Machine Learning Research 2004).

AUROC compares scores of different patients, also of patients from different folds, whose scores come from different
models. If these have different scales, the pooled AUROC is too low (Airola et al., Computational Statistics and Data
Analysis 2011). Therefore, the AUROC of pairs of the same fold is reported beside it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from medvit.document import Block, Section, Table
from medvit.evaluation import Evaluation
from medvit.evaluation.part import ReportPart, ReportPlace
from medvit.evaluation.samples import samples_of
from medvit.inference.out_of_fold import StoredPredictions
from medvit.metrics import metric_title
from medvit.statistics.auroc import Ranking

POOLED = (
    "Each patient was predicted once, by the mean of the models that were not trained on it. Metrics are those of all "
    "patients together, and intervals are over patients. The intervals do not include the variation that training with "
    "other patients or seeds would cause."
)
BETWEEN = (
    "AUROC of all pairs also compares patients whose scores come from different models. AUROC within folds compares "
    "only patients predicted by the same models. If it is clearly higher, the scores of the models have different "
    "scales."
)


def fold_part(evaluation: Evaluation, predictions: StoredPredictions) -> ReportPart:
    """Return the part of a report on out-of-fold predictions, with AUROC of all pairs and of pairs within folds.

    A fold consists of the patients that were predicted by the same models. With several seeds, patients are divided
    several times, and folds are smaller.
    """
    fold_of = {row.patient_id: tuple(predictions.lines[row.image_id]["models"]) for row in evaluation.rows}
    number = len(set(fold_of.values()))
    found = {}
    for key, ranking in _rankings(evaluation).items():
        pooled, within = evaluation.metrics[key].value, ranking.within(fold_of)
        if not np.isnan([pooled, within]).any():
            found[key] = {"all_pairs": pooled, "within_folds": within}
    lines = [
        [metric_title(key, evaluation.positive), *(f"{value:.3f}" for value in values.values())]
        for key, values in found.items()
    ]
    blocks: list[Block] = [POOLED]
    if lines:
        blocks += [f"{BETWEEN} There are {number} such groups.", Table(["metric", "all pairs", "within folds"], lines)]
    section = Section("Predictions out of fold", blocks)
    return ReportPart(ReportPlace.RESULTS, section, "folds", {"number": number, "auroc": found})


def _rankings(evaluation: Evaluation) -> Mapping[str, Ranking]:
    """Return the images ranked by the scores of each class or label, keyed by metric."""
    samples = samples_of(evaluation, np.arange(len(evaluation.rows)))
    return {key: sample for key, sample in samples.items() if isinstance(sample, Ranking)}
