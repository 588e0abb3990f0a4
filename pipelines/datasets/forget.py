"""Deletion of a patient from datasets, embeddings, reports, predictions and crosswalks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from medvit.config import Config
from medvit.errors import ConfigError
from medvit.forgetting.plan import DeletionPlan, plan_deletion
from medvit.lineage.index import find_artifacts
from medvit.stage import Finished
from medvit.tracking import TrackingConfig
from medvit.tracking.search import local_artifacts

PATIENT = r"^p-[0-9a-f]{8,}$"


class ForgetConfig(Config):
    """Options of `medvit forget`."""

    patient: Annotated[str, Field(pattern=PATIENT)]
    """Pseudonym of the patient, such as p-0123456789ab (`medvit whois` and the crosswalk map it to the patient)."""
    runs: Path = Path()
    """Folder in which datasets, embeddings, reports, predictions and checkpoints are searched, at any depth."""
    key: Path = Path("~/.medvit/site.key")
    """Key file of the datasets. Crosswalks and cached headers beside it are searched, too."""
    apply: bool = False
    """Remove the data. false: only list them."""
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)


@dataclass(frozen=True)
class Forgotten:
    """Data of a patient that were found or removed."""

    folder: Path
    plan: DeletionPlan


@dataclass(frozen=True)
class Forget:
    """List what contains data of a patient, or remove it; weights are named and never edited."""

    config_type: type[ForgetConfig] = ForgetConfig

    def __call__(self, config: ForgetConfig | None = None, **options: object) -> Forgotten:
        """List or remove the data of a patient; return the plan."""
        return self.run(config or ForgetConfig.parse(options, source="forget")).artifact

    def run(self, config: ForgetConfig) -> Finished[Forgotten]:
        """Print what contains data of a patient; with `apply`, remove it.

        Raises:
            ConfigError: If the folder does not exist.
        """
        if not config.runs.is_dir():
            raise ConfigError(f"no folder at {config.runs}; give runs=FOLDER that contains the artifacts")
        artifacts = list(find_artifacts(config.runs))
        runs = [one.lineage.run_id for one in artifacts if one.lineage.run_id]
        folders, elsewhere = local_artifacts(config.tracking, runs) if config.tracking.enabled and runs else ({}, [])
        plan = plan_deletion(config.patient, artifacts, config.key.expanduser(), folders)
        print("\n".join(plan.lines()))
        if plan.is_empty:
            print(f"none of the {len(artifacts)} artifacts in {config.runs.absolute()} contains data of this patient")
        elif config.apply:
            plan.apply(config.runs)
            print(f"removed; recorded by digest in {config.runs.absolute() / 'deletions.json'}")
        else:
            print("nothing was removed; apply=true removes it")
        failures = [*plan.by_hand, *(f"{line}; search its files by hand" for line in elsewhere)]
        return Finished(Forgotten(config.runs, plan), tuple(failures))


forget = Forget()
