"""Audit: check whether identifiers of a source's patients are in a dataset, its copies or the tracker."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from medvit.artifacts import CONFIG
from medvit.audit.places import find_places
from medvit.audit.report import FINDINGS, SUMMARY, Audited, summary_of, unread_lines
from medvit.audit.source import keyed_search, read_source
from medvit.dataset.made_with import MadeWith
from medvit.engine import EngineConfig
from medvit.ingest.deidentified_copy import DeidentifyConfig
from medvit.sources import Location, RetrieveConfig
from medvit.stage import Run, StageConfig, first_free, stage
from medvit.tracking import TrackingConfig

log = logging.getLogger("medvit")


class AuditConfig(StageConfig):
    """Options of `medvit audit`."""

    USES_TORCH: ClassVar[bool] = False

    dataset: Path
    """Dataset folder to search."""
    source: Location = Field(json_schema_extra={"private": True})
    """Original source of the dataset: a folder, archive or server. The audit searches for identifiers of its patients.
    """
    output: Path | None = None
    """New folder for the list of findings. Unset: the first unused name of audit-1, audit-2... in the current folder.
    """
    retrieve: RetrieveConfig = Field(default_factory=RetrieveConfig)
    places: tuple[Path, ...] = ()
    """Additional files and folders to search, such as logs, checkpoints, reports and predictions."""
    copy_to: Path | None = None
    """De-identified DICOM copy to search. Unset: the copy recorded in the dataset, if any."""
    ignore: tuple[str, ...] = Field(default=(), json_schema_extra={"private": True})
    """Words that are not searched for, such as folder names that are classes."""
    key: Path = Field(default=Path("~/.medvit/site.key"), json_schema_extra={"private": True})
    """Key file from which pseudonyms are computed. The audit needs the key to distinguish shifted dates in the copy
    from original dates.
    """
    labels: tuple[Path, ...] = Field(default=(), json_schema_extra={"private": True})
    """Tables stored outside the source that were used for the dataset, such as the table of labels. Their contents are
    searched for too, except names of classes.
    """
    unread: Literal["fail", "warn"] = "fail"
    """Response to source files that cannot be read. The audit does not know the identifiers in such files. fail: end
    with exit status 3. warn: only log a warning.
    """
    engine: EngineConfig = Field(default_factory=EngineConfig)

    @property
    def folder(self) -> Path:
        """Output folder."""
        return self.output or first_free("audit")


@stage
def audit(config: AuditConfig, run: Run) -> Audited:
    """Search a dataset, its de-identified copy and MLflow for anything that identifies a patient."""
    manifest = run.dataset(config.dataset)
    made_with = MadeWith.read(config.dataset)
    copying = DeidentifyConfig.parse_saved(made_with.group("deidentify"), source=CONFIG)
    recorded_in = TrackingConfig.parse_saved(made_with.group("tracking"), source=CONFIG)

    needles = read_source(
        config.source,
        config.retrieve,
        config.labels,
        manifest,
        profile=copying.profile,
        ignored=[*config.ignore, *copying.words],
        engine=config.engine,
    )
    is_by_patient_id = not made_with.option("scanning.patient_from")
    search = keyed_search(needles, manifest, config.key, is_by_patient_id=is_by_patient_id)
    stores = [config.tracking, recorded_in]
    places = find_places(
        config.dataset, config.copy_to or copying.copy_to, stores, config.places, own_run=run.tracker.run_id
    )
    traces = tuple(sorted({trace for place in places for trace in place.traces(search)}))

    found = Audited(run.folder, traces, unread_lines(needles))
    summary = summary_of(needles, places, found)
    print(summary)
    found.write(summary)
    run.failures += map(str, traces)
    if config.unread == "fail":
        run.failures += found.unread
    elif found.unread:
        log.warning("%d files of the source could not be read", sum(needles.unread.values()))
    run.tracker.metrics({"num_sought": len(needles.by_text), "num_found": len(traces), "num_unread": len(found.unread)})
    run.keep(FINDINGS, SUMMARY)
    return found
