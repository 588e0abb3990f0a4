"""Examples of a report: figures of the best, the median and the worst image or slide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.dataset.manifest import Manifest
from medvit.dataset.samples import load
from medvit.evaluation import Evaluation
from medvit.evaluation.options import EvaluationOptions
from medvit.evaluation.report.page import Example
from medvit.evaluation.report.plots import overlay_figure
from medvit.evaluation.report.slide_figure import slide_figure
from medvit.evaluation.run import ImagePredictor
from medvit.evaluation.tasks.segmentation import counted_classes, spacing, unit_of
from medvit.inference.slide_predictor import SlidePredictor
from medvit.records import Row
from medvit.writers.slide_maps import SlideFinding
from medvit.wsi.locations import open_row


def examples(
    manifest: Manifest,
    predictor: ImagePredictor | SlidePredictor,
    evaluation: Evaluation,
    options: EvaluationOptions,
) -> list[Example]:
    """Return the best, the median and the worst image.

    The criterion is the mean Dice; for a classification, the probability of the true class; for a regression, the
    absolute error; for several labels, the mean distance of their probabilities from the truth; for survival, the
    predicted risk. For a multi-task model, there are three images for each label.
    """
    if isinstance(predictor, SlidePredictor):
        return slide_examples(manifest, predictor, evaluation, options)
    if evaluation.kind == "segmentation":
        return mask_examples(manifest, predictor, evaluation)
    if evaluation.kind == "regression":
        return image_examples(manifest, _by_error(evaluation))
    if evaluation.kind == "survival":
        return image_examples(manifest, _by_risk(evaluation))
    if evaluation.kind == "multilabel":
        return image_examples(manifest, _by_distance(evaluation))
    if evaluation.kind == "multitask":
        each = ((label, _chosen_for_label(part, label)) for label, part in evaluation.parts.items())
        return image_examples(manifest, [(row, f"{label}, {text}") for label, found in each for row, text in found])
    return image_examples(manifest, _by_probability_of_truth(evaluation, predictor.config.label))


def mask_examples(manifest: Manifest, predictor: ImagePredictor, evaluation: Evaluation) -> list[Example]:
    """Return images with the contours of the true and the predicted label map, chosen by mean Dice.

    Predictions that do not count, as in ignored pixels, are not drawn.
    """
    scores, unit, shown = evaluation.columns["dice"], unit_of(manifest), []
    for name, index in examples_to_show(scores).items():
        row = evaluation.rows[index]
        image = load(manifest, row)
        found = predictor(image).mask
        assert image.mask is not None, "images without a truth are excluded"
        assert found is not None, "a segmentation model predicts masks"
        found = counted_classes(image.mask, found, manifest.facts.mask_classes, row.annotated)
        figure = overlay_figure(image.without_gaps().intensities(), image.mask, found, spacing(image, unit))
        caption = f"{name}: Dice {scores[index]:.3f} (green truth, orange prediction), {row.image_id}"
        shown.append(Example(caption, figure))
    return shown


def image_examples(manifest: Manifest, chosen: Sequence[tuple[Row, str]]) -> list[Example]:
    """Return chosen images, without contours, with their captions."""
    unit, shown = unit_of(manifest), []
    for row, caption in chosen:
        image = load(manifest, row)
        nothing = np.zeros(image.pixels.shape[1:], dtype=np.uint8)
        figure = overlay_figure(image.without_gaps().intensities(), nothing, nothing, spacing(image, unit))
        shown.append(Example(caption, figure))
    return shown


def slide_examples(
    manifest: Manifest, predictor: SlidePredictor, evaluation: Evaluation, options: EvaluationOptions
) -> list[Example]:
    """Return slides with attention maps, class maps and top tiles, chosen by the probability of the true class."""
    shown, model = [], predictor.config
    for row, caption in _by_probability_of_truth(evaluation, model.label):
        one = replace(manifest, rows=(row,))
        (found,) = predictor.embed(one, options.slides, options.tiles, [])
        slide = open_row(row, options.slides.key, options.slides.folder)
        finding = SlideFinding(found.grid, predictor.read(found.embeddings), model.classes, slide.shape, slide.mpp)
        shown.append(Example(caption, slide_figure(slide, finding, predictor)))
    return shown


def _by_probability_of_truth(evaluation: Evaluation, label: str) -> list[tuple[Row, str]]:
    """Return the best, the median and the worst image by the probability of the true class, with captions."""
    scores = probability_of_truth(evaluation)
    chosen = [(name, scores[index], evaluation.rows[index]) for name, index in examples_to_show(scores).items()]
    return [
        (row, f"{name}: {row.labels.get(label)}, given a probability of {score:.3f}, {row.image_id}")
        for name, score, row in chosen
    ]


def _chosen_for_label(evaluation: Evaluation, label: str) -> list[tuple[Row, str]]:
    """Return the best, the median and the worst image of one label of a multi-task model, with captions."""
    return _by_error(evaluation) if evaluation.kind == "regression" else _by_probability_of_truth(evaluation, label)


def _by_error(evaluation: Evaluation) -> list[tuple[Row, str]]:
    """Return the images with the smallest, the median and the largest absolute error, with captions."""
    truth, predicted = evaluation.columns["truth"], evaluation.columns["predicted"]
    return [
        (row, f"{name}: {truth[index]:.4g}, predicted {predicted[index]:.4g}, {row.image_id}")
        for name, index in examples_to_show(-np.abs(predicted - truth)).items()
        for row in (evaluation.rows[index],)
    ]


def _by_risk(evaluation: Evaluation) -> list[tuple[Row, str]]:
    """Return the images with the lowest, the median and the highest predicted risk, with captions."""
    columns, label = evaluation.columns, evaluation.classes[0].rpartition(" > ")[0]
    chosen = examples_to_show(columns["predicted"])
    return [
        (
            evaluation.rows[index],
            f"{name} predicted risk: {columns['predicted'][index]:.4g} {label} expected, "
            f"{columns['truth'][index]:.4g} observed ({'event' if columns['event'][index] else 'censored'}), "
            f"{evaluation.rows[index].image_id}",
        )
        for name, index in zip(("lowest", "median", "highest"), chosen.values(), strict=True)
    ]


def _by_distance(evaluation: Evaluation) -> list[tuple[Row, str]]:
    """Return the best, the median and the worst image by the distance of probabilities from known labels."""
    distances = [np.abs(evaluation.columns[f"p.{n}"] - evaluation.columns[f"truth.{n}"]) for n in evaluation.classes]
    scores = -np.nanmean(distances, axis=0)
    return [
        (
            evaluation.rows[index],
            f"{name}: mean error of probabilities {-scores[index]:.3f}, {evaluation.rows[index].image_id}",
        )
        for name, index in examples_to_show(scores).items()
    ]


def examples_to_show(scores: Float[Array, "n"]) -> dict[str, int]:
    """Return the indices of three scores, keyed by `best`, `median` and `worst`.

    NaN scores are ignored. If all scores are NaN, the result is empty.
    """
    order = [int(index) for index in np.argsort(scores) if not np.isnan(scores[index])]
    return {"best": order[-1], "median": order[len(order) // 2], "worst": order[0]} if order else {}


def probability_of_truth(evaluation: Evaluation) -> Float[Array, "n"]:
    """Return the probability of the true class of each image."""
    return evaluation.probabilities[np.arange(len(evaluation.rows)), evaluation.truth]
