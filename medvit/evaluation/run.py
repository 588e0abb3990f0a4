"""Run of a model on the images or slides of a dataset, which gives all metrics with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.dataset.manifest import Manifest
from medvit.errors import DataError
from medvit.evaluation import Evaluation
from medvit.evaluation.aggregation import LEVELS, answers, breakdowns, with_patients
from medvit.evaluation.multitask import merged
from medvit.evaluation.options import EvaluationOptions
from medvit.evaluation.positive import choose_positives, index_of
from medvit.evaluation.tasks.classification import evaluate_classes
from medvit.evaluation.tasks.multilabel import evaluate_labels
from medvit.evaluation.tasks.regression import evaluate_values
from medvit.evaluation.tasks.segmentation import Scores, evaluate_masks, score_case, spacing, unit_of
from medvit.evaluation.tasks.survival import evaluate_survival
from medvit.inference.out_of_fold import StoredPredictions
from medvit.inference.predicted_rows import predicted
from medvit.inference.predictor import Predictor, numbers_of
from medvit.inference.slide_predictor import SlidePredictor
from medvit.models.disagreement import TASKS as DISAGREEING
from medvit.models.disagreement import Disagreement
from medvit.models.image import ModelConfig
from medvit.models.slide import SlideModelConfig
from medvit.progress import with_progress
from medvit.records import Row
from medvit.tasks import LabelTarget
from medvit.tasks.multilabel import known_labels
from medvit.tasks.multitask import truth_of
from medvit.tasks.regression import number
from medvit.tasks.survival import outcome
from medvit.types import Image, Prediction

MAX_EXCLUDED = 20
"""Maximum number of excluded images that a report lists."""

ImagePredictor = Predictor | StoredPredictions
"""Source of predictions of images: a model, or predictions that were stored before."""
FoundT = TypeVar("FoundT")


@dataclass(frozen=True)
class Measurement:
    """Evaluation of models on the images or slides of a dataset, with resolved options.

    `notes` are for readers of the report. A line is added to `failures` for each image that fails.
    """

    manifest: Manifest
    options: EvaluationOptions
    seed: int
    notes: Sequence[str]
    failures: list[str]
    members: dict[str, Float[Array, "m l"]] = field(default_factory=dict)
    """Predictions of each model of an ensemble, by image; filled by a measurement."""

    def of(self, predictor: Predictor | SlidePredictor | StoredPredictions) -> Evaluation:
        """Predict every image or slide, and return all metrics with their intervals.

        Raises:
            DataError: If all images or slides failed.
        """
        return self._with_disagreement(self._evaluated(predictor), predictor.config.kind)

    def _evaluated(self, predictor: Predictor | SlidePredictor | StoredPredictions) -> Evaluation:
        if isinstance(predictor, SlidePredictor):
            return self._of_slides(predictor)
        of_task = {
            "segmentation": self._of_masks,
            "regression": self._of_values,
            "multilabel": self._of_labels,
            "survival": self._of_survival,
            "multitask": self._of_tasks,
        }
        return of_task.get(predictor.config.kind, self._of_classes)(predictor)

    def outcomes(self, predictor: Predictor | SlidePredictor | StoredPredictions) -> Evaluation:
        """Predict every image or slide for classes, several labels or a number; return the outcomes without metrics.

        Raises:
            DataError: If all images or slides failed.
        """
        return self._with_disagreement(self._predictions(predictor), predictor.config.kind)

    def _predictions(self, predictor: Predictor | SlidePredictor | StoredPredictions) -> Evaluation:
        model = predictor.config
        if model.kind == "regression" and not isinstance(predictor, SlidePredictor):
            rows, numbers, notes = self._collected(self._image_values(predictor), "images")
            truth = np.array([number(row, model.label) for row in rows])
            values = {"truth": truth, "predicted": np.array(numbers)}
            return Evaluation("regression", model.classes, tuple(rows), {}, values, tuple(notes))
        if isinstance(predictor, SlidePredictor):
            rows, each, notes = self._collected(self._slide_probabilities(predictor), "slides")
        else:
            rows, each, notes = self._collected(self._image_probabilities(predictor), "images")
        columns = {f"p.{name}": found for name, found in zip(model.classes, np.array(each).T, strict=True)}
        if model.kind == "multilabel":
            truths = np.array([known_labels(row, model.target) for row in rows]).T
            columns |= {f"truth.{name}": truth for name, truth in zip(model.classes, truths, strict=True)}
            return Evaluation("multilabel", model.classes, tuple(rows), {}, columns, tuple(notes))
        columns["truth"] = np.array([model.classes.index(row.labels[model.label]) for row in rows])
        positive = model.classes[index_of(self.options.positive, model.classes)] if len(model.classes) == 2 else ""
        return Evaluation("classification", model.classes, tuple(rows), {}, columns, tuple(notes), positive=positive)

    def _with_disagreement(self, evaluation: Evaluation, task: str) -> Evaluation:
        """Add columns with the disagreement of the models of an ensemble, if it is known for every image."""
        members = [self.members.get(row.image_id) for row in evaluation.rows]
        each = [Disagreement.of(task, one) for one in members if one is not None]
        if task not in DISAGREEING or len(each) < len(evaluation.rows):
            return evaluation
        columns: dict[str, Array] = {}
        if task == "regression":
            columns["spread"] = np.array([one.spread for one in each])
        for name in ("entropy", "mutual_information") if task != "regression" else ():
            values = np.stack([getattr(one, name) for one in each], axis=1)
            keys = [f"{name}.{label}" for label in evaluation.classes] if task == "multilabel" else [name]
            columns |= dict(zip(keys, values, strict=True))
        return replace(evaluation, columns={**evaluation.columns, **columns})

    def _of_masks(self, predictor: ImagePredictor) -> Evaluation:
        model = predictor.config
        rows, scores, notes = self._collected(self._mask_scores(predictor), "images")
        scored = (model.classes[0], *model.regions) if model.regions else model.classes
        return evaluate_masks(rows, scores, scored, notes=notes, **self._bootstrap)

    def _of_values(self, predictor: ImagePredictor) -> Evaluation:
        model = predictor.config
        rows, predicted, notes = self._collected(self._image_values(predictor), "images")
        truth = np.array([number(row, model.label) for row in rows])
        return evaluate_values(rows, truth, np.array(predicted), model.label, notes=notes, **self._bootstrap)

    def _of_labels(self, predictor: ImagePredictor) -> Evaluation:
        model = predictor.config
        rows, each, notes = self._collected(self._image_probabilities(predictor), "images")
        truth = np.array([known_labels(row, model.target) for row in rows])
        return evaluate_labels(rows, truth, np.stack(each), model.classes, notes=notes, **self._bootstrap)

    def _of_survival(self, predictor: ImagePredictor) -> Evaluation:
        model, horizons = predictor.config, self.options.horizons
        rows, each, notes = self._collected(self._image_probabilities(predictor), "images")
        truth = np.array([outcome(row, model.label, model.event) for row in rows])
        return evaluate_survival(
            rows, truth, np.stack(each), model.classes, horizons=horizons, notes=notes, **self._bootstrap
        )

    def _of_tasks(self, predictor: ImagePredictor) -> Evaluation:
        target = predictor.config.target
        rows, each, notes = self._collected(self._image_numbers(predictor), "images")
        predictions = np.stack(each)
        truth = np.array([truth_of(row, target) for row in rows])
        positives, _ = choose_positives(predictor.config.tasks, self.manifest.facts.positive)
        parts = {}
        for part, true in zip(target.parts, truth.T, strict=True):
            label, known = part.target.label, np.flatnonzero(~np.isnan(true))
            if known.size:
                found = predictions[known][:, target.spans[label]]
                own = [rows[index] for index in known]
                parts[label] = self._of_label(own, true[known], found, part, positives[label])
        return merged(rows, truth, predictions, target, parts, notes)

    def _of_label(
        self,
        rows: Sequence[Row],
        truth: Float[Array, "n"],
        predictions: Float[Array, "n l"],
        part: LabelTarget,
        positive: str,
    ) -> Evaluation:
        if part.task == "regression":
            return evaluate_values(rows, truth, predictions[:, 0], part.target.label, notes=(), **self._bootstrap)
        classes = part.target.classes
        index = index_of(positive, classes)
        found = evaluate_classes(
            rows,
            truth.astype(int),
            predictions,
            classes,
            notes=(),
            positive=index,
            is_graded=part.task == "ordinal",
            **self._bootstrap,
        )
        return self._with_breakdowns(found)

    def _of_classes(self, predictor: ImagePredictor) -> Evaluation:
        images = self._classified(self._image_probabilities(predictor), "images", predictor.config)
        return self._with_breakdowns(images)

    def _with_breakdowns(self, images: Evaluation) -> Evaluation:
        parts = breakdowns(
            images.rows,
            answers(images.rows, images.truth, images.probabilities),
            images.classes,
            self.options.levels or LEVELS[:1],
            order=self.options.order,
            positive=index_of(images.positive, images.classes),
            is_graded=images.is_graded,
            **self._bootstrap,
        )
        return replace(images, breakdowns=parts)

    def _of_slides(self, predictor: SlidePredictor) -> Evaluation:
        slides = self._classified(self._slide_probabilities(predictor), "slides", predictor.config)
        return with_patients(slides, **self._bootstrap)

    def _classified(
        self,
        found: Iterable[tuple[Row, Float[Array, "l"]]],
        what: str,
        model: ModelConfig | SlideModelConfig,
    ) -> Evaluation:
        rows, each, notes = self._collected(found, what)
        truth = np.array([model.classes.index(row.labels[model.label]) for row in rows])
        positive = index_of(self.options.positive, model.classes)
        return evaluate_classes(
            rows,
            truth,
            np.stack(each),
            model.classes,
            notes=notes,
            positive=positive,
            is_graded=model.kind == "ordinal",
            **self._bootstrap,
        )

    @property
    def _bootstrap(self) -> dict[str, int]:
        return {"resamples": self.options.resamples, "seed": self.seed}

    def _mask_scores(self, predictor: ImagePredictor) -> Iterator[tuple[Row, Scores]]:
        """Yield the scores of each image; its label maps are not kept in memory."""
        unit, tolerance_mm = unit_of(self.manifest), self.options.nsd_tolerance_mm
        for row, image, prediction in self._predicted(predictor):
            assert image.mask is not None, "images without a truth are excluded"
            assert prediction.mask is not None, "a segmentation model predicts masks"
            masks, spacing_mm = (image.mask, prediction.mask), spacing(image, unit)
            how: dict[str, Any] = {"tolerance_mm": tolerance_mm, "unit": unit, "annotated": row.annotated}
            how["regions"] = predictor.config.region_map
            yield row, score_case(*masks, prediction.classes, spacing_mm, **how)

    def _image_probabilities(self, predictor: ImagePredictor) -> Iterator[tuple[Row, Float[Array, "l"]]]:
        for row, _, prediction in self._predicted(predictor):
            assert prediction.probabilities is not None, "a classification model predicts probabilities"
            yield row, prediction.probabilities

    def _image_values(self, predictor: ImagePredictor) -> Iterator[tuple[Row, float]]:
        for row, _, prediction in self._predicted(predictor):
            assert prediction.value is not None, "a regression model predicts a number"
            yield row, prediction.value

    def _image_numbers(self, predictor: ImagePredictor) -> Iterator[tuple[Row, Float[Array, "l"]]]:
        for row, _, prediction in self._predicted(predictor):
            yield row, numbers_of(prediction)

    def _predicted(self, predictor: ImagePredictor) -> Iterator[tuple[Row, Image, Prediction]]:
        for found in predicted(self.manifest, self.manifest.rows, predictor, self.failures, title="Evaluating"):
            row, _, prediction = found
            if prediction.members is not None:
                self.members[row.image_id] = prediction.members
            yield found

    def _slide_probabilities(self, predictor: SlidePredictor) -> Iterator[tuple[Row, Float[Array, "l"]]]:
        """Yield the probabilities of each slide; missing embeddings of its tiles are computed."""
        slides = predictor.embed(self.manifest, self.options.slides, self.options.tiles, self.failures)
        for slide in with_progress(slides, total=len(slides), title="Evaluating", unit="slide"):
            try:
                reading = predictor.read(slide.embeddings)
            except DataError as error:
                self.failures.append(f"{slide.row}: {error}")
            else:
                if len(reading.members) > 1:
                    self.members[slide.row.image_id] = reading.members
                yield slide.row, reading.probabilities

    def _collected(self, found: Iterable[tuple[Row, FoundT]], what: str) -> tuple[list[Row], list[FoundT], list[str]]:
        """Collect the pairs in `found`; return the rows, the results, and all notes.

        Rows that fail while `found` is consumed are counted in additional notes. `what` names the items in these notes.
        """
        num_before, total = len(self.failures), len(self.manifest)
        pairs = list(found)
        failures = self.failures[num_before:]
        if not pairs:
            raise DataError(f"{self.manifest.folder}: all {total} {what} failed, first {failures[0]}")
        notes = [*self.notes, *notes_on_excluded(failures, f"of {total} {what}")]
        return [row for row, _ in pairs], [one for _, one in pairs], notes


def notes_on_excluded(failures: Sequence[str], of_all: str) -> list[str]:
    """Return a line with the number of excluded images, and a line with the reason for each of the first ones."""
    if not failures:
        return []
    more = [f"and {len(failures) - MAX_EXCLUDED} more, see the log"] if len(failures) > MAX_EXCLUDED else []
    return [f"{len(failures)} {of_all} could not be predicted and are excluded", *failures[:MAX_EXCLUDED], *more]
