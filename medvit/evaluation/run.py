"""Run of a model on the images or slides of a dataset: all metrics with intervals, and what is excluded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray as Array

from medvit.dataset.manifest import Manifest
from medvit.dataset.samples import load
from medvit.errors import DataError, MedvitError
from medvit.evaluation import Evaluation
from medvit.evaluation.aggregation import LEVELS, answers, breakdowns, evaluate_with_patients
from medvit.evaluation.classification import evaluate_classes
from medvit.evaluation.options import EvaluationOptions
from medvit.evaluation.positive import index_of
from medvit.evaluation.segmentation import Scores, evaluate_masks, score_case, spacing, unit_of
from medvit.inference.predictor import Predictor
from medvit.inference.slide_predictor import SlidePredictor
from medvit.models.image import ModelConfig
from medvit.models.slide import SlideModelConfig
from medvit.progress import with_progress
from medvit.records import Row
from medvit.types import Image, Prediction

MAX_EXCLUDED = 20
"""Images that the metrics do not count which a report names."""

FoundT = TypeVar("FoundT")


def measure(
    manifest: Manifest,
    predictor: Predictor | SlidePredictor,
    options: EvaluationOptions,
    *,
    seed: int,
    notes: Sequence[str],
    failures: list[str],
) -> Evaluation:
    """Predict every image or slide and compute all metrics with their intervals, by resolved options.

    `failures` gets a line for each image that failed.

    Raises:
        DataError: If all failed.
    """
    bootstrap = {"resamples": options.resamples, "seed": seed}
    if isinstance(predictor, SlidePredictor):
        return _measure_slides(manifest, predictor, options, notes, failures, **bootstrap)
    if predictor.config.kind == "segmentation":
        return _measure_masks(manifest, predictor, options, notes, failures, **bootstrap)
    return _measure_classes(manifest, predictor, options, notes, failures, **bootstrap)


def _measure_masks(
    manifest: Manifest,
    predictor: Predictor,
    options: EvaluationOptions,
    notes: Sequence[str],
    failures: list[str],
    **bootstrap: int,
) -> Evaluation:
    found = _mask_scores(manifest, predictor, options.nsd_tolerance_mm, failures)
    rows, scores, excluded = _collected(found, manifest, "images", failures)
    return evaluate_masks(rows, scores, predictor.config.classes, notes=[*notes, *excluded], **bootstrap)


def _measure_classes(
    manifest: Manifest,
    predictor: Predictor,
    options: EvaluationOptions,
    notes: Sequence[str],
    failures: list[str],
    **bootstrap: int,
) -> Evaluation:
    found = _image_probabilities(manifest, predictor, failures)
    rows, each, excluded = _collected(found, manifest, "images", failures)
    classes, truth, probabilities = predictor.config.classes, _truth(rows, predictor.config), np.stack(each)
    shared: dict[str, Any] = {**bootstrap, "positive": index_of(options.positive, classes)}
    evaluation = evaluate_classes(rows, truth, probabilities, classes, notes=[*notes, *excluded], **shared)
    images, levels = answers(rows, truth, probabilities), options.levels or LEVELS[:1]
    parts = breakdowns(rows, images, classes, levels, order=options.order, **shared)
    return replace(evaluation, breakdowns=parts)


def _measure_slides(
    manifest: Manifest,
    predictor: SlidePredictor,
    options: EvaluationOptions,
    notes: Sequence[str],
    failures: list[str],
    **bootstrap: int,
) -> Evaluation:
    """Return the metrics of slides and, where a patient has several, of patients."""
    found = _slide_probabilities(manifest, predictor, options, failures)
    rows, each, excluded = _collected(found, manifest, "slides", failures)
    classes, truth = predictor.config.classes, _truth(rows, predictor.config)
    shared: dict[str, Any] = {**bootstrap, "positive": index_of(options.positive, classes)}
    return evaluate_with_patients(rows, truth, np.stack(each), classes, notes=[*notes, *excluded], **shared)


def _mask_scores(
    manifest: Manifest, predictor: Predictor, tolerance_mm: float, failures: list[str]
) -> Iterator[tuple[Row, Scores]]:
    """Yield the scores of each image; its masks are in memory only meanwhile."""
    unit = unit_of(manifest)
    for row, image, prediction in _predicted(manifest, predictor, failures):
        assert image.mask is not None, "images without a truth are left out"
        assert prediction.mask is not None, "a model of segmentation gives masks"
        masks, spacing_mm = (image.mask, prediction.mask), spacing(image, unit)
        yield row, score_case(*masks, prediction.classes, spacing_mm, tolerance_mm=tolerance_mm, unit=unit)


def _image_probabilities(
    manifest: Manifest, predictor: Predictor, failures: list[str]
) -> Iterator[tuple[Row, Float[Array, "l"]]]:
    for row, _, prediction in _predicted(manifest, predictor, failures):
        assert prediction.probabilities is not None, "a model of classification gives probabilities"
        yield row, prediction.probabilities


def _predicted(
    manifest: Manifest, predictor: Predictor, failures: list[str]
) -> Iterator[tuple[Row, Image, Prediction]]:
    """Yield each image with its prediction, with progress; one that fails is skipped."""
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


def _slide_probabilities(
    manifest: Manifest, predictor: SlidePredictor, options: EvaluationOptions, failures: list[str]
) -> Iterator[tuple[Row, Float[Array, "l"]]]:
    """Yield the probabilities of each slide; its tiles are embedded where they are not yet."""
    slides = predictor.embed(manifest, options.slides, options.tiles, failures)
    for slide in with_progress(slides, total=len(slides), title="Evaluating", unit="slide"):
        try:
            probabilities = predictor.read(slide.embeddings).probabilities
        except DataError as error:
            failures.append(f"{slide.row}: {error}")
        else:
            yield slide.row, probabilities


def _collected(
    found: Iterable[tuple[Row, FoundT]], manifest: Manifest, what: str, failures: list[str]
) -> tuple[list[Row], list[FoundT], list[str]]:
    """Return the rows, what was found of each, and notes on the rows that failed meanwhile.

    Raises:
        DataError: If all failed.
    """
    num_before = len(failures)
    pairs = list(found)
    if not pairs:
        raise DataError(f"{manifest.folder}: all {len(manifest)} {what} failed, first {failures[num_before]}")
    excluded = notes_on_excluded(failures[num_before:], f"of {len(manifest)} {what}")
    return [row for row, _ in pairs], [one for _, one in pairs], excluded


def notes_on_excluded(failures: Sequence[str], of_all: str) -> list[str]:
    """Return how many images the metrics do not count, and which with their reasons, as far as a page can list them."""
    if not failures:
        return []
    more = [f"and {len(failures) - MAX_EXCLUDED} more, see the log"] if len(failures) > MAX_EXCLUDED else []
    return [f"{len(failures)} {of_all} could not be predicted and are excluded", *failures[:MAX_EXCLUDED], *more]


def _truth(rows: Sequence[Row], model: ModelConfig | SlideModelConfig) -> Int[Array, "n"]:
    return np.array([model.classes.index(row.labels[model.label]) for row in rows])
