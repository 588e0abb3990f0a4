"""Tables of the gains experiment, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from medvit.document import Table, markdown_table
from medvit.metrics import metric_title

NAMES = {
    "random": "random weights",
    "mae": "MAE",
    "dinov2": "DINOv2",
    "simdinov2": "SimDINOv2",
    "start": "start, no brain MR seen",
    "full": "continued, all weights",
    "explora": "continued, ExPLoRA",
}
PROBES = {
    "knn": ("20 neighbors", "test"),
    "linear": ("linear probe", "test"),
    "knn_val": ("20 neighbors, of validation images", "val"),
}


def scores_table(scores: Mapping[str, Any], probe: str, metric: str) -> str:
    """Return a table with a row per method and a column per data set.

    A cell has the mean over seeds, its confidence interval, and the range over seeds.
    """
    methods = next(iter(scores.values()))["probes"][probe][metric]
    title, split = PROBES[probe]
    heads = [f"{name} ({result['images'][split]} images)" for name, result in scores.items()]
    rows = [
        (NAMES[method], *(_cell(result["probes"][probe][metric][method]) for result in scores.values()))
        for method in methods
    ]
    return f"{title}, {metric_title(metric)}\n\n" + markdown_table(Table(("weights", *heads), tuple(rows)))


def costs_table(costs: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Return a table with a row per method: trained weights, and medians over seeds of steps, minutes and memory."""
    rows = []
    for method, runs in costs.items():
        cells = [f"{median(run[key] for run in runs):.{digits}f}" for key, digits in _COSTS.items()]
        share = runs[0]["trained"] / runs[0]["weights"]
        ended = sum(bool(run["guard"]) for run in runs)
        trained = f"{runs[0]['trained']:,} ({share:.0%})"
        rows.append((NAMES.get(method, method), trained, *cells, f"{ended} of {len(runs)}"))
    heads = ("training", "weights trained", "steps", "minutes", "CPU minutes", "peak memory, MiB", "ended by the guard")
    return markdown_table(Table(heads, tuple(rows)))


_COSTS = {"steps": 0, "minutes": 1, "cpu_minutes": 1, "peak_mib": 0}


def _cell(result: Mapping[str, Any]) -> str:
    mean, gain = result["mean"], result["gain"]
    text = f"{mean['value']:.3f} [{mean['low']:.3f}, {mean['high']:.3f}]"
    if len(result["seeds"]) > 1:
        text += f", seeds {min(result['seeds']):.3f} to {max(result['seeds']):.3f}"
    if gain["low"] > 0 or gain["high"] < 0:
        text += f", {'better' if gain['value'] > 0 else 'worse'} by {abs(gain['value']):.3f}"
    return text
