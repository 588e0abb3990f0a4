"""Section of a report with the patients and images of each split of the dataset, and of the evaluation."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from medvit.cards.cohort import SEX, UNKNOWN, Cohort, cohort_table
from medvit.dataset.manifest import Manifest
from medvit.document import Section
from medvit.evaluation import Evaluation
from medvit.evaluation.fact import Fact
from medvit.evaluation.judged import Judged
from medvit.evaluation.part import ReportPart, ReportPlace
from medvit.evaluation.subgroups.grouping import predicted_labels
from medvit.records import Row, splits_of

EVALUATED = "evaluated"
"""Column of the evaluated images, if they are not exactly the images of a split."""


def cohort_part(manifest: Manifest, judged: Judged, evaluation: Evaluation) -> ReportPart:
    """Return the part of a report that describes the splits of a dataset and the evaluated images."""
    labels = _labels(manifest, predicted_labels(judged.predictor.config))
    each: dict[str, list[Row]] = {
        split: [row for row in manifest if row.split == split] for split in splits_of(manifest)
    }
    sets = {split: rows for split, rows in each.items() if rows}
    if list(evaluation.rows) not in sets.values():
        sets[EVALUATED] = list(evaluation.rows)
    cohorts = {name: Cohort.of(rows, labels) for name, rows in sets.items()}
    note = (
        f"The splits are those of this dataset; the training images of the model are those of {judged.trained_on}. A "
        "patient with several values of an attribute counts for each of them. Shares are of the patients with a known "
        "value, or of the images with a label."
    )
    numbers = {name: cohort.tree for name, cohort in cohorts.items()}
    section = Section("Cohort", [note, cohort_table(cohorts)])
    facts = _facts(cohorts, has_training=judged.is_same_dataset and "train" in cohorts)
    return ReportPart(ReportPlace.COHORT, section, "cohort", numbers, facts=facts)


def _facts(cohorts: Mapping[str, Cohort], *, has_training: bool) -> frozenset[Fact]:
    """Return the facts that the table of the cohorts states; values that are all unknown do not count."""
    each = cohorts.values()
    known = {key for one in each for key, counts in one.values.items() if set(counts) - {UNKNOWN}}
    stated = {
        Fact.COUNTS: True,
        Fact.EVENTS: any(any(one.classes.values()) for one in each),
        Fact.AGE_SEX: SEX in known or any(one.ages for one in each),
        Fact.SCANNERS: bool(known & {"manufacturer", "model"}),
        Fact.TRAINING_COHORT: has_training and len(cohorts) > 1,
    }
    return frozenset(fact for fact, is_stated in stated.items() if is_stated)


def _labels(manifest: Manifest, predicted: Collection[str]) -> Mapping[str, Collection[str]]:
    return {key: names for key, names in manifest.facts.classes.items() if key in predicted}
