"""Parts of a report about the use of a model: its decision curve, and its metrics at a prevalence."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from medvit.document import Bullets, Picture, Section, Table
from medvit.evaluation.operating.chosen import AtPrevalence, Operating
from medvit.evaluation.operating.decision import DecisionCurve
from medvit.evaluation.part import ReportPart, ReportPlace
from medvit.evaluation.report.operating import operating_part, plain_estimates
from medvit.evaluation.report.plots import FOUND, INK, TRUTH
from medvit.metrics import metric_title

DPI = 192
DECISION = (
    "The net benefit is the share of found patients, minus the share of false alarms weighted by the odds of the "
    "threshold probability t: somebody who acts from t = 10 % on accepts nine false alarms for one found patient. A "
    "model is useful at t if its net benefit is above those of acting on all and on none. Probabilities are used as "
    "they are: they must be calibrated for the stated prevalence. The band is a 95 % bootstrap over patients."
)
RESAMPLED = (
    "Patients with and without the condition were drawn separately, each with all images, so that their share is the "
    "prevalence. Values are means over the draws, with the range of 95 % of them. Rare conditions are drawn repeatedly "
    "from few patients."
)
SHOWN = (0.05, 0.1, 0.2, 0.3, 0.5)
"""Threshold probabilities in the table of the decision curve."""


def operating_parts(operating: Operating, split: str) -> list[ReportPart]:
    """Return the parts with operating points, decision curves and metrics at a prevalence, as far as there are any."""
    has_points = operating.points or operating.refused
    parts = [operating_part(operating, split)] if has_points else []
    parts += [decision_part(operating.curves)] if operating.curves else []
    return parts + ([prevalence_part(operating.at_prevalence)] if operating.at_prevalence else [])


def decision_part(curves: Sequence[DecisionCurve]) -> ReportPart:
    """Return the decision curves of all conditions, for `metrics.json` and the page."""
    pictures = [Picture.of("", f"Decision curve: {curve.positive}", decision_figure(curve)) for curve in curves]
    head = ["condition", "threshold t", "model [95 % interval]", "acting on all"]
    lines = [
        [curve.positive, f"{t:g}", f"{model:.3f} [{low:.3f}, {high:.3f}]", f"{everyone:.3f}"]
        for curve in curves
        for t, model, low, high, everyone in _values(curve)
        if any(math.isclose(t, shown) for shown in SHOWN)
    ]
    section = Section("Decision curve", [DECISION, pictures, Table(head, lines), Bullets(list(map(_sentence, curves)))])
    numbers = {curve.positive: _numbers(curve) for curve in curves}
    return ReportPart(ReportPlace.OPERATING_POINTS, section, "decision_curve", numbers)


def prevalence_part(found: Sequence[AtPrevalence]) -> ReportPart:
    """Return the metrics at a prevalence, for `metrics.json` and the page."""
    head = ["metric", *(f"{one.positive}, prevalence {one.prevalence:.3g}" for one in found)]
    names = list(dict.fromkeys(name for one in found for name in one.metrics))
    lines = [[metric_title(name), *(str(one.metrics.get(name, "")) for one in found)] for name in names]
    section = Section("Metrics at the prevalence of use", [RESAMPLED, Table(head, lines)])
    numbers = {one.positive: {"prevalence": one.prevalence, "metrics": plain_estimates(one.metrics)} for one in found}
    return ReportPart(ReportPlace.OPERATING_POINTS, section, "at_prevalence", numbers)


def decision_figure(curve: DecisionCurve) -> Figure:
    """Plot the net benefit of the model with its band, of acting on all patients, and on none."""
    figure = Figure(figsize=(4.6, 3.6), layout="constrained", dpi=DPI)
    axes = figure.subplots()
    axes.fill_between(curve.thresholds, curve.low, curve.high, color=INK, alpha=0.15, linewidth=0)
    axes.plot(curve.thresholds, curve.model, color=INK, linewidth=1.6, label="model")
    axes.plot(curve.thresholds, curve.everyone, color=FOUND, linestyle="--", linewidth=1.2, label="act on all")
    axes.axhline(0.0, color=TRUTH, linestyle=":", linewidth=1.2, label="act on none")
    top = 1.1 * curve.prevalence
    axes.set_ylim(-0.25 * top, top)
    axes.set_xlim(0.0, 1.0)
    axes.set_xlabel("threshold probability")
    axes.set_ylabel("net benefit")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def _sentence(curve: DecisionCurve) -> str:
    ends = curve.useful()
    at = f"{curve.positive}, at a prevalence of {100 * curve.prevalence:.3g} %"
    if ends is None:
        return f"{at}: at no threshold probability is the model shown to be better than acting on all or on none."
    return (
        f"{at}: the model is better than acting on all or on none for threshold probabilities from {ends[0]:g} to "
        f"{ends[1]:g}, beyond its interval."
    )


def _values(curve: DecisionCurve) -> list[tuple[float, ...]]:
    columns = (curve.thresholds, curve.model, curve.low, curve.high, curve.everyone)
    return [tuple(map(float, values)) for values in zip(*columns, strict=True)]


def _numbers(curve: DecisionCurve) -> dict[str, object]:
    names = ("threshold", "model", "low", "high", "act_on_all")
    lines = [
        {name: value if math.isfinite(value) else None for name, value in zip(names, values, strict=True)}
        for values in _values(curve)
    ]
    return {"prevalence": curve.prevalence, "curve": lines}
