"""Survey of a source at any location: fetch it, read its headers, and count its contents."""

from __future__ import annotations

from pathlib import Path

from medvit import sources
from medvit.engine import EngineConfig
from medvit.ingest.labels import LabelFrom
from medvit.ingest.scan import scan
from medvit.ingest.survey.found import Survey, survey
from medvit.sources import Location, RetrieveConfig, fetch


def survey_source(
    source: Location,
    retrieve: RetrieveConfig,
    engine: EngineConfig,
    *,
    work: Path,
    modality: str,
    label_from: LabelFrom,
    table: Path | None,
) -> Survey:
    """Return the survey of a source, made from headers.

    Files unpacked from an archive are removed from `work` afterwards.
    """
    try:
        local = fetch(source, retrieve, work=work)
        found = scan(local, engine=engine)
        place = Path(source).absolute().name
        return survey(found, place=place, modality=modality, label_from=label_from, table=table)
    finally:
        sources.clear(work)
        if work.is_dir() and not any(work.iterdir()):
            work.rmdir()
