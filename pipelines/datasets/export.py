"""Export of a dataset as files for any tool: volumes as NIfTI, images as PNG, a JSON file for each."""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import Field

from medvit.dataset.export import Exported, ExportImage, is_done
from medvit.engine import EngineConfig, map_items
from medvit.errors import MedvitError, OutputError, unexpected
from medvit.records import Row, Split
from medvit.stage import Run, StageConfig, stage

log = logging.getLogger("medvit")


class ExportConfig(StageConfig):
    """Options of `medvit export`."""

    dataset: Path
    """Dataset folder made by ingest."""
    output: Path
    """New folder for the exported files."""
    splits: tuple[Split, ...] = ("train", "val", "calibration", "test")
    """Splits to export."""
    compress: bool = True
    """Write compressed .nii.gz files. The value false writes .nii files, which is several times faster but takes
    several times more space.
    """
    engine: EngineConfig = Field(default_factory=EngineConfig)


@stage
def export(config: ExportConfig, run: Run) -> Exported:
    """Write a dataset as files for other tools: volumes as NIfTI, images as PNG, each with a JSON file."""
    manifest = run.dataset(config.dataset)
    rows = [row for row in manifest if row.split in config.splits]
    waiting = [row for row in rows if not (config.resume and is_done(row, run.folder))]
    if len(waiting) < len(rows):
        log.info("export: %d of %d images were written by the earlier run", len(rows) - len(waiting), len(rows))

    facts = manifest.facts
    write = ExportImage(facts.name, manifest.store.folder, run.folder, facts.mask_classes, config.compress)
    for outcome in map_items(write, waiting, config=config.engine, title="export"):
        if outcome.error is not None:
            run.failures.append(_failure(outcome.item, outcome.error))

    num_done = len(rows) - len(run.failures)
    run.tracker.metrics({"num_exported": num_done, "num_failed": len(run.failures)})
    num_failed = len(run.failures)
    if not rows:
        run.failures.append(
            f"the dataset has no image in {', '.join(config.splits) or 'no split'}; change splits=[...]"
        )
    return Exported(run.folder, num_done, num_failed)


def _failure(row: Row, error: Exception) -> str:
    if isinstance(error, OutputError):
        raise error
    return f"{row}: {error if isinstance(error, MedvitError) else unexpected(error)}"
