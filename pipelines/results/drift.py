"""Comparison of two sets of embedded images, such as two months or sites, with an alarm if they differ."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from medvit.document import markdown_table
from medvit.drift.comparison import DriftResult, StudyScores, compare_sets
from medvit.drift.page import HTML, JSON, shift_table, write_drift
from medvit.drift.scores import read_scores
from medvit.embeddings.table import filtered, require_comparable
from medvit.errors import ConfigError
from medvit.stage import Run, StageConfig, first_free, stage
from medvit.summary import Summary, labeled

SHOWN = 10
"""Number of variables that the terminal shows."""


class DriftConfig(StageConfig):
    """Options of `medvit drift`."""

    USES_TORCH: ClassVar[bool] = False

    a: Path
    """Folder of embeddings, made by embed: the reference, such as the training images."""
    b: Path
    """Folder of embeddings to compare with the first, made with the same checkpoint."""
    where_a: dict[str, str] = Field(default_factory=dict)
    """Images of `a` to use, by columns of the manifest, labels or attributes, as in where_a={split: train, sex: F}.
    Empty: all images.
    """
    where_b: dict[str, str] = Field(default_factory=dict)
    """Images of `b` to use, likewise. Two parts of one folder can be compared with each other."""
    scores: tuple[Path, ...] = ()
    """Two folders made by predict, with the scores of the studies of `a` and of `b`. Empty: no scores are compared."""
    output: Path | None = None
    """New folder for the report. Unset: the first unused name of drift-1, drift-2... in the current folder."""

    @property
    def folder(self) -> Path:
        """Output folder."""
        return self.output or first_free("drift")


@dataclass(frozen=True)
class Drift:
    """Finished comparison: `drift.html`, `drift.json`."""

    folder: Path
    result: DriftResult

    def summary(self) -> Summary:
        """Return the numbers of patients, and the variables that differ."""
        texts = [f"{one.name}: {one.effect:+.2f} standard deviations (p {one.p:.4f})" for one in self.result.alarms]
        counts = " and ".join(f"{number} patients" for number in self.result.num_patients)
        return Summary([("compared", counts), *labeled("alarms", texts or ["none"])], {HTML: "all variables"})


@stage
def drift(config: DriftConfig, run: Run) -> Drift:
    """Compare two sets of images by embeddings, attributes and scores, and report whether they differ."""
    tables = {name: run.embeddings(getattr(config, name), name) for name in "ab"}
    require_comparable(tables["a"], tables["b"], ("a", "b"))
    a, b = (filtered(tables[name], getattr(config, f"where_{name}"), f"where_{name}") for name in "ab")
    scores = _scores(config)

    found = compare_sets(a, b, scores, seed=config.seed)

    write_drift(run.folder, found, (config.a.name, config.b.name))
    print(markdown_table(shift_table(found.shifts[:SHOWN])))
    run.failures += [f"{one.name}: {one.effect:+.2f} standard deviations (p {one.p:.4f})" for one in found.alarms]
    run.tracker.metrics({"num_alarms": len(found.alarms)})
    run.keep(HTML, JSON)
    return Drift(run.folder, found)


def _scores(config: DriftConfig) -> tuple[StudyScores, StudyScores] | None:
    if not config.scores:
        return None
    if len(config.scores) != 2:
        raise ConfigError(f"scores has {len(config.scores)} folders; expected two, one for a and one for b")
    first, second = (read_scores(folder) for folder in config.scores)
    return first, second
