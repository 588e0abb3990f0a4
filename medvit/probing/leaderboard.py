"""Leaderboard of backbones: test metrics of each probe with intervals over patients, and a sweep over layers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy import ndarray as Array

from medvit.baselines.beside import metrics_of_table
from medvit.baselines.fit import PENALTIES
from medvit.document import Document, Picture, Section, Table
from medvit.evaluation.paired import paired_differences
from medvit.files.atomic import write_text
from medvit.metrics import metric_title
from medvit.models.features import Features
from medvit.probing.classifiers import Probed, ProbeSplits, probe_linear, probe_logistic, probe_neighbors, ridge_scores
from medvit.probing.labels import LabelSplits, label_layer_scores
from medvit.probing.layer_features import LayerFeatures
from medvit.probing.protocol import Protocol
from medvit.probing.regressors import (
    FeaturesOf,
    NumberSplits,
    ProbedNumbers,
    layer_scores,
    regress_neighbors,
    regress_ridge,
)
from medvit.records import Row
from medvit.statistics import Estimate
from medvit.tasks import TaskName

HTML, JSON = "probe.html", "probe.json"
TITLES = {
    "knn": "Nearest neighbors",
    "logistic": "Logistic regression",
    "linear": "Linear grid",
    "ridge": "Ridge regression",
}
MAIN: dict[TaskName, tuple[str, ...]] = {
    "classification": ("auroc", "balanced_accuracy"),
    "ordinal": ("kappa_quadratic", "grade_error", "auroc"),
    "multilabel": ("auroc_macro", "auroc_micro"),
    "regression": ("r2", "mae"),
}
"""Metrics of the leaderboard of each task, the one by which it is ordered first."""
CHOSEN_BY: dict[TaskName, str] = {
    "classification": "AUROC",
    "ordinal": "AUROC",
    "multilabel": "AUROC",
    "regression": "R2",
}
"""Title of the metric on the val split by which settings are chosen; the sweep over layers has it, too."""


@dataclass(frozen=True)
class BoardLine:
    """Result of a probe on a backbone.

    `val` is the metric of the chosen setting on the val split (`CHOSEN_BY`). `differences` are the test metrics minus
    those of the first backbone with the same probe; empty for the first backbone.
    """

    backbone: str
    probe: str
    chosen: str
    val: float
    metrics: Mapping[str, Estimate]
    differences: Mapping[str, Estimate]
    table: Mapping[str, Array]


@dataclass(frozen=True)
class LayerLine:
    """AUROC, or R2 for a number, of a ridge probe on the features of one layer, counted from 1."""

    backbone: str
    layer: int
    depth: int
    val: float
    test: float


def probed(name: str, splits: ProbeSplits, features: Features, *, seed: int) -> Probed:
    """Return the result of a classifier, by its name in `TITLES`."""

    def of_last(part: LayerFeatures) -> Array:
        return part.layer(part.depth - 1, features)

    probes: dict[str, Callable[[], Probed]] = {
        "knn": lambda: probe_neighbors(splits, of_last),
        "logistic": lambda: probe_logistic(splits, of_last),
        "linear": lambda: probe_linear(splits, seed=seed),
    }
    return probes[name]()


def probed_numbers(name: str, splits: NumberSplits, features: Features) -> ProbedNumbers:
    """Return the result of a regression, by its name in `TITLES`."""
    regress = {"knn": regress_neighbors, "ridge": regress_ridge}[name]
    return regress(splits, lambda part: part.layer(part.depth - 1, features))


def board_line(
    backbone: str,
    probe: str,
    found: Probed | ProbedNumbers,
    rows: Sequence[Row],
    columns: Mapping[str, Array],
    classes: tuple[str, ...],
    first: BoardLine | None,
    *,
    positive: int,
    resamples: int,
    seed: int,
) -> BoardLine:
    """Return the line of a probe, with intervals over patients, and differences from the line `first` if given.

    `columns` are the truth and the predictions of the test images, as in `predictions.parquet`.
    """
    table = {
        "image_id": np.array([row.image_id for row in rows]),
        "patient_id": np.array([row.patient_id for row in rows]),
        **columns,
    }
    metrics = metrics_of_table(table, classes, positive, resamples=resamples, seed=seed)
    differences = (
        {}
        if first is None
        else paired_differences(table, first.table, classes, resamples=resamples, seed=seed, positive=positive)
    )
    return BoardLine(backbone, probe, found.chosen, found.tried[found.chosen], metrics, differences, table)


def layer_lines(backbone: str, splits: ProbeSplits, test_truth: Array) -> list[LayerLine]:
    """Return the sweep over layers of a backbone: a ridge probe on the features of each layer."""
    return _sweep(backbone, splits.train.depth, partial(ridge_scores, splits, test_truth))


def number_layer_lines(backbone: str, splits: NumberSplits, test_truth: Array) -> list[LayerLine]:
    """Return the sweep over layers of a backbone for a number: a ridge regression on the features of each layer."""
    return _sweep(backbone, splits.train.depth, partial(layer_scores, splits, test_truth))


def label_layer_lines(backbone: str, splits: LabelSplits, test_truth: Array) -> list[LayerLine]:
    """Return the sweep over layers of a backbone for several labels: the mean AUROC over the labels."""
    return _sweep(backbone, splits.train.depth, partial(label_layer_scores, splits, test_truth))


def _sweep(backbone: str, depth: int, scores: Callable[[FeaturesOf], tuple[float, float]]) -> list[LayerLine]:
    """Return the scores on val and test of the features of each layer."""
    return [
        LayerLine(backbone, layer + 1, depth, *scores(lambda part, layer=layer: part.layer(layer)))  # type: ignore[misc]
        for layer in range(depth)
    ]


def ranked(lines: Sequence[BoardLine], task: TaskName) -> list[BoardLine]:
    """Return the lines, the highest main metric on the test split first."""
    return sorted(lines, key=lambda line: -line.metrics[MAIN[task][0]].value)


def board_table(lines: Sequence[BoardLine], task: TaskName, positive: str) -> Table:
    """Return the leaderboard as a table."""
    main = MAIN[task]
    titles = [metric_title(name, positive) for name in main]
    val = f"{CHOSEN_BY[task]} on val"
    head = ["backbone", "probe", titles[0], "difference from first", *titles[1:], val, "setting"]
    cells = [
        [
            line.backbone,
            TITLES[line.probe],
            line.metrics[main[0]].text,
            line.differences[main[0]].text if line.differences else "",
            *(line.metrics[name].text for name in main[1:]),
            f"{line.val:.3f}",
            line.chosen,
        ]
        for line in ranked(lines, task)
    ]
    return Table(head, cells)


def layer_table(lines: Sequence[LayerLine], task: TaskName) -> Table:
    """Return the sweep over layers as a table, with a mark at the layer that is best on val."""
    best = {
        line.backbone: max((one.val, -one.layer) for one in lines if one.backbone == line.backbone) for line in lines
    }
    cells = [
        [
            line.backbone,
            f"{line.layer} of {line.depth}",
            f"{line.val:.3f}",
            f"{line.test:.3f}",
            "best on val" if best[line.backbone] == (line.val, -line.layer) else "",
        ]
        for line in lines
    ]
    title = CHOSEN_BY[task]
    return Table(["backbone", "layer", f"{title} on val", f"{title} on test", ""], cells)


def write_board(
    folder: Path,
    name: str,
    protocol: Protocol,
    lines: Sequence[BoardLine],
    layers: Sequence[LayerLine],
    weights: Mapping[str, str],
    positive: str,
    notes: Sequence[str],
) -> None:
    """Write `probe.json` and `probe.html` into a folder; `weights` are the digests of the backbones, by name."""
    task = protocol.task
    tree = {
        "protocol": asdict(protocol),
        "protocol_sha256": protocol.hash,
        "weights_sha256": dict(weights),
        "results": [
            {
                "backbone": line.backbone,
                "probe": line.probe,
                "setting": line.chosen,
                f"val_{CHOSEN_BY[task].lower()}": line.val,
                "metrics": {name: one.plain for name, one in line.metrics.items()},
                "difference_from_first": {name: one.plain for name, one in line.differences.items()},
            }
            for line in ranked(lines, task)
        ],
        "layers": [asdict(line) for line in layers],
        "notes": list(notes),
    }
    write_text(folder / JSON, json.dumps(tree, indent=2) + "\n")
    opening = f"Frozen backbones on {name}, label {protocol.label!r}, by the protocol {protocol.hash[:16]}."
    sections = [
        Section("Test split", [board_table(lines, task, positive), _sentence(task), [_picture(lines, task)]]),
        *([_layer_section(layers, task)] if layers else []),
        Section("Protocol", [Table(["part", "value"], _protocol_lines(protocol, weights)), *notes]),
    ]
    Document("Comparison of backbones", opening, sections).write_html(folder / HTML)


def _layer_section(layers: Sequence[LayerLine], task: TaskName) -> Section:
    how = "on the val split" if task == "regression" else "by the leave-one-out error on the train split"
    sentence = (
        f"A ridge regression on class token and mean of the patch tokens of each layer. Its penalty is chosen {how}."
    )
    return Section("Layers", [layer_table(layers, task), sentence, [_layer_picture(layers, task)]])


def _sentence(task: TaskName) -> str:
    title = metric_title(MAIN[task][0])
    return (
        f"Brackets are 95 % intervals over patients. Differences of {title} are paired, and are from the first of the "
        f"given backbones with the same probe. Settings were chosen on the val split, by {CHOSEN_BY[task]}. The "
        "table is ordered by the test split, so the best of many backbones looks better than it is."
    )


def _protocol_lines(protocol: Protocol, weights: Mapping[str, str]) -> list[list[str]]:
    return [
        ["protocol", protocol.hash],
        *([f"images of {name}", digest] for name, digest in protocol.images.items()),
        *([f"weights of {name}", digest] for name, digest in weights.items()),
        ["neighbors", "k = 10, 20, 100, 200; votes weighted by exp(cosine / 0.07)"],
        *_settings(protocol.task),
    ]


def _settings(task: TaskName) -> list[list[str]]:
    if task == "regression":
        penalties = f"{len(PENALTIES)} penalties from {PENALTIES[0]:g} to {PENALTIES[-1]:g}, on standardized features"
        return [["ridge regression", f"{penalties}; the final model is trained on train and val"]]
    return [
        ["logistic regression", "45 values of C from 1e-6 to 1e5; the final model is trained on train and val"],
        [
            "linear grid",
            "13 learning rates, 1 or 4 last layers, with or without mean; SGD, 1,000 steps of 128 images",
        ],
    ]


def _picture(lines: Sequence[BoardLine], task: TaskName) -> Picture:
    main = MAIN[task][0]
    order, title = ranked(lines, task), metric_title(main)
    figure = Figure(figsize=(8, 0.8 + 0.32 * len(order)), layout="constrained")
    axes = figure.subplots()
    for place, line in enumerate(reversed(order)):
        found = line.metrics[main]
        axes.plot([found.low, found.high], [place, place], color="#1f5fa8")
        axes.plot([found.value], [place], "o", color="#1f5fa8")
    axes.set_yticks(range(len(order)), [f"{line.backbone}, {TITLES[line.probe].lower()}" for line in reversed(order)])
    axes.set_xlabel(f"{title} on the test split, with 95 % interval")
    return Picture.of("board", f"{title} of each backbone and probe, with 95 % intervals over patients", figure)


def _layer_picture(lines: Sequence[LayerLine], task: TaskName) -> Picture:
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for name in dict.fromkeys(line.backbone for line in lines):
        own = [line for line in lines if line.backbone == name]
        axes.plot([line.layer / line.depth for line in own], [line.test for line in own], "o-", label=name)
    axes.set_xlabel("depth of the layer, as a share of all layers")
    axes.set_ylabel(f"{CHOSEN_BY[task]} on the test split")
    axes.legend()
    return Picture.of("layers", f"{CHOSEN_BY[task]} of a ridge probe on each layer", figure)
