"""Evaluation of a fine-tuned model on one split of a dataset."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy import ndarray as Array
from pydantic import Field

from medvit.artifacts import METRICS, Lineage, Report
from medvit.attributes import LATERALITY
from medvit.dataset.manifest import Manifest
from medvit.dataset.samples import load
from medvit.errors import DataError, MedvitError
from medvit.evaluation import Estimate, Evaluation
from medvit.evaluation.aggregation import (
    LEVELS,
    AggregationLevel,
    answers,
    are_ordered,
    breakdowns,
    evaluate_with_patients,
    from_harmless,
)
from medvit.evaluation.classification import evaluate_classes
from medvit.evaluation.paired import MetricTable, paired_differences
from medvit.evaluation.plots import overlay_figure
from medvit.evaluation.report import (
    HTML,
    Example,
    ReportSubject,
    read_facts,
    read_table,
    summary_lines,
    write_report,
)
from medvit.evaluation.segmentation import Scores, evaluate_masks, score_case
from medvit.evaluation.selection import (
    SeenPatients,
    assumed_patients_note,
    choose_positive,
    examples_to_show,
    near_duplicates_in_training,
    other_values,
    probability_of_truth,
    shared_patients,
    spacing,
    tracked,
    unit_of,
    with_known_truth,
    without_training_patients,
)
from medvit.hardware import Device, resolve_device
from medvit.inference.predictor import Predictor
from medvit.inference.slide_figure import slide_figure
from medvit.inference.slide_predictor import SlidePredictor
from medvit.metrics import metric_title
from medvit.models.tile_embedder import EmbeddingConfig
from medvit.patients import PatientCount
from medvit.progress import with_progress
from medvit.records import Row, Split
from medvit.stage import Run, StageConfig, stage
from medvit.types import Image, Prediction
from medvit.writers.slide_maps import SlideFinding
from medvit.wsi.locations import SlidesConfig, open_row

log = logging.getLogger("medvit")

MAX_EXCLUDED = 20
"""Cases that the metrics do not count which a report names."""

TOLERANCE = "Surface tolerance"
"""The fact of a report that tells the tolerance of normalized surface Dice."""


class EvaluateConfig(StageConfig):
    """Options of `medvit evaluate`."""

    RESOLVED: ClassVar[tuple[str, ...]] = ("positive", "levels", "order", "device")

    checkpoint: Path
    """Model made by finetune."""
    dataset: Path
    """Dataset folder made by ingest."""
    output: Path
    """Report folder to make."""
    split: Split = "test"
    """Split to measure on: train, val or test."""
    positive: str = ""
    """The positive one of two classes: sensitivity is of it. Unset: the worst of order, or what the model remembers."""
    seen_patients: SeenPatients = "refuse"
    """Test splits with training patients of the model or of its initial weights: refuse them, leave_out the images of
    these patients, or keep them and say so in the report."""
    against: Path | None = None
    """Report of another model on the same split; the differences are reported with intervals."""
    nsd_tolerance_mm: float = Field(1.0, gt=0)
    """Distance within which two surfaces count as one in normalized surface Dice; in pixels, where images have no
    physical scale."""
    levels: tuple[AggregationLevel, ...] | None = None
    """Of a classification: image, eye, visit, patient, side by side. Unset: all of them where images say their eye,
    else images alone."""
    order: tuple[str, ...] = ()
    """All classes from harmless to worst: the worst eye decides for its patient. Empty: two classes or numbers in
    their order, and of others the mean of both eyes."""
    resamples: int = Field(2000, ge=100)
    """Bootstrap resamples."""
    device: Device = "auto"
    """Where the model runs."""
    slides: SlidesConfig = Field(default_factory=SlidesConfig)
    tiles: EmbeddingConfig = Field(default_factory=EmbeddingConfig)


@stage
def evaluate(config: EvaluateConfig, run: Run) -> Report:
    """Evaluate a model on a split it was not trained on, with intervals, and write a report."""
    manifest = run.dataset(config.dataset)
    checkpoint = run.checkpoint(config.checkpoint).require("classification", "segmentation", "slide")
    predictor = (SlidePredictor if checkpoint.kind == "slide" else Predictor)(checkpoint, config.device)
    answered, notes = with_known_truth(manifest.split(config.split), predictor.config, predictor.kind)
    if config.split == "test":
        answered, told = without_training_patients(answered, config.checkpoint, config.seen_patients)
        notes += told
    other = None if config.against is None else read_other(config.against, surface_tolerance(config, answered))

    config = config.model_copy(update={"positive": positive_of(config, predictor, answered, notes)})
    run.in_force(
        positive=config.positive, device=resolve_device(config.device).type, **by_level(config, predictor, answered)
    )
    notes += shared_patients(manifest, config.split)
    doubts = other_values(manifest, predictor.config) + assumed_patients_note(answered)
    doubts += near_duplicates_in_training(manifest, answered, config.split)
    for doubt in doubts:
        log.warning("%s", doubt)
    evaluation = measure(answered, predictor, config, notes + doubts, run.failures)
    differences = {} if other is None else compare(evaluation, other, config)

    subject = describe(config, manifest, checkpoint.hash, answered, evaluation)
    if isinstance(predictor, SlidePredictor):
        examples = telling_slides(answered, predictor, evaluation, config)
    else:
        examples = telling_cases(answered, predictor, evaluation)
    write_report(run.folder, subject, evaluation, examples=examples, differences=differences)
    _tell(evaluation.metrics, f"{config.split} split, {len(answered)} {answered.rows[0].kind}s", config.positive)
    _tell(differences, "difference from the other report", config.positive)
    run.tracker.metrics(tracked(evaluation.metrics, config.split, config.positive))
    run.keep(METRICS, HTML)
    values = {name: estimate.value for name, estimate in evaluation.metrics.items()}
    return Report(run.folder, values, summary_lines(config.split, evaluation, differences))


def measure(
    manifest: Manifest,
    predictor: Predictor | SlidePredictor,
    config: EvaluateConfig,
    notes: list[str],
    failures: list[str],
) -> Evaluation:
    """Predicts every image and computes all metrics with their intervals; `failures` gets a line for each that failed.

    Raises:
        DataError: If all failed.
    """
    if isinstance(predictor, SlidePredictor):
        return measure_slides(manifest, predictor, config, notes, failures)
    model, unit = predictor.config, unit_of(manifest)
    rows: list[Row] = []
    scores: list[Scores] = []
    probabilities: list[Array] = []
    num_before = len(failures)
    for row, image, prediction in predicted(manifest, predictor, failures):
        rows.append(row)
        if model.kind == "segmentation":
            masks, tolerance = (_present(image.mask), _present(prediction.mask)), config.nsd_tolerance_mm
            scores.append(score_case(*masks, model.classes, spacing(image, unit), tolerance_mm=tolerance, unit=unit))
        else:
            probabilities.append(_present(prediction.probabilities))
    if not rows:
        raise DataError(f"{manifest.folder}: all {len(manifest)} images failed, first {failures[0]}")
    excluded = notes_on_excluded(failures[num_before:], len(manifest), "images could not be predicted")
    shared: dict[str, Any] = {"resamples": config.resamples, "seed": config.seed, "notes": [*notes, *excluded]}
    if model.kind == "segmentation":
        return evaluate_masks(rows, scores, model.classes, **shared)
    truth = np.array([model.classes.index(row.labels[model.label]) for row in rows])
    positive = index_of(config.positive, model.classes)
    found = evaluate_classes(rows, truth, np.stack(probabilities), model.classes, positive=positive, **shared)
    images, levels = answers(rows, truth, np.stack(probabilities)), levels_of(config, rows)
    drawing: dict[str, Any] = {"resamples": config.resamples, "seed": config.seed, "order": config.order}
    drawing |= {"positive": positive}
    return replace(found, breakdowns=breakdowns(rows, images, model.classes, levels, **drawing))


def notes_on_excluded(failures: Sequence[str], total: int, what: str) -> list[str]:
    """How many cases the metrics do not count, and which with the reason of each, as far as a page can list them."""
    if not failures:
        return []
    more = [f"and {len(failures) - MAX_EXCLUDED} more, see the log"] if len(failures) > MAX_EXCLUDED else []
    return [f"{len(failures)} of {total} {what} and are excluded", *failures[:MAX_EXCLUDED], *more]


def positive_of(
    config: EvaluateConfig, predictor: Predictor | SlidePredictor, manifest: Manifest, notes: list[str]
) -> str:
    """Return the positive one of two classes; empty of other models. `notes` gets a line where nobody said which.

    Raises:
        ConfigError: If the one asked for is not one of two classes.
    """
    model = predictor.config
    classes = () if model.kind == "segmentation" else model.classes
    positive, told = choose_positive(
        classes,
        asked=config.positive,
        worst=config.order[-1] if config.order else "",
        model=model.positive,
        dataset=manifest.facts.positive.get(model.label, ""),
    )
    for note in told:
        log.warning("%s", note)
    notes += told
    return positive


def index_of(positive: str, classes: Sequence[str]) -> int:
    """Return the index of the positive one of two classes; 1 of others, which have none."""
    return classes.index(positive) if positive else 1


def levels_of(config: EvaluateConfig, rows: Sequence[Row]) -> tuple[AggregationLevel, ...]:
    """Return the levels asked for, or all where images say their eye."""
    return config.levels or (LEVELS if any(LATERALITY in row.attributes for row in rows) else LEVELS[:1])


def by_level(
    config: EvaluateConfig, predictor: Predictor | SlidePredictor, measured: Manifest
) -> dict[str, Sequence[str] | None]:
    """Return the levels and the order of classes in force.

    Of a classification of images, of several levels for the order.
    """
    model = predictor.config
    if model.kind != "classification":
        return {"levels": config.levels, "order": config.order}
    levels, order = levels_of(config, measured.rows), config.order
    if len(levels) > 1 and not order and are_ordered(model.classes):
        order = from_harmless(model.classes, index_of(config.positive, model.classes))
    return {"levels": levels, "order": order}


def measure_slides(
    manifest: Manifest, predictor: SlidePredictor, config: EvaluateConfig, notes: list[str], failures: list[str]
) -> Evaluation:
    """Return the same of slides, whose tiles are embedded where they are not yet.

    Of patients, too, with several slides.
    """
    model = predictor.config
    num_before = len(failures)
    slides = predictor.embed(manifest, config.slides, config.tiles, failures)
    rows: list[Row] = []
    found: list[Array] = []
    for slide in with_progress(slides, total=len(slides), title="Evaluating", unit="slide"):
        try:
            found.append(predictor.read(slide.embeddings).probabilities)
        except DataError as error:
            failures.append(f"{slide.row}: {error}")
        else:
            rows.append(slide.row)
    if not rows:
        raise DataError(f"{manifest.folder}: all {len(manifest)} slides failed, first {failures[0]}")
    excluded = notes_on_excluded(failures[num_before:], len(manifest), "slides could not be predicted")
    truth = np.array([model.classes.index(row.labels[model.label]) for row in rows])
    shared: dict[str, Any] = {"resamples": config.resamples, "seed": config.seed, "notes": [*notes, *excluded]}
    shared |= {"positive": index_of(config.positive, model.classes)}
    return evaluate_with_patients(rows, truth, np.stack(found), model.classes, **shared)


def telling_slides(
    manifest: Manifest, predictor: SlidePredictor, evaluation: Evaluation, config: EvaluateConfig
) -> list[Example]:
    """Return the best, the median and the worst slide by the probability of the truth, with maps and top tiles."""
    examples, scores, model = [], probability_of_truth(evaluation), predictor.config
    for name, index in examples_to_show(scores).items():
        row = evaluation.rows[index]
        one = replace(manifest, rows=(row,))
        (found,) = predictor.embed(one, config.slides, config.tiles, [])
        slide = open_row(row, config.slides.key, config.slides.folder)
        finding = SlideFinding(found.grid, predictor.read(found.embeddings), model.classes, slide.shape, slide.mpp)
        caption = f"{name}: {row.labels[model.label]}, given a probability of {scores[index]:.3f}, {row.image_id}"
        examples.append(Example(caption, slide_figure(slide, finding, predictor)))
    return examples


def predicted(manifest: Manifest, predictor: Predictor, failures: list[str]) -> Iterator[tuple[Row, Image, Prediction]]:
    """Each image of a manifest with what the model says of it, with progress; one that fails is passed over."""
    for row in with_progress(manifest, total=len(manifest), title="Evaluating", unit="image"):
        try:
            image = load(manifest, row)
            prediction = predictor(image)
        except MedvitError as error:
            failures.append(f"{row}: {error}")
        except (RuntimeError, ValueError, OSError) as error:  # as a damaged array, or an image too large for the device
            failures.append(f"{row}: stopped by an unexpected {type(error).__name__}")
        else:
            yield row, image, prediction


def surface_tolerance(config: EvaluateConfig, manifest: Manifest) -> str:
    """Return the tolerance of normalized surface Dice as the report tells it."""
    return f"{config.nsd_tolerance_mm:g} {unit_of(manifest)}"


def read_other(folder: Path, tolerance: str) -> MetricTable:
    """Return the images of the report named in `against`.

    Raises:
        DataError: If that folder holds no report, or one with another tolerance of surfaces.
    """
    table, theirs = read_table(folder), read_facts(folder).get(TOLERANCE, tolerance)
    if theirs != tolerance:
        raise DataError(
            f"{folder}: surface Dice was measured within {theirs}, here within {tolerance}; use one of them"
        )
    return table


def compare(evaluation: Evaluation, other: MetricTable, config: EvaluateConfig) -> dict[str, Estimate]:
    """Return the differences from another report, on the images that both predict."""
    rows = {
        "image_id": [row.image_id for row in evaluation.rows],
        "patient_id": [row.patient_id for row in evaluation.rows],
    }
    one = {name: np.array(values) for name, values in rows.items()} | dict(evaluation.columns)
    shared: dict[str, Any] = {"resamples": config.resamples, "seed": config.seed}
    positive = index_of(config.positive, evaluation.classes)
    return paired_differences(one, other, evaluation.classes, positive=positive, **shared)


def describe(
    config: EvaluateConfig, manifest: Manifest, digest: str, answered: Manifest, found: Evaluation
) -> ReportSubject:
    """Return what was evaluated on what, and a warning where the numbers flatter."""
    lineage = Lineage.read(config.checkpoint)
    same = lineage is not None and lineage.inputs.get("dataset") == manifest.hash
    warning = ""
    if same and config.split != "test":
        use = "learned from" if config.split == "train" else "was chosen by"
        warning = f"These are images of the {config.split} split: the model {use} them, so the numbers flatter it."
    elif config.split == "train":
        warning = "These are images of a train split: if the model learned from any of them, the numbers flatter it."
    facts = {
        "Model": digest[:16],
        "Dataset": f"{manifest.facts.name}, {manifest.hash[:16]}",
        "Trained on": "the train split of the same dataset" if same else "another dataset",
        "Split": f"{config.split}: {len(answered)} {answered.rows[0].kind}s of {PatientCount.of(answered)}",
        "Intervals": f"{config.resamples} resamples of patients, seed {config.seed}",
    }
    if found.positive:
        facts["Positive class"] = found.positive
    if found.kind == "segmentation":
        facts[TOLERANCE] = surface_tolerance(config, answered)
    if config.against is not None:
        facts["Compared with"] = f"model {read_facts(config.against).get('Model', 'unknown')}, on the images of both"
    return ReportSubject(f"Evaluation of a {found.kind} on {manifest.facts.name}", facts, warning)


def telling_cases(manifest: Manifest, predictor: Predictor, evaluation: Evaluation) -> list[Example]:
    """Return the best, the median and the worst image.

    By mean Dice, with contours, or by the probability of the truth.
    """
    scores = evaluation.columns["dice"] if evaluation.kind == "segmentation" else probability_of_truth(evaluation)
    unit, examples = unit_of(manifest), []
    for name, index in examples_to_show(scores).items():
        row = evaluation.rows[index]
        image = load(manifest, row)
        caption = f"{name}: {row.labels.get(predictor.config.label)}, given a probability of {scores[index]:.3f}"
        masks = (np.zeros(image.pixels.shape[1:], dtype=np.uint8),) * 2
        if evaluation.kind == "segmentation":
            caption = f"{name}: Dice {scores[index]:.3f} (green truth, orange found)"
            masks = (_present(image.mask), _present(predictor(image).mask))
        figure = overlay_figure(image.without_gaps().intensities(), *masks, spacing(image, unit))
        examples.append(Example(f"{caption}, {row.image_id}", figure))
    return examples


def _present(values: Array | None) -> Array:
    assert values is not None, "images without a truth are left out, and a model predicts what its kind says"
    return values


def _tell(estimates: Mapping[str, Estimate], title: str, positive: str) -> None:
    if estimates:
        print(f"\n{title}: value [95 % interval]")
        for name, estimate in estimates.items():
            print(f"  {metric_title(name, positive):44s} {estimate}")
