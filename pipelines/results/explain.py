"""Explanations of predictions: a map for each image or slide, with checks of the map."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, get_args

from medvit.artifacts import Checkpoint
from medvit.dataset.manifest import Manifest
from medvit.dataset.samples import load
from medvit.document import Picture
from medvit.errors import ConfigError, DataError, MedvitError, unexpected
from medvit.explanations.chosen import chosen_rows
from medvit.explanations.drawing import map_figure, write_map, write_overlay
from medvit.explanations.explain import explain as explained
from medvit.explanations.explain import models_of
from medvit.explanations.methods import DescribedMethod, ExplanationMethod, method_of
from medvit.explanations.options import ExplainOptions, require_no_slide_options
from medvit.explanations.page import (
    ABOUT_CHECKS,
    COLUMNS,
    ShownExplanation,
    doubts_about,
    explanations_document,
)
from medvit.explanations.slides.explain import ABOUT_SLIDE_CHECKS
from medvit.explanations.slides.methods import slide_method_of
from medvit.explanations.slides.subjects import (
    explain_and_write,
    require_slide_options,
    slide_of_source,
    slides_of_dataset,
)
from medvit.files.atomic import write_text
from medvit.inference.predictor import Predictor
from medvit.inference.slide_predictor import SlidePredictor
from medvit.progress import with_progress
from medvit.readers.by_path import find, read
from medvit.records import Item
from medvit.stage import Run, StageConfig, stage
from medvit.summary import Summary, labeled
from medvit.types import Image
from medvit.writers import ModelTask

PAGE, TABLE = "explanations.html", "explanations.csv"


class ExplainConfig(ExplainOptions, StageConfig):
    """Options of `medvit explain`."""


@dataclass(frozen=True)
class ExplainedImage:
    """Image to explain: its name in the output, how to load it, its label, and the file it is from, if it is known."""

    name: str
    load: Callable[[], Image]
    truth: str = ""
    item: Item | None = None


@dataclass(frozen=True)
class ExplainJob:
    """Image or slide to explain: its name, and the function that explains it and writes its files."""

    name: str
    explain: Callable[[], ShownExplanation]


@dataclass(frozen=True)
class ExplainJobs:
    """All images or slides to explain, the method, the label of the model, and texts for the page."""

    each: Sequence[ExplainJob]
    unit: Literal["image", "slide"]
    method: DescribedMethod
    label: str
    about_checks: str
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Explanations:
    """Finished explanations: their folder, the method, and the listed images."""

    folder: Path
    method: str
    shown: tuple[ShownExplanation, ...]

    def summary(self) -> Summary:
        """Return the number of maps, and how many pass the checks."""
        lines = [f"{len(self.shown)} by {self.method}", *doubts_about(self.shown)]
        return Summary(labeled("maps", lines), {PAGE: "all maps with their checks", TABLE: "checks"})


@stage
def explain(config: ExplainConfig, run: Run) -> Explanations:
    """Draw maps of the parts of images or slides that predictions depend on, with checks of the maps."""
    config.require_one_source()
    checkpoint = run.checkpoint(config.checkpoint).require(*get_args(ModelTask))
    manifest = None if config.dataset is None else run.dataset(config.dataset)
    jobs = (_slide_jobs if checkpoint.kind == "slide" else _image_jobs)(config, run.folder, checkpoint, manifest)
    found = []
    for job in with_progress(jobs.each, total=len(jobs.each), title="Explaining", unit=jobs.unit):
        try:
            found.append(job.explain())
        except ConfigError:
            raise
        except MedvitError as error:
            run.failures.append(f"{job.name}: {error}")
        except (RuntimeError, ValueError, OSError) as error:  # a damaged array, an image too large for the device
            run.failures.append(f"{job.name}: {unexpected(error)}")
    if not found:
        raise DataError(f"none of the {jobs.unit}s could be explained, first {run.failures[0]}")
    source = f"one {jobs.unit}" if manifest is None else f"{manifest.facts.name}, {config.split} split"
    facts = {"Model": checkpoint.hash[:16], f"{jobs.unit.capitalize()}s": source, **jobs.facts}
    title = f"Explanations of {jobs.label or 'a segmentation'}: {jobs.method.title.lower()}"
    explanations_document(title, facts, jobs.method, found, jobs.about_checks).write_html(run.folder / PAGE)
    write_text(run.folder / TABLE, _table(found))
    run.keep(TABLE, PAGE)
    return Explanations(run.folder, jobs.method.title.lower(), tuple(found))


def _image_jobs(config: ExplainConfig, folder: Path, checkpoint: Checkpoint, manifest: Manifest | None) -> ExplainJobs:
    require_no_slide_options(config)
    predictor = Predictor(checkpoint, config.device)
    method = method_of(config.method, models_of(predictor)[0])
    chosen = _of_source(config, predictor) if manifest is None else _of_dataset(config, manifest, predictor)
    jobs = [ExplainJob(one.name, partial(_explained, config, folder, predictor, method, one)) for one in chosen]
    return ExplainJobs(jobs, "image", method, predictor.config.label, ABOUT_CHECKS, {"Baseline": config.baseline})


def _slide_jobs(config: ExplainConfig, folder: Path, checkpoint: Checkpoint, manifest: Manifest | None) -> ExplainJobs:
    require_slide_options(config)
    predictor = SlidePredictor(checkpoint, config.device)
    method = slide_method_of(config.method, predictor.model.heads)
    if manifest is None:
        chosen = [slide_of_source(config, predictor, folder)]
    else:
        chosen = slides_of_dataset(config, manifest, predictor)
    write = partial(explain_and_write, predictor=predictor, method=method, options=config, seed=config.seed)
    jobs = [ExplainJob(one.name, partial(write, one, folder / one.name)) for one in chosen]
    return ExplainJobs(jobs, "slide", method, predictor.config.label, ABOUT_SLIDE_CHECKS)


def _explained(
    config: ExplainConfig, folder: Path, predictor: Predictor, method: ExplanationMethod, subject: ExplainedImage
) -> ShownExplanation:
    """Explain one image and write its files; return what is listed."""
    image = subject.load()
    found = explained(predictor, image, method, config, seed=config.seed)
    place = folder / subject.name
    place.mkdir(exist_ok=True)
    write_map(place, image, found.values, subject.item)
    if image.kind == "image":
        write_overlay(place / "overlay.png", image, found.values, is_signed=method.is_signed)
    figure = map_figure(image, found.values, is_signed=method.is_signed, label=method.title)
    picture = Picture.of("map", f"{subject.name}, {found.output}, without and with the map.", figure)
    (place / "figure.png").write_bytes(picture.png)
    return ShownExplanation(subject.name, found.output, found.value, found.checks, picture, subject.truth)


def _of_source(config: ExplainConfig, predictor: Predictor) -> list[ExplainedImage]:
    """Return the only image of a file or folder.

    Raises:
        DataError: If there is not exactly one image of the kind that the model accepts.
    """
    assert config.source is not None
    items = [item for item in find(config.source) if item.kind == predictor.kind]
    if len(items) != 1:
        raise DataError(
            f"{len(items)} {predictor.kind}s found in source; expected one: give a single file, or the folder of a "
            "single series"
        )
    return [ExplainedImage("image", partial(read, items[0], values=predictor.config.values), item=items[0])]


def _of_dataset(config: ExplainConfig, manifest: Manifest, predictor: Predictor) -> list[ExplainedImage]:
    """Return the images of a dataset to explain.

    Raises:
        ConfigError: If a requested image is not in the dataset, or the model does not accept it.
        DataError: If the split has no image that the model accepts.
    """
    label = predictor.config.label
    chosen = chosen_rows(config, manifest, predictor.kind, label)
    return [ExplainedImage(row.image_id, partial(load, manifest, row), row.labels.get(label, "")) for row in chosen]


def _table(shown: list[ShownExplanation]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([one.name, one.output, *(f"{number:.6g}" for number in one.numbers)] for one in shown)
    return text.getvalue()
