"""Plots of a report, as matplotlib figures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy import ndarray as Array
from sklearn import metrics

from medvit.evaluation import Evaluation
from medvit.evaluation.tasks.classification import classified
from medvit.evaluation.uncertainty.abstention import SHARES, AbstentionCurve
from medvit.metrics import metric_title
from medvit.metrics.dice import METRIC as DICE
from medvit.metrics.ece import ConfidenceBins
from medvit.statistics import Estimate
from medvit.statistics.proportion import Proportion
from medvit.survival import KaplanMeier, survival_at, survival_times, time_text

INK, TRUTH, FOUND = "#1f2a44", "#1b9e77", "#d95f02"
MAX_CURVES = 10
"""Maximum number of classes drawn as curves, which remain distinguishable."""
RISKS = {"low": TRUTH, "middle": INK, "high": FOUND}
"""Thirds of the images by predicted risk, with their colors."""
NUM_GROUPS = 5
"""Maximum number of groups of a calibration plot of survival."""
MIN_GROUP = 5
"""Minimum number of images in a group of a calibration plot of survival."""


def roc_figure(evaluation: Evaluation) -> Figure:
    """Plot the ROC curve of each class, with its area; if there are two classes, only that of the positive one."""
    figure, axes = _square()
    for index, name in _shown(evaluation):
        positive, scores = _one_against_rest(evaluation, index, name)
        if 0 < positive.sum() < len(positive):
            false, true, _ = metrics.roc_curve(positive, scores)
            axes.plot(false, true, label=f"{name} ({metrics.auc(false, true):.3f})", linewidth=1.6)
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linestyle=":", linewidth=1)
    return _finished(figure, axes, "1 - specificity", "sensitivity", legend="class (area)")


def precision_recall_figure(evaluation: Evaluation) -> Figure:
    """Plot precision against recall for each class; if there are two classes, only for the positive one."""
    figure, axes = _square()
    for index, name in _shown(evaluation):
        positive, scores = _one_against_rest(evaluation, index, name)
        if positive.any():
            precision, recall, _ = metrics.precision_recall_curve(positive, scores)
            axes.plot(recall, precision, label=name, linewidth=1.6)
    return _finished(figure, axes, "recall", "precision", legend="class")


def reliability_figure(evaluation: Evaluation) -> Figure:
    """Plot accuracy against confidence in bins, with 95 % intervals over patients and the number of images."""
    figure = Figure(figsize=(3.8, 4.4), layout="constrained")
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linestyle=":", linewidth=1)
    bins = ConfidenceBins.of(evaluation.truth, evaluation.probabilities).bins
    for number, (confidence, accuracy) in reliability_intervals(evaluation).items():
        spread = [[max(0.0, accuracy.value - accuracy.low)], [max(0.0, accuracy.high - accuracy.value)]]
        axes.errorbar(confidence, accuracy.value, yerr=spread, fmt="o", color=INK, markersize=5, linewidth=1, capsize=2)
        center, count = (number + 0.5) * ConfidenceBins.width, int((bins == number).sum())
        below.bar(center, count, width=0.9 * ConfidenceBins.width, color=INK, alpha=0.6)
        below.annotate(str(count), (center, count), ha="center", va="bottom", fontsize=7)
    _finished(figure, axes, "", "accuracy")
    below.set_xlabel("confidence")
    below.set_ylabel("images")
    below.margins(y=0.35)
    below.grid(axis="y", alpha=0.3)
    return figure


def reliability_intervals(evaluation: Evaluation) -> dict[int, tuple[float, Estimate]]:
    """Return mean confidence, and accuracy with its interval over patients, of each non-empty bin of confidence."""
    found, patients = ConfidenceBins.of(evaluation.truth, evaluation.probabilities), evaluation.patients
    return {
        int(number): (
            float(found.confidence[found.bins == number].mean()),
            Proportion(found.bins == number, found.is_right, patients).estimate(),
        )
        for number in np.unique(found.bins)
    }


def abstention_figure(curves: Sequence[AbstentionCurve]) -> Figure:
    """Plot the metric over the share of kept patients for each order, with its 95 % interval as a band."""
    figure, axes = _square()
    shares = 100.0 * np.array(SHARES)
    for curve, color in zip(curves, (INK, FOUND), strict=False):
        values = np.array([[one.value, one.low, one.high] for one in curve.values.values()]).T
        axes.plot(shares, values[0], color=color, linewidth=1.6, label=curve.order)
        axes.fill_between(shares, values[1], values[2], color=color, alpha=0.15, linewidth=0)
    everybody = curves[0].values[SHARES[-1]].value
    axes.axhline(everybody, color="#888888", linestyle=":", linewidth=1, label="random order")
    axes.set_xlabel("kept patients, %")
    axes.set_ylabel(metric_title(curves[0].metric))
    axes.invert_xaxis()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def confusion_figure(evaluation: Evaluation) -> Figure:
    """Plot the number of images of each class by predicted class."""
    labels = list(range(len(evaluation.classes)))
    counts = classified(evaluation).counts
    figure, axes = _square()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        color = "white" if shares[row, column] > 0.5 else INK
        axes.text(column, row, str(count), ha="center", va="center", color=color, fontsize=9)
    axes.set_xticks(labels, evaluation.classes, rotation=45, ha="right")
    axes.set_yticks(labels, evaluation.classes)
    axes.set_xlabel("given")
    axes.set_ylabel("true")
    return figure


def dice_figure(evaluation: Evaluation) -> Figure:
    """Plot the Dice of every image for each class, with quartiles."""
    names = list(evaluation.classes[1:])
    figure = Figure(figsize=(max(3.4, 1.3 * len(names) + 1.2), 3.4), layout="constrained")
    axes = figure.subplots()
    generator = np.random.default_rng(0)
    for place, name in enumerate(names):
        values = evaluation.columns[f"dice.{name}"]
        values = values[~np.isnan(values)]
        axes.scatter(place + generator.uniform(-0.12, 0.12, len(values)), values, s=12, color=INK, alpha=0.5)
        if len(values):
            axes.boxplot(values, positions=[place], widths=0.5, showfliers=False, medianprops={"color": FOUND})
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel(DICE.title)
    axes.grid(axis="y", alpha=0.3)
    return figure


def scatter_figure(evaluation: Evaluation) -> Figure:
    """Plot the predicted against the true number of each image, with the line of equality."""
    truth, predicted = evaluation.columns["truth"], evaluation.columns["predicted"]
    figure, axes = _square()
    ends = [min(truth.min(), predicted.min()), max(truth.max(), predicted.max())]
    axes.plot(ends, ends, color="#bbbbbb", linestyle=":", linewidth=1)
    axes.scatter(truth, predicted, s=14, color=INK, alpha=0.6)
    axes.set_xlabel(f"true {evaluation.classes[0]}")
    axes.set_ylabel(f"predicted {evaluation.classes[0]}")
    axes.grid(alpha=0.3)
    return figure


def agreement_figure(evaluation: Evaluation) -> Figure:
    """Plot numbers as Bland and Altman do: difference from the truth against the mean of both."""
    figure, axes = _square()
    _agreement(axes, evaluation.columns["truth"], evaluation.columns["predicted"])
    axes.set_xlabel("mean of both")
    axes.set_ylabel("predicted - true")
    return figure


def risk_group_figure(evaluation: Evaluation) -> Figure:
    """Plot observed (Kaplan-Meier) and mean predicted survival of thirds of the images by predicted risk."""
    figure, axes = _square()
    times, events, curves = _outcomes(evaluation)
    ends = survival_times(evaluation.classes)
    shown = np.linspace(0.0, ends[-1], 101)[1:]
    for name, those in _thirds(evaluation.columns["predicted"]).items():
        observed = KaplanMeier.of(times[those], events[those])
        steps = np.append(0.0, observed.times[observed.times <= ends[-1]])
        label = f"{name} ({len(those)}, events {int(events[those].sum())})"
        axes.step(steps, observed.at(steps), where="post", color=RISKS[name], linewidth=1.6, label=label)
        expected = survival_at(ends, curves[those], shown).mean(axis=0)
        axes.plot(np.append(0.0, shown), np.append(1.0, expected), color=RISKS[name], linestyle="--", linewidth=1)
    axes.set_xlabel(evaluation.classes[0].rpartition(" > ")[0])
    axes.set_ylabel("survival: observed, predicted (dashed)")
    axes.set_ylim(-0.02, 1.02)
    axes.grid(alpha=0.3)
    axes.legend(title="predicted risk (images)", fontsize=8, title_fontsize=8)
    return figure


def calibration_figure(evaluation: Evaluation, horizon: float) -> Figure:
    """Plot observed (Kaplan-Meier, with 95 % intervals) against mean predicted survival at a time, by risk group."""
    figure, axes = _square()
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linestyle=":", linewidth=1)
    times, events, curves = _outcomes(evaluation)
    predicted = survival_at(survival_times(evaluation.classes), curves, [horizon])[:, 0]
    num_groups = max(1, min(NUM_GROUPS, len(times) // MIN_GROUP))
    for those in np.array_split(np.argsort(predicted, kind="stable"), num_groups):
        observed = KaplanMeier.of(times[those], events[those])
        if observed.times[-1] < horizon and observed.survival[-1] > 0.0:  # the rest was not followed up to then
            continue
        value, (low, high) = float(observed.at(horizon)), observed.interval(horizon)
        spread = [[value - low], [high - value]]
        axes.errorbar(predicted[those].mean(), value, yerr=spread, fmt="o", color=INK, markersize=5, linewidth=1)
    return _finished(figure, axes, f"predicted survival at {time_text(horizon)}", "observed survival")


def volume_figure(evaluation: Evaluation) -> Figure:
    """Plot volumes as Bland and Altman do: difference from the truth against the mean of both, in mL."""
    names = [name for name in evaluation.classes[1:] if f"volume_ml.{name}" in evaluation.columns]
    figure = Figure(figsize=(3.4 * max(1, len(names)), 3.2), layout="constrained")
    for axes, name in zip(figure.subplots(1, max(1, len(names)), squeeze=False)[0], names, strict=True):
        given, true = (evaluation.columns[f"{key}.{name}"] for key in ("volume_ml", "true_volume_ml"))
        is_known = ~np.isnan(true)
        given, true = given[is_known], true[is_known]
        _agreement(axes, true, given)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("mean of both, mL")
        axes.set_ylabel("predicted - true, mL")
    return figure


def _outcomes(evaluation: Evaluation) -> tuple[Array, Array, Array]:
    """Return times, events and predicted survival at the times of the model."""
    table = evaluation.columns
    return table["truth"], table["event"] == 1.0, evaluation.probabilities


def _thirds(expected: Array) -> dict[str, Array]:
    """Return the indices of the images with a low, middle and high predicted risk."""
    parts = np.array_split(np.argsort(-expected, kind="stable"), 3)
    return {name: part for name, part in zip(RISKS, parts, strict=True) if len(part)}


def _agreement(axes: Axes, true: Array, given: Array) -> None:
    difference = given - true
    axes.scatter((given + true) / 2, difference, s=14, color=INK, alpha=0.6)
    center, spread = difference.mean(), 1.96 * difference.std()
    for level, style in ((center, "-"), (center - spread, "--"), (center + spread, "--")):
        axes.axhline(level, color=FOUND, linestyle=style, linewidth=1)
    axes.grid(alpha=0.3)


def _one_against_rest(evaluation: Evaluation, index: int, name: str) -> tuple[Array, Array]:
    if evaluation.kind == "multilabel":
        truth = evaluation.columns[f"truth.{name}"]
        known = ~np.isnan(truth)
        return truth[known] == 1, evaluation.columns[f"p.{name}"][known]
    return evaluation.truth == index, evaluation.columns[f"p.{name}"]


def _shown(evaluation: Evaluation) -> list[tuple[int, str]]:
    classes = list(enumerate(evaluation.classes))
    if len(classes) == 2 and evaluation.kind != "multilabel":
        return [one for one in classes if one[1] == evaluation.positive] or classes[1:]
    return classes[:MAX_CURVES]


def _square() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(3.8, 3.6), layout="constrained")
    return figure, figure.subplots()


def _finished(figure: Figure, axes: Axes, x: str, y: str, legend: str = "") -> Figure:
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    if legend and axes.get_legend_handles_labels()[0]:
        axes.legend(title=legend, fontsize=8, title_fontsize=8)
    return figure
