"""Comparison of two datasets: variables that differ, effect sizes, plots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medvit.artifacts import MODEL_CARD, MODEL_PAGE
from medvit.cards.effect_sizes import EffectSize, Observed, categorical_effect_size, numeric_effect_size
from medvit.cards.plots import COLORS
from medvit.cards.variables import names, numbers
from medvit.dataset.intensity_statistics import sampled_rows
from medvit.dataset.manifest import Manifest
from medvit.dataset.thumbnails import montage, showable, thumbnail
from medvit.document import Document, Picture, Section, Table
from medvit.files.atomic import write_text
from medvit.files.spreadsheets import csv_text
from medvit.patients import PatientCount
from medvit.summary import Summary, counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HTML, MARKDOWN, CSV, PICTURES = "comparison.html", "comparison.md", "comparison.csv", "comparison"
MAX_NAMES = 12
"""Maximum number of values of a nominal variable that are shown; these are the most frequent ones."""
SHOWN_IMAGES = 6
FEW_PATIENTS = 20
"""Number of patients below which percentile intervals are too narrow (Hesterberg, The American Statistician 2015)."""
MIN_VALUES = 2
"""Minimum number of values of a variable that each dataset must have for the variable to be compared."""
NOTES = (
    "Effect: for numbers the standardized mean difference, b - a (small from 0.2, medium from 0.5, large from "
    "0.8); for names Cramer's V, corrected for bias (from 0.1, 0.3, 0.5). Brackets contain 95 % bootstrap "
    "intervals over patients.",
    "KS is the largest distance between the two cumulative distributions, 0 to 1; for names, the share that "
    "differs. Wasserstein is how far values must move on average, in their own unit. If numbers do not vary "
    "within both datasets, only these two apply; if no name is in both, the effect size is large, however few "
    "there are.",
    "Ages, sexes and fields are counted once per patient and value, all other variables once per image. An age "
    "of 89 stands for 89 years and above.",
)


@dataclass(frozen=True)
class ComparedVariable:
    """Variable that the images of both datasets have, and its effect size."""

    name: str
    a: Observed
    b: Observed
    effect: EffectSize


@dataclass(frozen=True)
class CardFolder:
    """Output of `medvit card`: the card of one dataset, or a comparison of two with its `variables`."""

    folder: Path
    variables: tuple[ComparedVariable, ...] = ()

    def summary(self) -> Summary:
        """Return the number of variables compared."""
        lines = [("compared", counted(len(self.variables), "variable"))] if self.variables else []
        cards = {"card.html": "data card", "card.md": "the same in Markdown"}
        cards |= {MODEL_PAGE: "model card", MODEL_CARD: "the same in Markdown"}
        return Summary(lines, {HTML: "report", MARKDOWN: "report", CSV: "its numbers", **cards})


def compare(a: Manifest, b: Manifest, seed: int = 0) -> tuple[ComparedVariable, ...]:
    """Return the variables that both datasets have, with the largest effect first.

    Variables with fewer than `MIN_VALUES` values in one of the datasets are excluded.

    Raises:
        DataError: If a store lacks pixels that are to be measured.
    """
    made = _measured(numbers(a), numbers(b), numeric_effect_size, seed) + _measured(
        names(a), names(b), categorical_effect_size, seed
    )
    enough = [one for one in made if min(len(one.a), len(one.b)) >= MIN_VALUES]
    return tuple(sorted(enough, key=lambda one: (-_rank(one.effect), one.name)))


def write(folder: Path, a: Manifest, b: Manifest, variables: Sequence[ComparedVariable]) -> None:
    """Write `comparison.html` (self-contained), `comparison.md` with its figures, and `comparison.csv`."""
    write_text(folder / CSV, _csv(variables))
    large = [one.name for one in variables if one.effect.size in ("medium", "large")]
    opening = f"Medium or large effects: {'; '.join(large)}." if large else "No medium or large effect was found."
    fewest = min((PatientCount.of(manifest) for manifest in (a, b)), key=lambda count: count.total)
    if fewest.total < FEW_PATIENTS:
        opening += f" One of the datasets has only {fewest}: the intervals are less reliable than they look."
    known = [{*names(manifest), *numbers(manifest)} for manifest in (a, b)]
    remarks = [_only("a", known[0] - known[1]), _only("b", known[1] - known[0])]
    remarks.append(_too_few(known[0] & known[1] - {one.name for one in variables}))
    remarks += [f"{key}: {note}." for key, manifest in (("a", a), ("b", b)) if (note := PatientCount.of(manifest).note)]
    page = Document(
        f"{a.facts.name} (a) and {b.facts.name} (b)",
        opening,
        [
            Section("Contents", [_contents(a, b), *filter(None, remarks)]),
            Section("Effect sizes", [_table(variables), *NOTES]),
            Section("Distributions", [[_picture(number, one) for number, one in enumerate(variables)]]),
            Section("Images", [[_images(a, b)]]),
        ],
    )
    page.write_html(folder / HTML)
    page.write_markdown(folder / MARKDOWN, PICTURES)


def _measured(
    a: Mapping[str, Observed],
    b: Mapping[str, Observed],
    measure: Callable[[Observed, Observed, int], EffectSize],
    seed: int,
) -> list[ComparedVariable]:
    return [ComparedVariable(name, a[name], b[name], measure(a[name], b[name], seed)) for name in a if name in b]


def _rank(found: EffectSize) -> float:
    """Return a sort key for effects, which orders them by `size` (none to large), then by magnitude."""
    sizes = {"none": 0, "small": 1, "medium": 2, "large": 3}
    return sizes[found.size] + (min(abs(found.effect), 9.0) / 10 if np.isfinite(found.effect) else found.ks / 10)


def _contents(a: Manifest, b: Manifest) -> Table:
    columns = [_counts(manifest) for manifest in (a, b)]
    return Table(["", "a", "b"], [[name, *(column[name] for column in columns)] for name in columns[0]])


def _counts(manifest: Manifest) -> dict[str, int | str]:
    return {
        "patients": PatientCount.of(manifest).cell,
        "studies": len({(row.patient_id, row.study_id) for row in manifest}),
        "images": sum(row.kind == "image" for row in manifest),
        "volumes": sum(row.kind == "volume" for row in manifest),
        "flagged": sum(bool(row.flags) for row in manifest),
    }


def _only(key: str, known: Set[str]) -> str:
    """Return a sentence that lists `known`, the variables that only dataset `key` has; empty if `known` is empty."""
    return f"Only {key} has: {'; '.join(sorted(known))}." if known else ""


def _too_few(known: Set[str]) -> str:
    """Return a sentence that lists `known`, the variables with too few values; empty if `known` is empty."""
    left = "; ".join(sorted(known))
    return f"Not compared, as one of them has fewer than {MIN_VALUES} values: {left}." if left else ""


def _table(variables: Sequence[ComparedVariable]) -> Table:
    lines = [
        [
            v.name,
            v.effect.size,
            _effect(v.effect),
            _plain(v.effect.ks),
            _plain(v.effect.wasserstein),
            _described(v.a),
            _described(v.b),
        ]
        for v in variables
    ]
    return Table(["", "size", "effect [95 %]", "KS", "Wasserstein", "a", "b"], lines)


def _effect(found: EffectSize) -> str:
    if not np.isfinite(found.effect):
        return "does not vary within"
    return f"{'V ' if found.kind == 'names' else ''}{found.effect:.2f} [{found.low:.2f}, {found.high:.2f}]"


def _plain(value: float) -> str:
    return f"{value:.3g}" if np.isfinite(value) else ""


def _described(observed: Observed) -> str:
    if isinstance(observed.values[0], str):
        ranked = Counter(map(str, observed.values)).most_common(4)
        return ", ".join(f"{name} {count / len(observed):.0%}" for name, count in ranked)
    values = np.asarray(observed.values, dtype=np.float64)
    low, middle, high = np.quantile(values, (0.05, 0.5, 0.95))
    return f"{middle:.4g} [{low:.4g} to {high:.4g}], n {len(values)}"


def _picture(number: int, variable: ComparedVariable) -> Picture:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2, 2.2), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=7)
    (_bars if variable.effect.kind == "names" else _steps)(axes, variable)
    axes.legend(fontsize=7, frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return Picture.of(f"{number:02d}", f"{variable.name}: {variable.effect.size}", figure)


def _steps(axes: Axes, variable: ComparedVariable) -> None:
    for key, observed, color in (("a", variable.a, COLORS[0]), ("b", variable.b, COLORS[1])):
        axes.ecdf(np.asarray(observed.values, dtype=np.float64), label=key, color=color)
    axes.locator_params(axis="x", nbins=4)
    axes.set_xlabel(variable.name, fontsize=7)
    axes.set_ylabel("share at or below", fontsize=7)


def _bars(axes: Axes, variable: ComparedVariable) -> None:
    counts = [Counter(map(str, observed.values)) for observed in (variable.a, variable.b)]
    shown = [name for name, _ in (counts[0] + counts[1]).most_common(MAX_NAMES)]
    for offset, (key, count, color) in enumerate(zip("ab", counts, COLORS, strict=False)):
        shares = [count[name] / count.total() for name in shown]
        axes.barh(np.arange(len(shown)) + 0.4 * offset, shares, height=0.4, label=key, color=color)
    axes.set_yticks(np.arange(len(shown)) + 0.2, [name if len(name) <= 22 else f"{name[:21]}…" for name in shown])
    axes.invert_yaxis()
    axes.set_xlabel(f"{variable.name}: share", fontsize=7)


def _images(a: Manifest, b: Manifest) -> Picture:
    lines = []
    for key, manifest in (("a", a), ("b", b)):
        rows = showable(manifest, sampled_rows(manifest))
        places = np.unique(np.linspace(0, len(rows) - 1, SHOWN_IMAGES).round().astype(int)) if rows else ()
        shown = [("", thumbnail(manifest, rows[place])) for place in places]
        lines.append((f"{key}: {manifest.facts.name}", shown))
    return Picture.of("images", "Images spread evenly over each dataset", montage(lines))


def _csv(variables: Sequence[ComparedVariable]) -> str:
    lines: list[list[object]] = []
    for v in variables:
        s = v.effect
        numbers = [f"{value:.6g}" for value in (s.effect, s.low, s.high, s.ks, s.wasserstein)]
        lines.append([v.name, s.kind, s.size, *numbers, len(v.a), len(v.b)])
    columns = ("variable", "kind", "shift", "effect", "low", "high", "ks", "wasserstein", "n_a", "n_b")
    return csv_text(columns, lines)
