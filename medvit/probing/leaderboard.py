"""Leaderboard of backbones: test metrics of each probe with intervals over patients, and a sweep over layers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy import ndarray as Array

from medvit.baselines.beside import metrics_of_table
from medvit.document import Document, Picture, Section, Table
from medvit.evaluation.paired import paired_differences
from medvit.files.atomic import write_text
from medvit.metrics import metric_title
from medvit.metrics.auroc import mean_auroc
from medvit.models.features import Features
from medvit.probing.classifiers import Probed, ProbeSplits, probe_linear, probe_logistic, probe_neighbors, probe_ridge
from medvit.probing.layer_features import LayerFeatures
from medvit.probing.protocol import Protocol
from medvit.records import Row
from medvit.statistics import Estimate

HTML, JSON = "probe.html", "probe.json"
TITLES = {"knn": "Nearest neighbors", "logistic": "Logistic regression", "linear": "Linear grid"}
MAIN = ("auroc", "balanced_accuracy")


@dataclass(frozen=True)
class BoardLine:
    """Result of a probe on a backbone.

    `val` is the AUROC of the chosen setting on the val split. `differences` are the test metrics minus those of the
    first backbone with the same probe; empty for the first backbone.
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
    """AUROC of a ridge probe on the features of one layer, counted from 1."""

    backbone: str
    layer: int
    depth: int
    val: float
    test: float


def probed(name: str, splits: ProbeSplits, features: Features, *, seed: int) -> Probed:
    """Return the result of a probe, by its name in `TITLES`."""

    def of_last(part: LayerFeatures) -> Array:
        return part.layer(part.depth - 1, features)

    probes: dict[str, Callable[[], Probed]] = {
        "knn": lambda: probe_neighbors(splits, of_last),
        "logistic": lambda: probe_logistic(splits, of_last),
        "linear": lambda: probe_linear(splits, seed=seed),
    }
    return probes[name]()


def board_line(
    backbone: str,
    probe: str,
    found: Probed,
    rows: Sequence[Row],
    truth: Array,
    classes: tuple[str, ...],
    first: BoardLine | None,
    *,
    positive: int,
    resamples: int,
    seed: int,
) -> BoardLine:
    """Return the line of a probe, with intervals over patients, and differences from the line `first` if given."""
    table = {
        "image_id": np.array([row.image_id for row in rows]),
        "patient_id": np.array([row.patient_id for row in rows]),
        "truth": truth,
        **{f"p.{name}": found.probabilities[:, index] for index, name in enumerate(classes)},
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
    lines = []
    depth = splits.train.depth
    for layer in range(depth):
        val, test = probe_ridge(splits, lambda part, layer=layer: part.layer(layer))  # type: ignore[misc]
        scores = mean_auroc(splits.val_truth, val), mean_auroc(test_truth, test)
        lines.append(LayerLine(backbone, layer + 1, depth, *scores))
    return lines


def ranked(lines: Sequence[BoardLine]) -> list[BoardLine]:
    """Return the lines, the highest AUROC on the test split first."""
    return sorted(lines, key=lambda line: -line.metrics["auroc"].value)


def board_table(lines: Sequence[BoardLine], positive: str) -> Table:
    """Return the leaderboard as a table."""
    titles = [metric_title(name, positive) for name in MAIN]
    head = ["backbone", "probe", titles[0], "difference from first", *titles[1:], "AUROC on val", "setting"]
    cells = [
        [
            line.backbone,
            TITLES[line.probe],
            line.metrics[MAIN[0]].text,
            line.differences[MAIN[0]].text if line.differences else "",
            *(line.metrics[name].text for name in MAIN[1:]),
            f"{line.val:.3f}",
            line.chosen,
        ]
        for line in ranked(lines)
    ]
    return Table(head, cells)


def layer_table(lines: Sequence[LayerLine]) -> Table:
    """Return the sweep over layers as a table, with a mark at the layer with the highest AUROC on val."""
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
    return Table(["backbone", "layer", "AUROC on val", "AUROC on test", ""], cells)


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
    tree = {
        "protocol": asdict(protocol),
        "protocol_sha256": protocol.hash,
        "weights_sha256": dict(weights),
        "results": [
            {
                "backbone": line.backbone,
                "probe": line.probe,
                "setting": line.chosen,
                "val_auroc": line.val,
                "metrics": {name: one.plain for name, one in line.metrics.items()},
                "difference_from_first": {name: one.plain for name, one in line.differences.items()},
            }
            for line in ranked(lines)
        ],
        "layers": [asdict(line) for line in layers],
        "notes": list(notes),
    }
    write_text(folder / JSON, json.dumps(tree, indent=2) + "\n")
    opening = f"Frozen backbones on {name}, label {protocol.label!r}, by the protocol {protocol.hash[:16]}."
    sections = [
        Section("Test split", [board_table(lines, positive), _sentence(), [_picture(lines)]]),
        *([Section("Layers", [layer_table(layers), LAYERS, [_layer_picture(layers)]])] if layers else []),
        Section("Protocol", [Table(["part", "value"], _protocol_lines(protocol, weights)), *notes]),
    ]
    Document("Comparison of backbones", opening, sections).write_html(folder / HTML)


LAYERS = (
    "A ridge regression on class token and mean of the patch tokens of each layer. Its penalty is chosen by the "
    "leave-one-out error on the train split."
)


def _sentence() -> str:
    return (
        "Brackets are 95 % bootstrap intervals over patients. Differences of AUROC are paired, and are from the first "
        "of the given backbones with the same probe. Settings were chosen on the val split. The "
        "table is ordered by the test split, so the best of many backbones looks better than it is."
    )


def _protocol_lines(protocol: Protocol, weights: Mapping[str, str]) -> list[list[str]]:
    return [
        ["protocol", protocol.hash],
        *([f"images of {name}", digest] for name, digest in protocol.images.items()),
        *([f"weights of {name}", digest] for name, digest in weights.items()),
        ["neighbors", "k = 10, 20, 100, 200; votes weighted by exp(cosine / 0.07)"],
        ["logistic regression", "45 values of C from 1e-6 to 1e5; the final model is trained on train and val"],
        [
            "linear grid",
            "13 learning rates, 1 or 4 last layers, with or without mean; SGD, 1,000 steps of 128 images",
        ],
    ]


def _picture(lines: Sequence[BoardLine]) -> Picture:
    order = ranked(lines)
    figure = Figure(figsize=(8, 0.8 + 0.32 * len(order)), layout="constrained")
    axes = figure.subplots()
    for place, line in enumerate(reversed(order)):
        found = line.metrics["auroc"]
        axes.plot([found.low, found.high], [place, place], color="#1f5fa8")
        axes.plot([found.value], [place], "o", color="#1f5fa8")
    axes.set_yticks(range(len(order)), [f"{line.backbone}, {TITLES[line.probe].lower()}" for line in reversed(order)])
    axes.set_xlabel("AUROC on the test split, with 95 % interval")
    return Picture.of("board", "AUROC of each backbone and probe, with 95 % intervals over patients", figure)


def _layer_picture(lines: Sequence[LayerLine]) -> Picture:
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for name in dict.fromkeys(line.backbone for line in lines):
        own = [line for line in lines if line.backbone == name]
        axes.plot([line.layer / line.depth for line in own], [line.test for line in own], "o-", label=name)
    axes.set_xlabel("depth of the layer, as a share of all layers")
    axes.set_ylabel("AUROC on the test split")
    axes.legend()
    return Picture.of("layers", "AUROC of a ridge probe on each layer", figure)
