"""Page of a robustness evaluation: verdict, curves over severity, tables, examples and limits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy import ndarray as Array

from medvit.document import Bullets, Document, Picture, Section, Table
from medvit.evaluation.robustness import CLEAN, CorruptionScores, Robustness
from medvit.evaluation.robustness.scoring import Scoring
from medvit.statistics import Estimate
from medvit.transforms.corruptions import SEVERITIES, Corruption
from medvit.transforms.corruptions.scaled_image import scaled
from medvit.types import Image

MODEL, REFERENCE = "#1f2a44", "#d95f02"
COLUMNS = 4
"""Number of plots in a row."""
LIMITS = (
    "Corruptions are simulated. They show how a model reacts to single degradations of these images, not how it "
    "performs at another site, where several of them, and other differences, occur together.",
    "The strengths follow MedMNIST-C or are set by eye. Equal severities of two corruptions are not equally bad.",
    "Label maps and labels are those of the images without corruption, also where a reader could no longer see the "
    "finding.",
)


@dataclass(frozen=True)
class CorruptionExample:
    """An image with a corruption in each of the severities; the first one is the image as it is."""

    corruption: Corruption
    images: tuple[Image, ...]
    severities: tuple[int, ...]


@dataclass(frozen=True)
class PresentedRobustness:
    """Results to present."""

    title: str
    facts: Mapping[str, str]
    notes: Sequence[str]
    scoring: Scoring
    corruptions: Sequence[Corruption]
    model: Robustness
    reference: Robustness | None
    reference_name: str
    warning: str = ""


def robustness_document(shown: PresentedRobustness, examples: Sequence[CorruptionExample]) -> Document:
    """Return the page."""
    error = shown.scoring.error
    curves = Picture.of("curves", f"{error.capitalize()} over severity, with 95 % intervals.", curves_figure(shown))
    return Document(
        shown.title,
        shown.warning or verdict(shown),
        [
            *([Section("Result", [verdict(shown)])] if shown.warning else []),
            Section("Error over severity", [_about_curves(shown), [curves]]),
            Section("Errors of corruptions", [_about_errors(shown), errors_table(shown)]),
            Section(
                f"{shown.scoring.title} and error under every condition",
                ["Value [95 % interval].", conditions_table(shown)],
            ),
            Section(
                "Examples",
                [
                    "The first image, without corruption and in each severity.",
                    *(
                        [Picture.of(f"example-{one.corruption.name}", one.corruption.title, example_figure(one))]
                        for one in examples
                    ),
                ],
            ),
            Section("Meaning of the levels", [meanings_table(shown.corruptions)]),
            Section("Limits and notes", [Bullets([*LIMITS, *shown.notes])]),
        ],
        tone="warning" if shown.warning else "plain",
        facts=shown.facts,
    )


def verdict(shown: PresentedRobustness) -> str:
    """Return one paragraph: error without corruption, mean error, and the corruption with the largest rise."""
    model, titles = shown.model, {one.name: one.title for one in shown.corruptions}
    rises = {name: scores.rise.value for name, scores in model.corruptions.items() if not np.isnan(scores.rise.value)}
    clean = model.conditions[CLEAN]
    text = (
        f"The {shown.scoring.error} is {clean.error} without corruption and {model.whole.mean_error} on average over "
        f"{len(model.corruptions)} corruptions."
    )
    if rises:
        worst = max(rises, key=lambda name: rises[name])
        scores = model.corruptions[worst]
        text += f" It rises most under {titles[worst].lower()}: by {scores.rise}, to {scores.mean_error.value:.3f}."
    if model.whole.balanced is not None and model.whole.relative is not None:
        text += (
            f" Relative to {shown.reference_name}, the balanced error is {model.whole.balanced} and the relative "
            f"balanced error {model.whole.relative}; below 1, the model is better."
        )
    return text


def curves_figure(shown: PresentedRobustness) -> Figure:
    """Plot the error over severity, one plot for each corruption, of the model and of the reference."""
    names = [one.name for one in shown.corruptions]
    rows = math.ceil(len(names) / COLUMNS)
    columns = min(COLUMNS, len(names))
    figure = Figure(figsize=(2.6 * columns + 0.4, 2.1 * rows + 0.5), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    for axes, one in zip(grid.flat, shown.corruptions, strict=False):
        if shown.reference is not None:
            _curve(axes, shown.reference, one.name, REFERENCE, shown.reference_name)
        _curve(axes, shown.model, one.name, MODEL, "model")
        axes.set_title(one.title, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
        axes.set_xticks([0, *SEVERITIES])
    for axes in grid[-1]:
        axes.set_xlabel("severity")
    for axes in grid[:, 0]:
        axes.set_ylabel(shown.scoring.error.partition(" (")[0])
    if shown.reference is not None:
        grid[0, 0].legend(frameon=False, fontsize=8)
    return figure


def _curve(axes: Axes, found: Robustness, name: str, color: str, label: str) -> None:
    chosen = [CLEAN, *(one for one in found.conditions if one.corruption == name)]
    severities = [one.severity for one in chosen]
    errors = [found.conditions[one].error for one in chosen]
    low, high = [error.low for error in errors], [error.high for error in errors]
    axes.fill_between(severities, low, high, color=color, alpha=0.15, linewidth=0)
    axes.plot(
        severities, [error.value for error in errors], "o-", color=color, linewidth=1.6, markersize=3, label=label
    )


def errors_table(shown: PresentedRobustness) -> Table:
    """Return mean error, rise and relative errors of each corruption, and of all."""
    head = ["corruption", "mean error", "rise"]
    if shown.reference is not None:
        head += [f"mean error of {shown.reference_name}", "balanced error", "relative balanced error"]
    titles = {one.name: one.title for one in shown.corruptions}
    lines = [
        _errors_line(titles[name], scores, None if shown.reference is None else shown.reference.corruptions[name])
        for name, scores in shown.model.corruptions.items()
    ]
    whole = _errors_line("all, mean", shown.model.whole, None if shown.reference is None else shown.reference.whole)
    return Table(head, [*lines, whole])


def _errors_line(title: str, scores: CorruptionScores, reference: CorruptionScores | None) -> list[str]:
    line = [title, str(scores.mean_error), str(scores.rise)]
    if reference is None:
        return line
    return [*line, str(reference.mean_error), _or_dash(scores.balanced), _or_dash(scores.relative)]


def _or_dash(estimate: Estimate | None) -> str:
    return "-" if estimate is None else str(estimate)


def conditions_table(shown: PresentedRobustness) -> Table:
    """Return metric and error under every condition."""
    found, scoring = shown.model, shown.scoring
    titles = {"": "No corruption"} | {one.name: one.title for one in shown.corruptions}
    is_same = all(str(scores.metric) == str(scores.error) for scores in found.conditions.values())
    head = ["condition", *([] if is_same else [scoring.title]), scoring.error]
    lines = [
        [
            titles[one.corruption] + (f", severity {one.severity}" if one.severity else ""),
            *([] if is_same else [str(scores.metric)]),
            str(scores.error),
        ]
        for one, scores in found.conditions.items()
    ]
    return Table(head, lines)


def meanings_table(corruptions: Sequence[Corruption]) -> Table:
    """Return the levels of each corruption and their meaning."""
    return Table(
        ["corruption", "severities 1 to 5", "level"],
        [[one.title, ", ".join(f"{level:g}" for level in one.levels), one.meaning] for one in corruptions],
    )


def example_figure(example: CorruptionExample) -> Figure:
    """Plot an image with a corruption in each severity, all in the range of the image as it is."""
    images = example.images
    figure = Figure(figsize=(1.75 * len(images), 1.95), layout="constrained")
    grid = figure.subplots(1, len(images), squeeze=False)[0]
    before = scaled(images[0])
    for axes, image, severity in zip(grid, images, example.severities, strict=True):
        pixels = (image.without_gaps().intensities() - before.low) / before.width
        axes.imshow(_plane(np.clip(pixels, 0.0, 1.0), before.slice_axis), cmap="gray", vmin=0.0, vmax=1.0)
        axes.set_title("none" if severity == 0 else f"severity {severity}", fontsize=9)
        axes.axis("off")
    return figure


def _plane(pixels: Float[Array, "c *s"], slice_axis: int | None) -> Array:
    """Return an image to plot, of a volume a slice near its middle, with anterior or superior at the top."""
    if slice_axis is not None:
        # Not the exact middle, which an interpolation of missing slices may never change.
        plane = pixels[0].take(int(0.55 * pixels.shape[1 + slice_axis]), axis=slice_axis)
        return np.asarray(plane.T[::-1])
    return np.asarray(np.moveaxis(pixels, 0, -1) if pixels.shape[0] == 3 else pixels[0])


def _about_curves(shown: PresentedRobustness) -> str:
    text = "Severity 0 is the image without corruption."
    if shown.reference is not None:
        text += f" Model and {shown.reference_name} see the same corrupted images."
    return text


def _about_errors(shown: PresentedRobustness) -> str:
    text = "Mean error: over the severities of a corruption. Rise: mean error minus the error without corruption."
    if shown.reference is None:
        return f"{text} Give reference=FOLDER for errors relative to another model, such as a ResNet-18."
    return (
        f"{text} Balanced error: mean error divided by that of {shown.reference_name}. Relative balanced error: "
        f"rise divided by the rise of {shown.reference_name}; not defined where that does not become worse."
    )
