"""Runs a model on a folder of studies and writes results a clinician can open."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from medvit import __version__
from medvit.artifacts import Checkpoint, Predictions
from medvit.config import Config
from medvit.errors import DataError
from medvit.inference import STATUSES, Maker
from medvit.inference.coding import check_codes
from medvit.inference.job import Job
from medvit.inference.predictor import Device, Predictor
from medvit.inference.slide_job import SlideJob, SlideOptions, as_slides
from medvit.inference.slides import SlidePredictor
from medvit.inference.study import SeriesChoice, check_rule, studies
from medvit.inference.worklist import STATUS, Worklist
from medvit.ingest import Candidate, Patient, crosswalk
from medvit.ingest.pseudonyms import Pseudonyms
from medvit.ingest.tiling import TilesConfig, cut
from medvit.model import AppliesTo
from medvit.readers import find
from medvit.readers.slides import Slide
from medvit.readers.stack import StacksConfig
from medvit.samples import Identity, Item
from medvit.slide_model import TileSpec
from medvit.slides import SlidesConfig
from medvit.sources import Location, RetrieveConfig, fetch_studies
from medvit.stage import Run, StageConfig, stage
from medvit.tiles import TileGrid

log = logging.getLogger("medvit")


class SeriesRule(Config):
    """Replaces parts of the rule by which the checkpoint chooses a series."""

    modality: str | None = None
    """DICOM modality such as CT or MR; none takes that of the checkpoint."""
    description: str | None = None
    """Regular expression searched in SeriesDescription, in any case; none takes that of the checkpoint, `.*` any."""

    def over(self, rule: AppliesTo) -> AppliesTo:
        """The rule of the checkpoint with these parts replaced."""
        return check_rule(rule.model_copy(update=self.model_dump(exclude_none=True)))


class PredictConfig(StageConfig):
    """Options of predict."""

    MAY_CHANGE: ClassVar[tuple[str, ...]] = (*StageConfig.MAY_CHANGE, "retrieve")

    checkpoint: Path
    """Folder of a fine-tuned model."""
    source: Location = Field(json_schema_extra={"private": True})
    """Folder, file, archive or DICOMDIR; or https://HOST/ROOT for DICOMweb, pacs://AET@HOST:PORT for DICOM."""
    retrieve: RetrieveConfig = Field(default_factory=RetrieveConfig)
    output: Path
    """New folder for the predictions."""
    stacks: StacksConfig | None = None
    """Folders of pictures that are one volume each, as B-scans of OCT; none takes each picture as an image."""
    series: SeriesChoice = "best"
    """Of several series that fit: best takes the one with most slices, and each of slides; all takes each, one refuses
    the study."""
    applies_to: SeriesRule = Field(default_factory=SeriesRule)
    """Which series to take, where not as the checkpoint says."""
    codes: dict[str, str] = Field(default_factory=dict)
    """Coded terms of classes in DICOM SEG: class name -> SCHEME:VALUE:MEANING; others are looked up by name."""
    key: Path = Field(default=Path("~/.medvit/site.key"), json_schema_extra={"private": True})
    """Key file of the pseudonyms, made on first use; the one that ingest uses gives a study the same pseudonym."""
    device: Device = "auto"
    """Where the model runs: auto takes the GPU where there is one."""
    tiles: SlideOptions = Field(default_factory=SlideOptions)


class SiteNames:
    """Pseudonyms with the site's key; a study gets the one that ingest gives it."""

    def __init__(self, key: Path) -> None:
        self._pseudonyms = Pseudonyms.with_key_file(key, dataset="")
        self.given: dict[str, str] = {}
        """Pseudonym of a study -> its identifier: the way back, for the site's crosswalk only."""

    def study(self, identifier: str) -> str:
        """The pseudonym of a study."""
        name = self._pseudonyms.study(_of(Identity(study=identifier)))
        self.given[name] = identifier
        return name

    def done_in(self, worklist: Worklist) -> Callable[[str], bool]:
        """Whether a worklist has done the study of an identifier."""
        return lambda identifier: worklist.status(self.study(identifier)) == "done"

    def series(self, identifier: str) -> str:
        """The pseudonym of a series."""
        return self._pseudonyms.series(_of(Identity(series=identifier)))


@stage
def predict(config: PredictConfig, run: Run) -> Predictions:
    """Runs a model on a folder of studies and writes results a clinician can open."""
    checkpoint = run.checkpoint(config.checkpoint).require("classification", "segmentation", "slide")
    names = SiteNames(config.key)
    maker = Maker(__version__, checkpoint.hash, run.tracker.run_id)
    job = make_job(config, checkpoint, names, maker)
    worklist, num_ignored = Worklist(run.folder), 0

    # A server gives one study at a time, everything else all at once.
    for local in fetch_studies(config.source, config.retrieve, work=run.folder, is_done=names.done_in(worklist)):
        images = find(local.files, stacks=config.stacks)
        images = as_slides(images, config.tiles) if isinstance(job, SlideJob) else images
        found = studies([*images, *local.refusals], local.root, names, job.applies_to)
        num_ignored += found.num_ignored
        crosswalk.write(config.key, f"predict-{config.output.name}", names.given.items())
        worklist.run(found.studies, job)
        local.discard()
    if not worklist.lines:
        raise DataError(f"the source holds {num_ignored} files and none is an image; give source=... with studies")

    run.failures += worklist.failures
    run.keep(STATUS)
    counts = worklist.counts
    run.tracker.metrics({f"num_{status}": counts[status] for status in STATUSES})
    log.info("predict: %d done, %d skipped, %d failed, see status.csv", *(counts[status] for status in STATUSES))
    return Predictions(run.folder, *(counts[status] for status in STATUSES))


def make_job(config: PredictConfig, checkpoint: Checkpoint, names: SiteNames, maker: Maker) -> Job | SlideJob:
    """What does one study, by the kind of the model."""
    if checkpoint.kind == "slide":
        slides = SlidePredictor(checkpoint, config.device)
        check_codes(config.codes, slides.config.classes)
        rule = config.applies_to.over(slides.config.applies_to)
        series: Literal["all", "one"] = "one" if config.series == "one" else "all"
        return SlideJob(slides, rule, names, maker, cut_as(slides.config.tiles), config.tiles, series, config.codes)
    predictor = Predictor(checkpoint, config.device)
    check_codes(config.codes, predictor.config.classes)
    if config.codes and predictor.config.kind == "classification":
        log.warning("codes is ignored: a classification writes no DICOM SEG")
    rule = config.applies_to.over(predictor.config.applies_to)
    return Job(predictor, rule, names, maker, config.series, config.codes)


def cut_as(spec: TileSpec) -> Callable[[Slide], TileGrid]:
    """Finds the tiles of a slide as ingest found those that a model learned from."""
    same = spec.model_dump(include={"size", "mpp", "overlap", "min_tissue"})
    config, slides = TilesConfig.parse(same), SlidesConfig(skip_tiles=spec.skip)
    return lambda slide: slides.usable(cut(slide, config).grid)


def _of(identity: Identity) -> Candidate:
    return Candidate(Item("", (), "volume", identity=identity), (), Patient(""))
