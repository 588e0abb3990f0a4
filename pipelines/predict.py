"""Prediction on a folder of studies, with results that a clinician can open."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, get_args

from pydantic import Field

from medvit import __version__
from medvit.artifacts import STATUS, Checkpoint, Predictions
from medvit.deidentification import crosswalk
from medvit.deidentification.pseudonyms import SiteNames
from medvit.engine import EngineConfig
from medvit.errors import ConfigError, DataError
from medvit.files.limits import allow_volumes
from medvit.files.mounts import mount_of
from medvit.hardware import resolve_device
from medvit.inference import batch
from medvit.inference.jobs import make_job, make_stack_job, names_of
from medvit.inference.operating_points import OperatingPoint, read_for_models
from medvit.inference.options import PredictionOptions, SeriesRule
from medvit.inference.outcomes import BatchOutcomes
from medvit.inference.remote_job import RemoteJob
from medvit.inference.review.page import PAGE, write_page
from medvit.inference.review.series_table import SERIES, ExplainedSeries, explained, table, write_series
from medvit.inference.series_selection import studies_by_rule
from medvit.inference.slide_job import SlideJob, as_slides
from medvit.inference.stack_job import StackJob
from medvit.inference.state import state_of
from medvit.inference.study_job import StudyJob
from medvit.inference.worklist import Worklist
from medvit.models.image import AppliesTo
from medvit.readers import find
from medvit.readers.channels import ChannelsConfig, combined
from medvit.readers.options import GeometryConfig
from medvit.sources import fetch_studies
from medvit.sources.options import is_url
from medvit.stage import WORK, Run, StageConfig, stage
from medvit.writers import STATUSES, Maker, ModelTask

log = logging.getLogger("medvit")


class PredictConfig(PredictionOptions, StageConfig):
    """Options of `medvit predict`."""

    MAY_CHANGE: ClassVar[tuple[str, ...]] = (
        *StageConfig.MAY_CHANGE,
        "retrieve",
        "max_volume_gib",
        "status",
        "retry",
        "engine",
    )
    IS_PRIVATE: ClassVar[bool] = True
    IS_SHARED: ClassVar[bool] = True
    RESOLVED: ClassVar[tuple[str, ...]] = ("applies_to", "channels", "outputs", "device")

    engine: EngineConfig = Field(default_factory=EngineConfig)
    status: bool = False
    """Print how far the batch in the output folder is, without changing it: studies that are done, running (since when,
    and by which process), waiting and failed (by reason).
    """
    explain: bool = False
    """List why each series is taken or not, on the screen and in `series.csv`, instead of running the model."""
    retry: Literal["failed"] | None = None
    """Process studies again that an earlier run of the same options has processed. failed: those that failed, in a
    finished or unfinished output folder. Unset: each study is processed once.
    """

    @property
    def reopens(self) -> bool:
        """Whether studies of a finished batch are processed again."""
        return self.retry is not None

    def shown(self) -> Predictions | None:
        """Print the state of a batch if `status` is set, and return its predictions."""
        if not self.status:
            return None
        state = state_of(self.folder.absolute())
        print(state.text())
        counts = state.outcomes.counts
        return Predictions(state.folder, counts["done"], counts["skipped"], counts["failed"])


@stage
def predict(config: PredictConfig, run: Run) -> Predictions:
    """Run a model on a folder of studies and write results that a clinician can open."""
    names = SiteNames(config.key)
    allow_volumes(config.max_volume_gib)
    if config.explain:
        return _explained(config, run, names)
    job, remote = _job(config, run, names) if len(config.checkpoint) == 1 else _stack_job(config, run, names)
    rules = job.rules if isinstance(job, StackJob) else [job.applies_to]
    is_remote = config.engine.name == "ray" or config.engine.num_processes > 1
    if is_remote and isinstance(job, SlideJob):
        raise ConfigError(
            "a slide is read by several processes of its own (tiles.num_workers); leave engine unset for a model "
            "of slides"
        )
    is_shared = _is_shared(config, run)
    channels = _channels(config, rules)
    run.in_force(channels=channels, device=resolve_device(config.device).type)
    run.require_same("source or the key", names.state("source", _location(config.source)))
    num_ignored, is_complete = 0, False
    with closing(Worklist(run.folder, is_shared=is_shared)) as worklist, worklist.working():
        work = run.folder if run.leads else worklist.work
        if config.retry is not None:
            log.info("predict: %d failed studies are processed again", worklist.retry_failed())
        while not is_complete:
            before, seen = worklist.waiting(), _Seen(worklist, names)
            # A server gives one study at a time, everything else all at once.
            for local in fetch_studies(config.source, config.retrieve, work=work, is_done=seen):
                images = find(
                    local.files, geometry=GeometryConfig(**config.geometry.model_dump()), stacks=config.stacks
                )
                images = combined(images, channels, local.root)
                images = as_slides(images, config.tiles) if isinstance(job, SlideJob) else images
                indexes = studies_by_rule([*images, *local.refusals], local.root, names, rules)
                num_ignored += indexes[0].num_ignored
                crosswalk.write(config.key, f"predict-{config.output.name}", names.given.items())
                seen.names |= {study.name for study in indexes[0].studies}
                if is_remote:
                    same = {one[0].name: one for one in zip(*(index.studies for index in indexes), strict=True)}
                    batch.process_in_workers(worklist, same, remote, config.engine)
                else:
                    perform = job.on(indexes) if isinstance(job, StackJob) else job
                    batch.process(worklist, indexes[0].studies, perform, config.engine.item_timeout_s)
                local.discard()
            is_complete = batch.is_complete(worklist, before - seen.names)
        outcomes = worklist.outcomes()
        if not outcomes.all:
            raise DataError(
                f"none of the {num_ignored} files of the source is an image; give source=PATH of a folder with studies"
            )
        if run.leads:
            worklist.wait_until_alone()
    return _summarized(config, run, outcomes)


def _explained(config: PredictConfig, run: Run, names: SiteNames) -> Predictions:
    """Write and print why each series is taken or not by each model, and return an empty batch."""
    rules: dict[str, AppliesTo] = {}
    for name, folder in zip(names_of(config.checkpoint), config.checkpoint, strict=True):
        checkpoint = Checkpoint.load_adapter(folder) if len(config.checkpoint) > 1 else run.checkpoint(folder)
        if checkpoint.kind == "slide":
            raise ConfigError("explain is for models of images and volumes, and this is a model of slides")
        stored = AppliesTo.parse_saved(checkpoint.model.get("applies_to") or {}, source=str(folder))
        rules[name if len(config.checkpoint) > 1 else ""] = config.applies_to.over(stored)
    channels = _channels(config, list(rules.values()))
    run.in_force(channels=channels, device=resolve_device(config.device).type, applies_to=config.applies_to, outputs=())
    lines: list[ExplainedSeries] = []
    for local in fetch_studies(config.source, config.retrieve, work=run.folder, is_done=lambda _: False):
        images = find(local.files, geometry=GeometryConfig(**config.geometry.model_dump()), stacks=config.stacks)
        images = combined(images, channels, local.root)
        indexes = studies_by_rule([*images, *local.refusals], local.root, names, list(rules.values()))
        for (name, rule), index in zip(rules.items(), indexes, strict=True):
            lines += [line for study in index.studies for line in explained(study, rule, config.series, names, name)]
        crosswalk.write(config.key, f"predict-{config.output.name}", names.given.items())
        local.discard()
    lines.sort(key=lambda line: (line.study, line.series, line.model))
    write_series(run.folder, lines)
    run.keep(SERIES)
    print(table(lines))
    return Predictions(run.folder, 0, 0, 0)


def _summarized(config: PredictConfig, run: Run, outcomes: BatchOutcomes) -> Predictions:
    """Write the tables of a batch, and return its predictions."""
    counts = outcomes.counts
    run.failures += [*outcomes.failures, *outcomes.lacking]
    if not counts["done"] and not outcomes.failures:
        run.failures.append(f"no study fits the model, all {len(outcomes.all)} were skipped: {outcomes.first_reason}")
    if run.leads:
        run.leftovers.add(WORK)
        outcomes.write(run.folder)
        write_page(outcomes, run.folder)
        run.keep(STATUS, PAGE)
        run.tracker.metrics({f"num_{status}": counts[status] for status in STATUSES})
    log.info(
        "predict: DICOM results name their patients, so they are readable only by you; %s maps pseudonyms to "
        "studies, as does medvit whois s-...",
        crosswalk.place(config.key, f"predict-{config.output.name}"),
    )
    return Predictions(run.folder, counts["done"], counts["skipped"], counts["failed"], outcomes.reasons)


def _location(source: str) -> str:
    return source if is_url(source) else str(Path(source).expanduser().absolute())


@dataclass
class _Seen:
    """Studies found in one pass over a source; call it with the identifier of a study, before it is fetched.

    It returns whether the study need not be fetched: it has an outcome, or another process is working on it.
    """

    worklist: Worklist
    pseudonyms: SiteNames
    names: set[str] = field(default_factory=set)

    def __call__(self, identifier: str) -> bool:
        name = self.pseudonyms.study(identifier)
        self.names.add(name)
        return not self.worklist.is_free(name)


def _is_shared(config: PredictConfig, run: Run) -> bool:
    """Return whether other processes may use the list of studies: not on a network file system, with Ray.

    Raises:
        ConfigError: If this process has joined the run of another one, and the list cannot be shared.
    """
    mount = mount_of(run.folder)
    is_shared = config.engine.name != "ray" or mount is None or not mount.is_network
    if not is_shared and not run.leads:
        raise ConfigError(
            f"another process is working in {run.folder}, which is on a network file system, where one process alone "
            "uses the list of studies; wait until it has ended"
        )
    return is_shared


def _job(config: PredictConfig, run: Run, names: SiteNames) -> tuple[StudyJob | SlideJob, RemoteJob]:
    (folder,) = config.checkpoint
    checkpoint = run.checkpoint(folder).require(*get_args(ModelTask))
    points = _points(config, run, {"checkpoint": checkpoint})
    maker = _maker(config, run, names_of([folder])[0], checkpoint)
    job = make_job(config, checkpoint, names, maker, points.get("checkpoint", ()))
    rule = {key: getattr(job.applies_to, key) for key in SeriesRule.model_fields}
    run.in_force(applies_to=rule, outputs=job.outputs.names)
    return job, RemoteJob(uuid.uuid4().hex, config, {"checkpoint": maker}, points)


def _stack_job(config: PredictConfig, run: Run, names: SiteNames) -> tuple[StackJob, RemoteJob]:
    """Return the job of several models, each of which selects series by the rule of its checkpoint."""
    folders = dict(zip(names_of(config.checkpoint), config.checkpoint, strict=True))
    checkpoints = {name: run.adapter(folder, f"checkpoint.{name}") for name, folder in folders.items()}
    makers = {name: _maker(config, run, name, one) for name, one in checkpoints.items()}
    points = _points(config, run, checkpoints)
    job = make_stack_job(config, checkpoints, names, makers, points)
    run.in_force(applies_to=config.applies_to, outputs=job.output_names)
    return job, RemoteJob(uuid.uuid4().hex, config, makers, points)


def _maker(config: PredictConfig, run: Run, name: str, checkpoint: Checkpoint) -> Maker:
    return Maker(__version__, checkpoint.hash, run.run_id, name, config.series_number, config.settings())


def _points(
    config: PredictConfig, run: Run, checkpoints: Mapping[str, Checkpoint]
) -> dict[str, tuple[OperatingPoint, ...]]:
    """Return the operating points of each model, and record the reports that they were read from as inputs."""
    models = {name: checkpoint.hash for name, checkpoint in checkpoints.items()}
    found = read_for_models(config.operating_points, models)
    for name, points in found.items():
        run.require_same(f"operating_points.{name}", points.hash)
        run.inputs[f"operating_points.{name}"] = points.hash
    return {name: points.points for name, points in found.items()}


def _channels(config: PredictConfig, rules: Sequence[AppliesTo]) -> ChannelsConfig | None:
    """Return how images of the source are combined: as the option states or, if it is unset, as the checkpoints do.

    Raises:
        ConfigError: If several models were trained on different channels.
    """
    if config.channels is not None:
        return config.channels
    first, *others = (rule.channels for rule in rules)
    if any(other != first for other in others):
        raise ConfigError(
            "the models of `checkpoint` were trained on images that are combined from different channels; predict "
            "with each of them separately"
        )
    return first
