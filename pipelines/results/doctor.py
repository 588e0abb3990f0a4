"""Check of an installation before it is used, or when something does not work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import Field

from medvit.config import Config
from medvit.doctor import SystemCheck
from medvit.doctor.decoding import check_decoders
from medvit.doctor.services import check_archive, check_tracking
from medvit.doctor.software import check_device, check_packages
from medvit.doctor.storage import check_folder, check_key
from medvit.errors import ConfigError
from medvit.sources import Location, RetrieveConfig
from medvit.sources.options import is_url
from medvit.stage import Finished
from medvit.tracking import TrackingConfig


class DoctorConfig(Config):
    """Options of `medvit doctor`."""

    folder: Path = Path()
    """Folder in which outputs are to be written. Its disk is checked."""
    key: Path = Path("~/.medvit/site.key")
    """Key file from which pseudonyms are computed."""
    backup: Path | None = None
    """Copy of the key file in a safe place, which is compared with the key file."""
    archive: Location | None = None
    """Archive to check: https://HOST/ROOT for DICOMweb, or pacs://AET@HOST:PORT for DICOM. Unset: none."""
    retrieve: RetrieveConfig = Field(default_factory=RetrieveConfig)
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)


@dataclass(frozen=True)
class Examined:
    """Checks of an installation."""

    folder: Path
    checks: tuple[SystemCheck, ...]


@dataclass(frozen=True)
class Doctor:
    """Check the installation: packages, device, decoders, disk, site key, MLflow and, if given, an archive."""

    config_type: type[DoctorConfig] = DoctorConfig

    def about(self, words: Sequence[str]) -> tuple[Doctor, list[str]]:
        """Return the stage itself, and the arguments."""
        return self, list(words)

    def run(self, config: DoctorConfig) -> Finished[Examined]:
        """Print each check as soon as it is done, and then the verdict.

        Raises:
            ConfigError: If the archive is not a server.
        """
        if config.archive is not None and not is_url(config.archive):
            raise ConfigError("`archive` is not a server; expected https://HOST/ROOT or pacs://AET@HOST:PORT")
        checks = []
        for check in _checks(config):
            checks.append(check)
            print(f"{check.outcome:8}{check.name:10}{check.found}", flush=True)
            if check.advice:
                print(f"{'':18}{check.advice}")
        failed = [check for check in checks if check.outcome == "failed"]
        warned = sum(check.outcome == "warning" for check in checks)
        verdict = f"{len(failed)} of {len(checks)} checks failed" if failed else f"all {len(checks)} checks passed"
        print(verdict + (f", {warned} with a warning" if warned else ""))
        return Finished(Examined(config.folder, tuple(checks)), tuple(f"{one.name}: {one.found}" for one in failed))


def _checks(config: DoctorConfig) -> Iterator[SystemCheck]:
    yield from check_packages()
    checks: dict[str, Callable[[], SystemCheck]] = {
        "device": check_device,
        "decoders": check_decoders,
        "folder": partial(check_folder, config.folder),
        "site key": partial(check_key, config.key, config.backup),
        "MLflow": partial(check_tracking, config.tracking),
    }
    if config.archive is not None:
        checks["archive"] = partial(check_archive, config.archive, config.retrieve)
    for name, check in checks.items():
        try:
            yield check()
        except Exception as error:  # a broken package may fail in any way; the other checks are still done
            yield SystemCheck(name, "failed", f"stopped by {type(error).__name__}", "install medvit again")


doctor = Doctor()
