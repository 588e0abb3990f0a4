"""Runs a model on a folder of studies and writes results a clinician can open."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from medvit import __version__
from medvit.artifacts import STATUS, Checkpoint, Predictions
from medvit.config import Config, Positive
from medvit.deidentification import crosswalk
from medvit.deidentification.pseudonyms import SiteNames
from medvit.errors import DataError
from medvit.files.limits import MAX_VOLUME_GIB, allow_volumes
from medvit.hardware import Device, resolve_device
from medvit.inference.predictor import Predictor
from medvit.inference.series_selection import SeriesChoice, check_rule, studies
from medvit.inference.slide_job import SlideJob, SlideOptions, as_slides
from medvit.inference.slide_predictor import SlidePredictor
from medvit.inference.study_job import StudyJob
from medvit.inference.worklist import Worklist
from medvit.models.image import AppliesTo
from medvit.models.slide import TileSpec
from medvit.readers import find
from medvit.readers.image_stack import StacksConfig
from medvit.readers.options import GeometryConfig, GridConfig, ValuesConfig
from medvit.sources import Location, RetrieveConfig, fetch_studies
from medvit.stage import Run, StageConfig, stage
from medvit.writers import STATUSES, Maker, writer
from medvit.writers.coded_terms import check_codes
from medvit.writers.outputs import Outputs
from medvit.wsi.locations import SlidesConfig
from medvit.wsi.slide import Slide
from medvit.wsi.tiles import TileGrid
from medvit.wsi.tiling import TilesConfig, cut

log = logging.getLogger("medvit")


class SeriesRule(Config):
    """Replaces parts of the rule by which the checkpoint chooses a series."""

    modality: str | None = None
    """DICOM modality such as CT or MR. Unset: that of the checkpoint."""
    description: str | None = None
    """Regular expression searched in SeriesDescription, in any case. Unset: that of the checkpoint, `.*` any."""

    def over(self, rule: AppliesTo) -> AppliesTo:
        """Return the rule of the checkpoint with these parts replaced."""
        return check_rule(rule.model_copy(update=self.model_dump(exclude_none=True)))


class PredictConfig(StageConfig):
    """Options of predict."""

    MAY_CHANGE: ClassVar[tuple[str, ...]] = (*StageConfig.MAY_CHANGE, "retrieve", "max_volume_gib")
    IS_PRIVATE: ClassVar[bool] = True
    RESOLVED: ClassVar[tuple[str, ...]] = ("applies_to", "outputs", "device")

    checkpoint: Path
    """Folder of a fine-tuned model."""
    source: Location = Field(json_schema_extra={"private": True})
    """Folder, file, archive or DICOMDIR; or https://HOST/ROOT for DICOMweb, pacs://AET@HOST:PORT for DICOM."""
    retrieve: RetrieveConfig = Field(default_factory=RetrieveConfig)
    output: Path
    """New folder for the predictions."""
    stacks: StacksConfig | None = None
    """Folders of pictures that are one volume each, as B-scans of OCT. Unset: each picture is an image."""
    geometry: GridConfig = Field(default_factory=GridConfig)
    max_volume_gib: Positive = MAX_VOLUME_GIB
    """Largest image or array, of any format, to decompress into memory; larger ones are refused."""
    series: SeriesChoice = "best"
    """Of several series that fit: best takes the one with most slices, and each of slides; all takes each, one refuses
    the study."""
    applies_to: SeriesRule = Field(default_factory=SeriesRule)
    """Which series to take, where not as the checkpoint says."""
    outputs: tuple[str, ...] | None = None
    """Files to write, by their writers: dicom_seg, nifti, png and preview; of slides dicom_ann, geojson, heatmap and
    preview. Unset: all that apply. [] writes the tables alone."""
    codes: dict[str, str] = Field(default_factory=dict)
    """Coded terms of classes in DICOM SEG: class name -> SCHEME:VALUE:MEANING; others are looked up by name."""
    key: Path = Field(default=Path("~/.medvit/site.key"), json_schema_extra={"private": True})
    """Key file of the pseudonyms, made on first use; the one that ingest uses gives a study the same pseudonym."""
    device: Device = "auto"
    """Where the model runs: auto takes the GPU where there is one."""
    tiles: SlideOptions = Field(default_factory=SlideOptions)

    @field_validator("outputs")
    @classmethod
    def _are_writers(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in value or ():
            writer(name)
        return value


@stage
def predict(config: PredictConfig, run: Run) -> Predictions:
    """Run a model on a folder of studies and write results that a clinician can open."""
    checkpoint = run.checkpoint(config.checkpoint).require("classification", "segmentation", "slide")
    names = SiteNames(config.key)
    allow_volumes(config.max_volume_gib)
    maker = Maker(__version__, checkpoint.hash, run.tracker.run_id)
    job = make_job(config, checkpoint, names, maker)
    rule = {key: getattr(job.applies_to, key) for key in SeriesRule.model_fields}
    run.in_force(applies_to=rule, outputs=job.outputs.names, device=resolve_device(config.device).type)
    worklist, num_ignored = Worklist(run.folder), 0
    who = crosswalk.place(config.key, f"predict-{config.output.name}")

    # A server gives one study at a time, everything else all at once.
    for local in fetch_studies(config.source, config.retrieve, work=run.folder, is_done=_is_done(worklist, names)):
        images = find(local.files, geometry=GeometryConfig(**config.geometry.model_dump()), stacks=config.stacks)
        images = as_slides(images, config.tiles) if isinstance(job, SlideJob) else images
        found = studies([*images, *local.refusals], local.root, names, job.applies_to)
        num_ignored += found.num_ignored
        who = crosswalk.write(config.key, f"predict-{config.output.name}", names.given.items())
        worklist.run(found.studies, job)
        local.discard()
    if not worklist.lines:
        raise DataError(f"the source holds {num_ignored} files and none is an image; give source=... with studies")

    run.failures += [*worklist.failures, *worklist.lacking]
    if not worklist.counts["done"] and not worklist.failures:
        run.failures.append(f"no study fits the model, all {len(worklist.lines)} were skipped: {worklist.first_reason}")
    run.keep(STATUS)
    counts = worklist.counts
    run.tracker.metrics({f"num_{status}": counts[status] for status in STATUSES})
    log.info(
        "predict: DICOM results name their patients, so only you can read them; %s says which study a pseudonym is, as "
        "does medvit whois s-...",
        who,
    )
    return Predictions(run.folder, counts["done"], counts["skipped"], counts["failed"], worklist.reasons)


def make_job(config: PredictConfig, checkpoint: Checkpoint, names: SiteNames, maker: Maker) -> StudyJob | SlideJob:
    """Return what does one study, by the kind of the model.

    Raises:
        ConfigError: If outputs are not for such models, or codes are not of their classes.
    """
    outputs = Outputs.of(config.outputs, checkpoint.kind)
    if config.codes and not any(name.startswith("dicom_") for name in outputs.names):
        log.warning("codes is ignored: no DICOM object is written")
    if checkpoint.kind == "slide":
        slides = SlidePredictor(checkpoint, config.device)
        check_codes(config.codes, slides.config.classes)
        rule = config.applies_to.over(slides.config.applies_to)
        series: Literal["all", "one"] = "one" if config.series == "one" else "all"
        cut_tiles = cut_as(slides.config.tiles)
        return SlideJob(slides, rule, names, maker, cut_tiles, config.tiles, series, config.codes, outputs)
    predictor = Predictor(checkpoint, config.device)
    check_codes(config.codes, predictor.config.classes)
    rule = config.applies_to.over(predictor.config.applies_to)
    values = predictor.config.values
    if values != ValuesConfig():
        log.info("predict: values are read as the model was trained on them: %s", ", ".join(values.said))
    return StudyJob(predictor, rule, names, maker, config.series, config.codes, values, outputs)


def _is_done(worklist: Worklist, names: SiteNames) -> Callable[[str], bool]:
    """Whether a worklist has done the study of an identifier."""
    return lambda identifier: worklist.status(names.study(identifier)) == "done"


def cut_as(spec: TileSpec) -> Callable[[Slide], TileGrid]:
    """Find the tiles of a slide as ingest found those that a model learned from."""
    same = spec.model_dump(include={"size", "mpp", "overlap", "min_tissue"})
    config, slides = TilesConfig.parse(same), SlidesConfig(skip_tiles=spec.skip)
    return lambda slide: slides.usable(cut(slide, config).grid)
