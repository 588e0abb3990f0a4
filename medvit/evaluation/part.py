"""Part of a report: a section, its place on the page, and its numbers for `metrics.json`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, auto

from medvit.document import Section
from medvit.evaluation.fact import Fact


class ReportPlace(IntEnum):
    """Places of a report, in the order of the page."""

    ANSWER = auto()
    """Question of the evaluation, and its verdict."""
    COHORT = auto()
    """Patients and images of each split."""
    RESULTS = auto()
    """Metrics with their intervals, and differences from other models."""
    CURVES = auto()
    SUBGROUPS = auto()
    CALIBRATION = auto()
    OPERATING_POINTS = auto()
    UNCERTAINTY = auto()
    ROBUSTNESS = auto()
    BASELINES = auto()
    EXPLANATIONS = auto()
    CASES = auto()
    LINEAGE = auto()
    """Datasets, checkpoints and initial weights, with training patients and near duplicates."""
    LIMITS = auto()
    """Notes and warnings, and the definitions of metrics."""
    REPEAT = auto()
    """Commands that repeat the evaluation."""
    CHECKLISTS = auto()


@dataclass(frozen=True)
class ReportPart:
    """Part of a report, which one module of the evaluation contributes.

    `numbers` are written to `metrics.json` under the key `name`; they consist of types that JSON has. A part without a
    name has no numbers. `notes` are added to the notes of the report. `facts` are those that the section really states.
    """

    place: ReportPlace
    section: Section
    name: str = ""
    numbers: Mapping[str, object] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    facts: frozenset[Fact] = frozenset()
    lacks: Mapping[Fact, str] = field(default_factory=dict)
    """Facts that cannot exist for this evaluation, with the reasons, such as members of an ensemble for one model."""


def in_order(parts: Iterable[ReportPart]) -> list[ReportPart]:
    """Return parts in the order of the page; parts of the same place keep their order."""
    return sorted(parts, key=lambda part: part.place)
