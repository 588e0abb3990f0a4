"""Plots of survival predictions: curves of groups by predicted risk, and calibration at a time."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy import ndarray as Array

from medvit.evaluation import Evaluation
from medvit.evaluation.plots import FOUND, INK, TRUTH
from medvit.survival import KaplanMeier, survival_at, survival_times, time_text

COLORS = {"low": TRUTH, "middle": INK, "high": FOUND}
NUM_GROUPS = 5
"""Maximum number of groups of a calibration plot."""
MIN_GROUP = 5
"""Minimum number of images in such a group."""


def risk_group_figure(evaluation: Evaluation) -> Figure:
    """Plot observed (Kaplan-Meier) and mean predicted survival of thirds of the images by predicted risk."""
    figure, axes = _axes()
    times, events, curves = _columns(evaluation)
    ends = survival_times(evaluation.classes)
    shown = np.linspace(0.0, ends[-1], 101)[1:]
    for name, those in _thirds(evaluation.columns["predicted"]).items():
        observed = KaplanMeier.of(times[those], events[those])
        steps = np.append(0.0, observed.times[observed.times <= ends[-1]])
        label = f"{name} ({len(those)}, events {int(events[those].sum())})"
        axes.step(steps, observed.at(steps), where="post", color=COLORS[name], linewidth=1.6, label=label)
        expected = survival_at(ends, curves[those], shown).mean(axis=0)
        axes.plot(np.append(0.0, shown), np.append(1.0, expected), color=COLORS[name], linestyle="--", linewidth=1)
    axes.set_xlabel(evaluation.classes[0].rpartition(" > ")[0])
    axes.set_ylabel("survival: observed, predicted (dashed)")
    axes.legend(title="predicted risk (images)", fontsize=8, title_fontsize=8)
    return figure


def calibration_figure(evaluation: Evaluation, horizon: float) -> Figure:
    """Plot observed (Kaplan-Meier, with 95 % intervals) against mean predicted survival at a time, by risk group."""
    figure, axes = _axes()
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linestyle=":", linewidth=1)
    times, events, curves = _columns(evaluation)
    predicted = survival_at(survival_times(evaluation.classes), curves, [horizon])[:, 0]
    num_groups = max(1, min(NUM_GROUPS, len(times) // MIN_GROUP))
    for those in np.array_split(np.argsort(predicted, kind="stable"), num_groups):
        observed = KaplanMeier.of(times[those], events[those])
        value, (low, high) = float(observed.at(horizon)), observed.interval(horizon)
        spread = [[value - low], [high - value]]
        axes.errorbar(predicted[those].mean(), value, yerr=spread, fmt="o", color=INK, markersize=5, linewidth=1)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel(f"predicted survival at {time_text(horizon)}")
    axes.set_ylabel("observed survival")
    return figure


def _columns(evaluation: Evaluation) -> tuple[Array, Array, Array]:
    """Return times, events and predicted survival at the times of the model."""
    table = evaluation.columns
    return table["truth"], table["event"] == 1.0, evaluation.probabilities


def _thirds(expected: Array) -> dict[str, Array]:
    """Return the indices of the images with a low, middle and high predicted risk."""
    parts = np.array_split(np.argsort(-expected, kind="stable"), 3)
    return {name: part for name, part in zip(COLORS, parts, strict=True) if len(part)}


def _axes() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(3.8, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.set_ylim(-0.02, 1.02)
    axes.grid(alpha=0.3)
    return figure, axes
