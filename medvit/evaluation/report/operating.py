"""Part of a report about operating points: rates with intervals, and numbers per 1,000 patients in a sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict

from medvit.document import Block, Bullets, Section, Table
from medvit.evaluation.fact import Fact
from medvit.evaluation.operating.chosen import EvaluatedPoint, Operating
from medvit.evaluation.operating.rates import Rates
from medvit.evaluation.part import ReportPart, ReportPlace
from medvit.statistics import Estimate

TITLES = {
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ppv": "PPV",
    "npv": "NPV",
    "lr_positive": "LR+",
    "lr_negative": "LR-",
}
"""Names of the rates in tables."""
RULE = (
    "Calls are positive at or above the threshold, which was chosen on the val split and not changed afterwards. PPV "
    "and NPV, the positive and negative predictive values, follow from sensitivity and specificity for the stated "
    "prevalence. LR+ and LR- are the likelihood ratios of a positive and a negative call. Intervals are 95 %, over "
    "patients."
)


def operating_part(operating: Operating, split: str) -> ReportPart:
    """Return the operating points for `metrics.json` and the page; `split` names the evaluated split."""
    blocks: list[Block] = [RULE]
    if operating.points:
        head = ["point", "threshold", "images of", "positive, negative", "prevalence", *TITLES.values()]
        lines = [line for point in operating.points for line in _lines(point, split)]
        blocks += [Table(head, lines), Bullets([sentence(point, operating.level) for point in operating.points])]
    notes = [*(f"Not chosen: {reason}." for reason in operating.refused), *operating.notes]
    blocks += [Bullets(notes)] if notes else []
    numbers = {
        "level": operating.level,
        "points": [_numbers(point) for point in operating.points],
        "not_chosen": list(operating.refused),
        "notes": list(operating.notes),
    }
    section = Section("Operating points", blocks)
    facts = frozenset({Fact.THRESHOLD, Fact.RATES, Fact.PREDICTIVE_VALUES} if operating.points else ())
    return ReportPart(ReportPlace.OPERATING_POINTS, section, "operating_points", numbers, facts=facts)


def sentence(evaluated: EvaluatedPoint, level: str) -> str:
    """Return the numbers of found, missed and falsely called cases among 1,000, in a sentence."""
    point, rates = evaluated.point, evaluated.rates
    num_positive = round(1000 * rates.prevalence)
    found, missed, alarms = (_whole(rates.per_thousand[name]) for name in ("found", "missed", "false_alarms"))
    return (
        f"{point.positive}, {point.name}: per 1,000 {level}s at a prevalence of {100 * rates.prevalence:.3g} %, "
        f"{num_positive} are {point.positive}; {found} of them are found and {missed} are missed. Of the "
        f"{1000 - num_positive} others, {alarms} are false alarms."
    )


def points_lines(operating: Operating) -> list[str]:
    """Return lines for the terminal: a sentence for each point, and the reasons why points were not chosen."""
    if not operating.points and not operating.refused:
        return []
    found = [f"  {sentence(point, operating.level)}" for point in operating.points]
    return ["\noperating points", *found, *(f"  not chosen: {reason}" for reason in operating.refused)]


def _lines(evaluated: EvaluatedPoint, split: str) -> list[list[object]]:
    point = evaluated.point
    sources = {"val": evaluated.chosen_on, split: evaluated.rates}
    return [
        [
            f"{point.positive}: {point.name}",
            f"{point.threshold:.4f}",
            name,
            f"{rates.num_positive}, {rates.num_negative}",
            f"{rates.prevalence:.3g}",
            *(_text(rates.rates[key]) for key in TITLES),
        ]
        for name, rates in sources.items()
        if rates is not None
    ]


def _numbers(evaluated: EvaluatedPoint) -> dict[str, object]:
    chosen_on = {} if evaluated.chosen_on is None else {"val": _rates(evaluated.chosen_on)}
    return {**asdict(evaluated.point), **chosen_on, "evaluated": _rates(evaluated.rates)}


def _rates(rates: Rates) -> dict[str, object]:
    counts = {
        "found": rates.num_found,
        "missed": rates.num_missed,
        "false_alarms": rates.num_false_alarms,
        "rejected": rates.num_rejected,
    }
    return {
        "counts": counts,
        "prevalence": rates.prevalence,
        "rates": plain_estimates(rates.rates),
        "per_thousand": plain_estimates(rates.per_thousand),
    }


def plain_estimates(estimates: Mapping[str, Estimate]) -> dict[str, dict[str, float | None]]:
    """Return estimates as they are written as JSON, without the method of the interval."""
    return {name: estimate.plain_interval for name, estimate in estimates.items()}


def _text(estimate: Estimate) -> str:
    """Return an estimate as text; large likelihood ratios have fewer decimals."""
    if estimate.value < 10.0 or math.isnan(estimate.value):
        return str(estimate)
    return f"{estimate.value:.1f} [{estimate.low:.1f}, {estimate.high:.1f}]"


def _whole(estimate: Estimate) -> str:
    """Return a number of cases, rounded, with its interval; an undefined one as a question mark."""
    value, low, high = ("?" if math.isnan(x) else str(round(x)) for x in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"
