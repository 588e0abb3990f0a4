"""Page of a batch: counts by outcome, failures with their reasons, flagged studies, and volumes of the classes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medvit.document import Document, Picture, Section, Table
from medvit.inference.outcomes import PREDICTION_COLUMNS, BatchOutcomes, StudyOutcome
from medvit.inference.review.gate import FLAGGED
from medvit.writers import STATUSES

PAGE = "summary.html"
MAX_LINES = 200
"""Maximum number of studies in a table of the page; `status.csv` lists all."""
NUM_BINS = 20
NOTE_END = "; "
MEANING = (
    "A flagged study has a volume or a number of components unlike those of the validation images, or is unlike the "
    "training images. A flag does not mean that a result is wrong, and its absence does not mean that it is right. "
    "Results are for research."
)
Volumes = dict[tuple[str, str], list[float]]
"""Model and class -> volumes in mL, one for each series."""


def write_page(outcomes: BatchOutcomes, folder: Path) -> None:
    """Write `summary.html`, which names studies by their pseudonyms."""
    counts = outcomes.counts
    flagged = [one for one in outcomes.all if flags_of(one)]
    verdict = f"{counts['done']} done, {counts['skipped']} skipped, {counts['failed']} failed; {len(flagged)} flagged"
    sections = [
        Section("Outcomes", [Table(["outcome", "studies"], [[name, str(counts[name])] for name in STATUSES])]),
        _failures("Failed", [one for one in outcomes.all if one.status == "failed"]),
        _failures("Skipped", [one for one in outcomes.all if one.status == "skipped"]),
        _flagged(flagged),
        _volumes(outcomes.all),
    ]
    tone: Literal["plain", "warning"] = "warning" if counts["failed"] or flagged else "plain"
    Document("Predictions", verdict, [one for one in sections if one.blocks], tone).write_html(folder / PAGE)


def flags_of(outcome: StudyOutcome) -> list[str]:
    """Return the reasons for which a study is flagged."""
    return [one.removeprefix(FLAGGED) for one in _notes(outcome) if one.startswith(FLAGGED)]


def _notes(outcome: StudyOutcome) -> list[str]:
    """Return the notes of a study; those of several models begin with the name of the model."""
    notes = outcome.reason.split(NOTE_END)
    return [one if FLAGGED not in one else one[one.index(FLAGGED) :] for one in notes]


def _failures(title: str, found: Sequence[StudyOutcome]) -> Section:
    if not found:
        return Section(title, [])
    reasons = Counter((one.code, one.reason) for one in found).most_common(MAX_LINES)
    by_reason = Table(
        ["code", "reason", "studies"], [[code, reason, str(n)] for (code, reason), n in reasons], is_text=True
    )
    studies = Table(
        ["study", "code", "reason"], [[one.study, one.code, one.reason] for one in found[:MAX_LINES]], is_text=True
    )
    return Section(title, [by_reason, studies, *_cut(len(found))])


def _flagged(found: Sequence[StudyOutcome]) -> Section:
    if not found:
        return Section("Flagged", [])
    worst = sorted(found, key=lambda one: (-len(flags_of(one)), one.study))[:MAX_LINES]
    lines = [[one.study, str(len(flags_of(one))), NOTE_END.join(flags_of(one))] for one in worst]
    return Section("Flagged", [Table(["study", "flags", "reasons"], lines, is_text=True), *_cut(len(found)), MEANING])


def _cut(number: int) -> list[str]:
    return [f"The first {MAX_LINES} of {number} studies are shown; status.csv lists all."] if number > MAX_LINES else []


def _volumes(outcomes: Sequence[StudyOutcome]) -> Section:
    volumes: Volumes = defaultdict(list)
    for outcome in outcomes:
        for finding in outcome.findings:
            line: dict[str, Any] = dict(zip(PREDICTION_COLUMNS[1:], finding, strict=False))
            if line.get("volume_ml") is not None:
                volumes[line.get("model") or "", line["class"]].append(float(line["volume_ml"]))
    if not volumes:
        return Section("Volumes", [])
    several = len({model for model, _ in volumes}) > 1
    lines = []
    for (model, name), values in volumes.items():
        quartiles = (f"{one:.4g}" for one in np.quantile(values, [0.0, 0.25, 0.5, 0.75, 1.0]))
        empty = str(sum(one == 0.0 for one in values))
        lines.append([f"{model} {name}".strip() if several else name, str(len(values)), *quartiles, empty])
    columns = ["class", "series", "lowest", "quartile", "median", "quartile", "highest", "empty"]
    return Section("Volumes in mL", [Table(columns, lines), [_histograms(volumes, several=several)]])


def _histograms(volumes: Volumes, *, several: bool) -> Picture:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    columns = min(3, len(volumes))
    rows = -(-len(volumes) // columns)
    figure = Figure(figsize=(3.2 * columns, 2.2 * rows), layout="constrained")
    for number, ((model, name), values) in enumerate(volumes.items(), start=1):
        axes = figure.add_subplot(rows, columns, number)
        axes.hist(values, bins=NUM_BINS, color="#4477aa")
        axes.set_title(f"{model} {name}".strip() if several else name, fontsize=9)
        axes.set_xlabel("mL", fontsize=8)
        axes.set_ylabel("series", fontsize=8)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.tick_params(labelsize=7)
    return Picture.of("volumes", "Volumes of the classes", figure)
