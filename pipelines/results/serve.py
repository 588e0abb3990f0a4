"""Service that receives studies, predicts them and sends results to an archive."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medvit.service.running import running
from medvit.service.service import ServeConfig
from medvit.stage import Finished


@dataclass(frozen=True)
class ServedStudies:
    """Folder of a service that was stopped."""

    folder: Path


@dataclass(frozen=True)
class Serve:
    """Receive studies from a PACS, predict each when it is complete, and send results back if asked to."""

    config_type: type[ServeConfig] = ServeConfig

    def about(self, words: Sequence[str]) -> tuple[Serve, list[str]]:
        """Return the stage itself, and the arguments."""
        return self, list(words)

    def run(self, config: ServeConfig) -> Finished[ServedStudies]:
        """Serve until the process is interrupted or told to end (SIGINT, SIGTERM).

        Raises:
            ConfigError: If another service uses the folder, or a port, model or certificate cannot be used.
        """
        with running(config) as service:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: service.stop.set())
            print(f"medvit serve: receives on port {service.receiver.port}, web on port {service.web_port}", flush=True)
            while not service.stop.wait(1.0):
                pass
        return Finished(ServedStudies(config.folder), ())


serve = Serve()
