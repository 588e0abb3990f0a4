"""Checks of the services that medvit talks to: MLflow, and an archive."""

from __future__ import annotations

from medvit.doctor import SystemCheck
from medvit.errors import MedvitError
from medvit.sources import RetrieveConfig
from medvit.sources.dicomweb import connection
from medvit.sources.pacs import SOURCE as PACS
from medvit.sources.pacs import echo, peer_of
from medvit.sources.transfer import quiet
from medvit.tracking import TrackingConfig
from medvit.tracking.options import database
from medvit.tracking.search import num_experiments

UNKNOWN_STUDY = "2.25.0"
"""UID that no study has; an archive answers a search for it at once."""


def check_tracking(config: TrackingConfig) -> SystemCheck:
    """Check that the MLflow store answers."""
    if not config.enabled:
        return SystemCheck("MLflow", "ok", "not used (tracking.enabled=false)")
    file = database(config)
    if file is not None and not file.exists():
        return SystemCheck("MLflow", "ok", f"{config.uri}: not created yet; the first stage creates it")
    try:
        number = num_experiments(config)
    except MedvitError as error:
        advice = "stages continue without it; `medvit sync` sends their records later"
        return SystemCheck("MLflow", "failed", str(error), advice)
    return SystemCheck("MLflow", "ok", f"{config.uri} answers; {number} experiments")


def check_archive(location: str, options: RetrieveConfig) -> SystemCheck:
    """Check that an archive answers: to C-ECHO if it is a DICOM server, to a search if it is a DICOMweb server."""
    try:
        with quiet():
            if PACS.knows(location):
                peer = peer_of(location, options)
                echo(peer)
                return SystemCheck("archive", "ok", f"{peer} answers C-ECHO to the title {options.pacs.aet}")
            with connection(location, options) as server:
                server.search_studies({"StudyInstanceUID": UNKNOWN_STUDY}, [])
            return SystemCheck("archive", "ok", "answers searches (QIDO-RS)")
    except MedvitError as error:
        return SystemCheck("archive", "failed", str(error), "check the URL with the administrator of the archive")
