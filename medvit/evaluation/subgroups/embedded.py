"""Embeddings of the evaluated images by the backbone of the evaluated model."""

from __future__ import annotations

import logging

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.artifacts import Checkpoint
from medvit.dataset.samples import load
from medvit.errors import MedvitError
from medvit.evaluation import Evaluation
from medvit.evaluation.judged import Judged
from medvit.evaluation.options import EvaluationOptions
from medvit.inference.out_of_fold import StoredPredictions
from medvit.inference.slide_predictor import SlidePredictor
from medvit.progress import with_progress

log = logging.getLogger("medvit")


def embedded(
    judged: Judged, evaluation: Evaluation, checkpoint: Checkpoint | None, options: EvaluationOptions
) -> Float[Array, "n e"] | None:
    """Return an embedding (N, E) of each evaluated image or slide, in the order of `evaluation.rows`.

    The result is None, with a log line, for models without a single backbone, and if an embedding fails.
    """
    if checkpoint is None or isinstance(judged.predictor, StoredPredictions) or checkpoint.is_ensemble:
        log.info("hidden strata need a model with one backbone, and are not computed")
        return None
    try:
        if isinstance(judged.predictor, SlidePredictor):
            return _of_slides(judged, judged.predictor, evaluation, options)
        return _of_images(judged, evaluation, checkpoint, options)
    except MedvitError as error:
        log.warning("hidden strata are not computed: %s", error)
        return None


def _of_images(
    judged: Judged, evaluation: Evaluation, checkpoint: Checkpoint, options: EvaluationOptions
) -> Float[Array, "n e"]:
    from medvit.embeddings.image_embedder import ImageEmbedder

    embedder = ImageEmbedder(checkpoint, options.device)
    rows = with_progress(evaluation.rows, total=len(evaluation.rows), title="Embedding", unit="image")
    return np.stack([embedder(load(judged.measured, row)) for row in rows])


def _of_slides(
    judged: Judged, predictor: SlidePredictor, evaluation: Evaluation, options: EvaluationOptions
) -> Float[Array, "n e"]:
    from medvit.embeddings.run import mean_of_tiles

    known = {row.image_id for row in evaluation.rows}
    kept = judged.measured.filter(lambda row: row.image_id in known)
    slides = {slide.row.image_id: slide for slide in predictor.embed(kept, options.slides, options.tiles, [])}
    return mean_of_tiles([slides[row.image_id] for row in evaluation.rows])
