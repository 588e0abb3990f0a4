"""Table of the series of a batch with the reason why each is taken or not, made without running a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from medvit.deidentification.pseudonyms import SiteNames
from medvit.errors import DataError
from medvit.files.atomic import write_text
from medvit.files.spreadsheets import csv_text
from medvit.inference.series.criteria import DICOM, SeriesFacts, misfits
from medvit.inference.series_selection import SeriesChoice, choose
from medvit.writers import Study

if TYPE_CHECKING:
    from medvit.models.image import AppliesTo

SERIES = "series.csv"
TAKEN, LEFT = "yes", "no"


@dataclass(frozen=True)
class ExplainedSeries:
    """Line of `series.csv`. Descriptions are excluded, because free text may name a patient."""

    study: str
    series: str
    model: str
    taken: str
    reason: str
    kind: str = ""
    modality: str = ""
    num_slices: str = ""
    orientation: str = ""
    spacing_mm: str = ""
    body_part: str = ""
    contrast: str = ""


def explained(
    study: Study, rule: AppliesTo, choice: SeriesChoice, names: SiteNames, model: str = ""
) -> Iterator[ExplainedSeries]:
    """Yield a line for each series of a study, and for each group of files of it that was refused."""
    error = ""
    try:
        chosen = choose(study, rule, choice)
    except DataError as found:
        chosen, error = (), str(found)
    for item in study.items:
        reasons = list(misfits(item, rule))
        if item in chosen:
            taken, reason = TAKEN, "it meets the rule"
        elif reasons:
            taken, reason = LEFT, "; ".join(reasons)
        else:
            taken, reason = LEFT, error or "it meets the rule, but series=best takes the series with the most slices"
        name = names.series(study.series_key(item))
        part = item.parts[0]
        if part.reader != DICOM:
            yield ExplainedSeries(study.name, name, model, taken, reason, item.kind)
            continue
        facts = SeriesFacts(part)
        spacing_mm = "" if facts.spacing_mm is None else f"{facts.spacing_mm:.4g}"
        yield ExplainedSeries(
            study.name,
            name,
            model,
            taken,
            reason,
            item.kind,
            item.modality,
            str(facts.num_slices),
            facts.orientation,
            spacing_mm,
            facts.body_part if facts.body_part.replace(" ", "").isalpha() and facts.body_part.isupper() else "",
            "yes" if facts.has_contrast else "no",
        )
    for refusal in study.refusals:
        yield ExplainedSeries(study.name, "", model, LEFT, f"{len(refusal.files)} files are refused: {refusal.reason}")


def write_series(folder: Path, lines: Sequence[ExplainedSeries]) -> None:
    """Write `series.csv`."""
    columns = [one.name for one in fields(ExplainedSeries)]
    write_text(folder / SERIES, csv_text(columns, [[getattr(line, column) for column in columns] for line in lines]))


def table(lines: Sequence[ExplainedSeries]) -> str:
    """Return the lines as a table for the screen: study, series, its kind, and the reason."""
    rows = [
        (line.study, line.series, line.model, line.taken, f"{line.modality} {line.kind} {line.num_slices}".strip())
        for line in lines
    ]
    header = ("study", "series", "model", "taken", "what")
    widths = [max(len(row[n]) for row in [header, *rows]) for n in range(len(header))]
    shown = [n for n in range(len(header)) if n != 2 or any(row[2] for row in rows)]

    def joined(row: tuple[str, ...], last: str) -> str:
        return "  ".join([*(row[n].ljust(widths[n]) for n in shown), last]).rstrip()

    return "\n".join([joined(header, "reason"), *(joined(r, line.reason) for r, line in zip(rows, lines, strict=True))])
