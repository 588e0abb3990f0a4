"""Options of an evaluation: model, images and metrics; options left unset are inferred from model and images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator

from medvit.attributes import LATERALITY
from medvit.config import Config, Count, Positive
from medvit.dataset.manifest import Manifest
from medvit.errors import ConfigError
from medvit.evaluation.aggregation import LEVELS, AggregationLevel, are_ordered, from_harmless
from medvit.evaluation.criteria import Criterion
from medvit.evaluation.operating_options import OperatingOptions
from medvit.evaluation.positive import choose_positive, choose_positives, index_of
from medvit.evaluation.selection import SeenPatients
from medvit.hardware import Device
from medvit.models.image import ModelConfig
from medvit.models.slide import SlideModelConfig
from medvit.models.tile_embedder import EmbeddingConfig
from medvit.records import Split
from medvit.survival import default_horizons, require_horizons
from medvit.tasks import OF_CLASSES
from medvit.wsi.locations import SlidesConfig


class EvaluationOptions(Config):
    """Options of an evaluation, without those common to all stages."""

    checkpoint: Path | None = None
    """Folder of the model, made by finetune. Required unless `predictions` is given."""
    predictions: Path | None = None
    """Folder `out_of_fold` of a model trained with folds: evaluate these predictions, which cover all patients of the
    train and val splits, instead of running a model on `split`.
    """
    dataset: Path
    """Dataset folder made by ingest."""
    output: Path
    """New folder for the report."""
    split: Split = "test"
    """Split to evaluate."""
    where: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Restriction to images with given values of attributes, such as {site: h-0123456789ab} or {sex: F, model: [A, B]}.
    Values are those of the groups that the report shows under `subgroups`, or of the manifest. Empty: all images.
    """
    positive: str = ""
    """Positive class of a model with two classes, to which sensitivity refers. Empty: the last class of `order`, or the
    positive class stored in the model or the dataset. If there is none, the last class is used, with a note in the
    report.
    """
    seen_patients: SeenPatients = "refuse"
    """Handling of test patients that the model or its initial weights were trained on. refuse: stop the evaluation.
    leave_out: exclude the images of these patients. keep: evaluate these images, with a note in the report.
    """
    against: Path | None = None
    """Report folder of another model on the same split. The new report adds the differences between the two models,
    with confidence intervals.
    """
    baselines: Path | None = None
    """Folder of simple baselines, made by medvit baseline on the same dataset. The report shows their metrics, and the
    differences of the model from each of them. Unset: no baselines are shown.
    """
    nsd_tolerance_mm: float = Field(1.0, gt=0)
    """Tolerance of the normalized surface Dice (NSD), in mm. Surfaces closer than this count as equal. For images
    without a physical scale, the tolerance is in pixels.
    """
    horizons: tuple[Positive, ...] = ()
    """Times for which Brier score, AUROC and calibration of a survival prediction are reported, in the unit of its
    label. Empty: three times of the model, near the quartiles of the times of events in its training.
    """
    levels: tuple[AggregationLevel, ...] | None = None
    """Aggregation levels to report for a classification: per image, eye, visit or patient. Unset: all of them if the
    images state their laterality, else only per image.
    """
    order: tuple[str, ...] = ()
    """All classes from least to most severe. The most severe eye then decides the result of a visit or patient. Empty:
    two classes and numeric grades are ordered automatically; for other classes, both eyes are averaged.
    """
    operating: OperatingOptions = Field(default_factory=OperatingOptions)
    subgroups: tuple[str, ...] | None = None
    """Attributes by which the report compares subgroups, such as site, model, sex or age_years; also labels that the
    model does not predict. Unset: all attributes of the images that describe subject or acquisition. []: no subgroups.
    """
    hidden_strata: bool = True
    """Also compare clusters of the embeddings of the images, which may show a weakness that no attribute describes.
    This runs the backbone a second time. Needs at least 40 patients, and is not done with subgroups=[].
    """
    resamples: int = Field(2000, ge=100)
    """Number of bootstrap resamples for the confidence intervals."""
    criteria: tuple[Criterion, ...] = ()
    """Criteria that decide whether the model passes, such as [{metric: auroc, bound: 0.8}]: the whole 95 % interval of
    the metric must reach the bound, from above for errors. With {each: quality}, this applies to every line of the
    table "By quality". The exit status is 3 if a criterion is not met. Empty: the report states "not judged".
    """
    cases: int = Field(12, ge=0)
    """Number of images shown in the report, the worst errors first."""
    reference: Path | None = None
    """Folder of embeddings of the training dataset, made by embed with the same checkpoint. The report then shows the
    nearest training images of the worst errors, with their labels. Unset: they are not shown.
    """
    neighbors: Count = 5
    """Number of nearest training images of an error, with `reference`."""
    answers: Path | None = None
    """YAML file with the answers of the team to the reporting checklists at the end of the report: CLAIM 2024,
    TRIPOD+AI and STARD-AI. A commented template, `report.yaml`, is in the folder of every report. Unset: items that
    only the team can answer are shown as not stated.
    """
    pdf: bool = False
    """Also write the report as `report.pdf`. This needs WeasyPrint (`pip install medvit[pdf]`)."""
    device: Device = "auto"
    """Device to run the model on. The value auto uses the GPU if there is one."""
    slides: SlidesConfig = Field(default_factory=SlidesConfig)
    tiles: EmbeddingConfig = Field(default_factory=EmbeddingConfig)

    @field_validator("where", mode="before")
    @classmethod
    def _are_lists(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {key: one if isinstance(one, list | tuple) else [str(one)] for key, one in value.items()}

    def require_one_subject(self) -> None:
        """Check that either a model or predictions are to be evaluated.

        Raises:
            ConfigError: If both or neither are given, or a split is given for predictions.
        """
        if (self.checkpoint is None) == (self.predictions is None):
            found = "checkpoint and predictions are both given" if self.checkpoint else "neither is given"
            raise ConfigError(f"evaluate needs checkpoint=FOLDER or predictions=FOLDER; {found}")
        ignored = [key for key in ("split", "seen_patients", "device") if key in self.model_fields_set]
        if self.predictions is not None and ignored:
            raise ConfigError(
                f"{ignored[0]} and predictions are both given, but predictions were made before, of the train and val "
                f"splits; remove {ignored[0]}"
            )

    def resolved(self, model: ModelConfig | SlideModelConfig, measured: Manifest) -> tuple[Self, list[str]]:
        """Return the options, with positive class, levels, order of classes and horizons filled in, and notes.

        There is a note if there are two classes, and neither the options, the model nor the dataset name the positive
        one.

        Raises:
            ConfigError: If the requested positive class is not one of two classes, or a horizon is after the last time
                of the model.
        """
        if isinstance(model, ModelConfig) and model.tasks:
            return self._resolved_for_labels(model, measured)
        positive, notes = choose_positive(
            model.classes if model.kind in (*OF_CLASSES, "slide") else (),
            asked=self.positive,
            worst=self.order[-1] if self.order else "",
            model=model.positive,
            dataset=measured.facts.positive.get(model.label, ""),
        )
        levels, order = self.levels, self.order
        if model.kind in OF_CLASSES:
            have_eyes = any(LATERALITY in row.attributes for row in measured)
            levels = levels or (LEVELS if have_eyes else LEVELS[:1])
            if len(levels) > 1 and not order and are_ordered(model.classes):
                order = from_harmless(model.classes, index_of(positive, model.classes))
        found = {"positive": positive, "levels": levels, "order": order, "horizons": self._horizons(model)}
        return self.model_copy(update=found), notes

    def _horizons(self, model: ModelConfig | SlideModelConfig) -> tuple[float, ...]:
        require_horizons(self.horizons, model.kind, model.classes)
        return (self.horizons or default_horizons(model.classes)) if model.kind == "survival" else ()

    def _resolved_for_labels(self, model: ModelConfig, measured: Manifest) -> tuple[Self, list[str]]:
        for key in ("positive", "order"):
            if getattr(self, key):
                raise ConfigError(
                    f"{key} is for the classes of a single label, and the model predicts "
                    f"{', '.join(one.label for one in model.tasks)}; remove {key}"
                )
        _, notes = choose_positives(model.tasks, measured.facts.positive)
        have_eyes = any(LATERALITY in row.attributes for row in measured)
        return self.model_copy(update={"levels": self.levels or (LEVELS if have_eyes else LEVELS[:1])}), notes
