"""Notes on the methods by which the intervals of a report were computed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from medvit.metrics import metric_of, metric_title
from medvit.statistics import METHODS, Estimate


def interval_notes(metrics: Mapping[str, Estimate]) -> list[str]:
    """Return one note for each method of 95 % intervals, with the metrics that have such intervals."""
    members: dict[str, list[str]] = defaultdict(list)
    for keys in _by_metric(metrics).values():
        for method, named in _named_by_method(keys, metrics).items():
            members[method] += named
    return [f"95 % intervals of {', '.join(names)}: {METHODS[method]}." for method, names in members.items() if method]


def _by_metric(keys: Mapping[str, Estimate]) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for key in keys:
        metric = metric_of(key)
        found[key if metric is None else metric.name].append(key)
    return found


def _named_by_method(keys: Sequence[str], metrics: Mapping[str, Estimate]) -> Mapping[str, list[str]]:
    """Return the names of the values of one metric, by method; parts with the same method have one name together."""
    methods = {key: metrics[key].method for key in keys}
    found: dict[str, list[str]] = defaultdict(list)
    whole, parts = [key for key in keys if "." not in key], [key for key in keys if "." in key]
    if len(set(methods.values())) == 1:
        found[methods[keys[0]]].append(metric_title((whole or [keys[0].partition(".")[0]])[0]))
        return found
    for key in whole:
        found[methods[key]].append(metric_title(key))
    if len({methods[key] for key in parts}) == 1:
        found[methods[parts[0]]].append(f"{metric_title(parts[0].partition('.')[0])} of each class")
        return found
    for key in parts:
        found[methods[key]].append(metric_title(key))
    return found
