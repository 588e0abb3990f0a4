"""Leakage: overlap of the splits of a dataset, or of two datasets."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from medvit.document import markdown_table
from medvit.leakage import CHECKS, Check, Leakage, find_overlaps
from medvit.leakage.perceptual_hash import MAX_DISTANCE, NUM_BITS
from medvit.leakage.report import HITS, HTML, hits, summary, write
from medvit.stage import Run, StageConfig, first_free, stage


class LeakageConfig(StageConfig):
    """Options of `medvit leakage`."""

    a: Path
    """Dataset folder made by ingest."""
    b: Path | None = None
    """Second dataset, to compare with the first. Unset: only the splits of the first dataset are compared."""
    output: Path | None = None
    """New folder for the report. Unset: the first unused name of leakage-1, leakage-2... in the current folder."""
    checks: tuple[Check, ...] = Field(default=CHECKS, min_length=1)
    """Kinds of overlap to look for: the same patient, the same study, the same file, identical pixels (pixel) and near
    duplicates (perceptual).
    """
    max_bits: int = Field(default=MAX_DISTANCE, ge=0, lt=NUM_BITS // 2)
    """Limit for the search for near duplicates: the maximum number of bits, of 256, by which the perceptual hashes of
    two images may differ. If they are within the limit, the pixels of the two images are compared. The search also
    compares an image with rotated or mirrored versions of another image. For 2D images compared without rotating or
    mirroring, the limit is twice this number.
    """

    @property
    def folder(self) -> Path:
        """Output folder."""
        return self.output or first_free("leakage")


@stage
def leakage(config: LeakageConfig, run: Run) -> Leakage:
    """Find patients, studies and images shared by the splits of a dataset, or by two datasets."""
    manifests = {"" if config.b is None else "a": run.dataset(config.a, "a")}
    if config.b is not None:
        manifests["b"] = run.dataset(config.b, "b")

    overlaps = find_overlaps(manifests, config.checks, config.max_bits)

    checks = [check for check in CHECKS if check in config.checks]
    write(run.folder, manifests, overlaps, checks)
    print(markdown_table(summary(overlaps, checks)))
    run.failures += hits(overlaps)
    run.tracker.metrics(
        {f"crossing.{check}": sum(o.check == check and o.crosses for o in overlaps) for check in checks}
    )
    run.keep(HTML, HITS)
    return Leakage(run.folder, overlaps)
