"""Results of an evaluation for a model card, read from the `metrics.json` of a report."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvit.artifacts import METRICS
from medvit.document import Block, Bullets, Outside, Table
from medvit.errors import DataError
from medvit.metrics import metric_title
from medvit.patients import PatientCount
from medvit.statistics import Estimate

VALUE = "value [95 % interval]"


@dataclass(frozen=True)
class ReportedResults:
    """Blocks of a model card that state the results of an evaluation, and lines on their limits."""

    factors: Sequence[Block]
    metrics: Sequence[Block]
    data: Sequence[Block]
    results: Sequence[Block]
    limits: Sequence[str]

    @classmethod
    def read(cls, folder: Path) -> ReportedResults:
        """Read the results of a report.

        Raises:
            DataError: If the folder is not a report, or its `metrics.json` is damaged.
        """
        path = folder / METRICS
        if not path.is_file():
            raise DataError(f"{folder} is not a report: no {METRICS} in it; give the output of evaluate")
        try:
            return cls._of(json.loads(path.read_text(encoding="utf-8")))
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError):
            raise DataError(f"{path} is damaged and cannot be read; run evaluate again") from None

    @classmethod
    def _of(cls, tree: Mapping[str, Any]) -> ReportedResults:
        analyses = tree.get("subgroups", {}).get("analyses", [])
        facts = [[name, Outside(text)] for name, text in tree["facts"].items()]
        meanings = [str(one["meaning"]) for one in tree["definitions"].values()]
        return cls(
            factors=[_evaluated_groups(analyses)],
            metrics=[Bullets(meanings)],
            data=[Table(["", ""], facts, is_text=True), _counts(tree["counts"])],
            results=[*_verdict(tree.get("verdict")), _metrics(tree), *_subgroups(analyses, tree.get("positive", ""))],
            limits=[str(note) for note in tree["notes"]],
        )


def _counts(counts: Mapping[str, int]) -> str:
    patients = PatientCount(counts["patients"], counts["assumed_patients"])
    return f"Evaluated: {counts['images']} images of {patients}."


def _evaluated_groups(analyses: Sequence[Mapping[str, Any]]) -> str:
    attributes = dict.fromkeys(group["attribute"] for one in analyses for group in one["groups"])
    if not attributes:
        return "The evaluation did not analyze subgroups."
    return Outside(f"Subgroups that the evaluation analyzed: by {', '.join(attributes)}.")


def _metrics(tree: Mapping[str, Any]) -> Table:
    positive = tree.get("positive", "")
    lines = [[Outside(metric_title(key, positive)), _estimate(one).text] for key, one in tree["metrics"].items()]
    return Table(["metric", VALUE], lines)


def _verdict(verdict: Mapping[str, Any] | None) -> list[Block]:
    if verdict is None:
        return ["Criteria: this report of an earlier version of medvit has no verdict."]
    if not verdict["criteria"]:
        return ["Criteria: not judged, since none were given before the evaluation."]
    head = ["criterion", "group", "bound", VALUE, "result"]
    lines = [
        [
            Outside(one["metric"]),
            Outside(one["group"] or "all"),
            f"{one['bound']:g}",
            _estimate(one).text,
            "met" if one["is_met"] else "not met",
        ]
        for one in verdict["criteria"]
    ]
    return [f"Criteria: {verdict['name']}.", Table(head, lines)]


def _subgroups(analyses: Sequence[Mapping[str, Any]], positive: str) -> list[Block]:
    blocks: list[Block] = []
    for one in analyses:
        main = one["main_metric"]
        blocks += [Outside(one["title"]), Bullets([Outside(each) for each in one["findings"]])]
        lines = [
            [
                Outside(f"{group['attribute']}: {group['name']}"),
                PatientCount(group["patients"], group["assumed_patients"]).cell,
                _estimate(group["metrics"][main]).text,
            ]
            for group in one["groups"]
        ]
        blocks += [Table(["group", "patients", f"{metric_title(main, positive)}, {VALUE}"], lines)] if lines else []
    return blocks


def _estimate(plain: Mapping[str, Any]) -> Estimate:
    value, low, high = (math.nan if plain.get(key) is None else float(plain[key]) for key in ("value", "low", "high"))
    return Estimate(value, low, high)
