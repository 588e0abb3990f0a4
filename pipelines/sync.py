"""Stage that sends to MLflow the records that could not be sent during their runs."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from medvit import tracking
from medvit.artifacts import Lineage
from medvit.config import Config
from medvit.errors import ConfigError, TrackingError

log = logging.getLogger("medvit")


class SyncConfig(Config):
    """Options of `medvit sync`."""

    runs: Path = Path()
    """Folder of one run, or a folder that contains several runs."""
    uri: str | None = None
    """MLflow tracking URI to send the records to. Unset: the URI recorded in each run."""


@dataclass(frozen=True)
class Synced:
    """Runs whose records were sent, and a line for each run whose records could not be sent."""

    sent: tuple[Path, ...]
    failures: tuple[str, ...]


class Sync:
    """Send to MLflow the records that were stored locally while it was unreachable.

    No artifact is made. The locally stored records of a run are its journal. When MLflow has received the whole journal
    of a finished run, the journal is removed, and the MLflow ID of the run is added to its lineage. The journal of an
    unfinished run is kept, because the run may be continued.
    """

    name = "sync"
    config_type = SyncConfig

    def __call__(self, config: SyncConfig | None = None, **options: object) -> Synced:
        """Send the journals.

        Raises:
            ConfigError: If the folder does not exist.
        """
        return self.run(config or SyncConfig.parse(options, source=self.name))

    def run(self, config: SyncConfig) -> Synced:
        """Send the journals of the runs that a config names."""
        if not config.runs.is_dir():
            raise ConfigError(
                f"no folder at {config.runs}; give runs=PATH of the folder of a run, or of a folder that contains "
                "several"
            )
        sent: list[Path] = []
        failures: list[str] = []
        for folder in tracking.journals(config.runs):
            try:
                made = tracking.send(folder, config.uri)
            except TrackingError as error:
                failures.append(f"{folder}: {error}")
                continue
            _complete_lineage(folder, made.run_id)
            log.info("sync: %s is run %s in MLflow at %s", folder, made.run_id, made.uri)
            sent.append(folder)
        print(f"sent the records of {len(sent)} runs below {config.runs.absolute()}")
        return Synced(tuple(sent), tuple(failures))


def _complete_lineage(folder: Path, run_id: str) -> None:
    lineage = Lineage.read(folder)
    if lineage is not None and lineage.run_id is None:
        replace(lineage, run_id=run_id).write(folder)


sync = Sync()
