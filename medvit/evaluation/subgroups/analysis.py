"""Metrics of subgroups with intervals over patients, and their gaps to all other images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Int
from numpy import ndarray as Array

from medvit.evaluation import Evaluation
from medvit.evaluation.subgroups import ATTRIBUTES, Subgroup, SubgroupAnalysis
from medvit.evaluation.subgroups.grouping import grouped
from medvit.evaluation.subgroups.main_metrics import main_keys, main_metrics, main_samples, positives
from medvit.metrics import is_lower_better, metric_title
from medvit.patients import PatientCount, assumed_patients
from medvit.statistics import Estimate
from medvit.statistics.bootstrap import Statistic, bootstrap

MIN_PATIENTS = 20
"""Number of patients below which a group is marked as small."""
MIN_CASES = 5
"""Number of images with, and without, a positive finding below which a group is marked as small."""
MAX_RESAMPLES = 1000
"""Maximum number of resamples for each group; percentiles of 95 % need no more (Efron and Tibshirani 1993)."""
NOTE = (
    "Images by an attribute that the dataset records. The gap is the metric of the group minus that of all other "
    "images; its interval comes from resampling patients, each with all images."
)


def with_subgroups(evaluation: Evaluation, names: Sequence[str], *, resamples: int, seed: int) -> Evaluation:
    """Add the analysis of subgroups by the attributes `names`; for a multi-task model, to the part of each label."""
    if not names:
        return evaluation
    how = {"resamples": resamples, "seed": seed}
    if evaluation.parts:
        parts = {label: with_subgroups(part, names, **how) for label, part in evaluation.parts.items()}
        return replace(evaluation, parts=parts)
    groups = {name: grouped(evaluation.rows, name) for name in names}
    return with_groups(evaluation, groups, title=ATTRIBUTES, note=NOTE, **how)


def with_groups(
    evaluation: Evaluation,
    groups: Mapping[str, Mapping[str, Int[Array, "m"]]],
    *,
    title: str,
    note: str,
    resamples: int,
    seed: int,
) -> Evaluation:
    """Add an analysis of groups, given as indices of images by attribute and name of the group."""
    found = analyze(evaluation, groups, title=title, note=note, resamples=resamples, seed=seed)
    return replace(evaluation, subgroups=(*evaluation.subgroups, found))


def analyze(
    evaluation: Evaluation,
    groups: Mapping[str, Mapping[str, Int[Array, "m"]]],
    *,
    title: str,
    note: str,
    resamples: int,
    seed: int,
) -> SubgroupAnalysis:
    """Return metrics and gaps of groups, given as indices of images by attribute and name of the group."""
    keys = main_keys(evaluation)
    statistic, how = main_metrics(evaluation, keys), {"resamples": min(resamples, MAX_RESAMPLES), "seed": seed}
    found = [
        _subgroup(evaluation, statistic, attribute, name, those, **how)
        for attribute, parts in groups.items()
        if len(parts) > 1
        for name, those in parts.items()
    ]
    alike = {attribute: next(iter(parts)) for attribute, parts in groups.items() if len(parts) == 1}
    main = _main(keys, found)
    if keys and main != keys[0]:
        note = f"{note} {_reason(main, keys[0])}"
    return SubgroupAnalysis(title, note, main, tuple(sorted(found, key=lambda one: _rank(one, main))), alike)


def disadvantage(key: str, gap: Estimate) -> float:
    """Return by how much a group is worse than the rest: the gap, or its negative if higher values are better."""
    return gap.value if is_lower_better(key) else -gap.value


def _subgroup(
    evaluation: Evaluation,
    statistic: Statistic,
    attribute: str,
    name: str,
    those: Int[Array, "m"],
    *,
    resamples: int,
    seed: int,
) -> Subgroup:
    rows = evaluation.rows
    patients = [row.patient_id for row in rows]
    own = [patients[index] for index in those]
    is_inside = np.zeros(len(rows), dtype=bool)
    is_inside[those] = True

    def gaps(drawn: Array) -> dict[str, float]:
        inside = is_inside[drawn]
        group, rest = statistic(drawn[inside]), statistic(drawn[~inside])
        return {key: group[key] - rest[key] for key in group}

    positive = positives(evaluation)
    num_positives = None if positive is None else int(positive[those].sum())
    counted = PatientCount.among(own, assumed_patients(rows))
    estimates = bootstrap(lambda drawn: statistic(those[drawn]), own, resamples=resamples, seed=seed)
    estimates |= {key: sample.estimate() for key, sample in main_samples(evaluation, those, tuple(estimates)).items()}
    return Subgroup(
        attribute,
        name,
        len(those),
        num_positives,
        counted,
        estimates,
        bootstrap(gaps, patients, resamples=resamples, seed=seed),
        tuple(_doubts(evaluation, those, counted)),
    )


def _doubts(evaluation: Evaluation, those: Int[Array, "m"], patients: PatientCount) -> Iterator[str]:
    """Yield reasons why a group, or the rest that it is compared with, is too small for reliable numbers."""
    if patients.total < MIN_PATIENTS:
        yield f"fewer than {MIN_PATIENTS} patients"
    inside = set(those.tolist())
    if len({row.patient_id for index, row in enumerate(evaluation.rows) if index not in inside}) < MIN_PATIENTS:
        yield f"fewer than {MIN_PATIENTS} other patients"
    positive = positives(evaluation)
    if positive is not None and evaluation.kind in ("classification", "survival"):
        num_positives, num_items = int(positive[those].sum()), len(those)
        names = ("events", "censored") if evaluation.kind == "survival" else ("positives", "negatives")
        for count, what in zip((num_positives, num_items - num_positives), names, strict=True):
            if count < MIN_CASES and what != "censored":
                yield f"fewer than {MIN_CASES} {what}"


def _main(keys: Sequence[str], groups: Sequence[Subgroup]) -> str:
    """Return the first metric with a gap in every group that is not small; without one, the first metric."""
    large = [group for group in groups if not group.is_small]
    defined = (key for key in keys if all(np.isfinite(group.gaps[key].value) for group in large))
    return next(defined, keys[0] if keys else "")


def _reason(main: str, first: str) -> str:
    """Return a sentence on why groups are compared by another metric than the first one."""
    sentence = f"{metric_title(first)} is undefined in a group, so groups are compared by {metric_title(main)}."
    if main != "accuracy":
        return sentence
    return f"{sentence} Accuracy also differs between groups in which easy classes have different frequencies."


def _rank(group: Subgroup, main: str) -> tuple[bool, bool, float]:
    worse = disadvantage(main, group.gaps[main]) if main in group.gaps else np.nan
    return group.is_small, bool(np.isnan(worse)), -worse
