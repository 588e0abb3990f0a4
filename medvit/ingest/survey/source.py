"""Survey of a source, wherever it is: fetch it, read its headers, and count what it holds."""

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
    """Return what a source holds, by headers; what an archive held is removed again from `work`."""
    try:
        local = fetch(source, retrieve, work=work)
        found = scan(local, engine=engine)
        place = Path(source).absolute().name
        return survey(found, place=place, modality=modality, label_from=label_from, table=table)
    finally:
        sources.clear(work)
        if work.is_dir() and not any(work.iterdir()):
            work.rmdir()
