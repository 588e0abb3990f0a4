"""Comparison of several reports on one page."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from medvit.evaluation.report.together import HTML, JSON, ReportComparison, compare_reports
from medvit.stage import Run, StageConfig, stage


class CompareConfig(StageConfig):
    """Options of `medvit compare`."""

    USES_TORCH: ClassVar[bool] = False

    reports: tuple[Path, ...]
    """Report folders made by evaluate, of models for the same task on the same split. The others are compared with the
    first.
    """
    output: Path
    """New folder for the comparison."""
    resamples: int = Field(2000, ge=100)
    """Number of bootstrap resamples for the confidence intervals."""


@stage
def compare(config: CompareConfig, run: Run) -> ReportComparison:
    """Compare several reports on one page: metrics side by side, and differences from the first one."""
    found = compare_reports(config.reports, run.folder, resamples=config.resamples, seed=config.seed)
    found.write()
    run.keep(HTML, JSON)
    return found
