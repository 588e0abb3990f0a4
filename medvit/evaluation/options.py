"""Options of an evaluation: model, images and metrics; some follow from the model and the images."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field

from medvit.attributes import LATERALITY
from medvit.config import Config
from medvit.dataset.manifest import Manifest
from medvit.evaluation.aggregation import LEVELS, AggregationLevel, are_ordered, from_harmless
from medvit.evaluation.positive import choose_positive, index_of
from medvit.evaluation.selection import SeenPatients
from medvit.hardware import Device
from medvit.models.image import ModelConfig
from medvit.models.slide import SlideModelConfig
from medvit.models.tile_embedder import EmbeddingConfig
from medvit.records import Split
from medvit.wsi.locations import SlidesConfig


class EvaluationOptions(Config):
    """Options of an evaluation, without those common to all stages."""

    checkpoint: Path
    """Model made by finetune."""
    dataset: Path
    """Dataset folder made by ingest."""
    output: Path
    """Report folder to make."""
    split: Split = "test"
    """Split to evaluate: train, val or test."""
    positive: str = ""
    """Positive class of two; sensitivity refers to it. Unset: the worst of order, or the one stored in the model."""
    seen_patients: SeenPatients = "refuse"
    """Test splits with training patients of the model or of its initial weights: refuse them, leave_out the images of
    these patients, or keep them with a note in the report.
    """
    against: Path | None = None
    """Report of another model on the same split; the differences are reported with intervals."""
    nsd_tolerance_mm: float = Field(1.0, gt=0)
    """Distance within which two surfaces count as one in normalized surface Dice; in pixels, if images have no physical
    scale.
    """
    levels: tuple[AggregationLevel, ...] | None = None
    """Aggregation levels of a classification: image, eye, visit, patient, side by side. Unset: all if images state
    their laterality, else only image.
    """
    order: tuple[str, ...] = ()
    """All classes from harmless to worst: the worst eye decides for its patient. Empty: two classes or numbers in their
    order, for others the mean of both eyes.
    """
    resamples: int = Field(2000, ge=100)
    """Bootstrap resamples."""
    device: Device = "auto"
    """Device for the model."""
    slides: SlidesConfig = Field(default_factory=SlidesConfig)
    tiles: EmbeddingConfig = Field(default_factory=EmbeddingConfig)

    def resolved(self, model: ModelConfig | SlideModelConfig, measured: Manifest) -> tuple[Self, list[str]]:
        """Return the options with the resolved positive class, aggregation levels and order of classes.

        A note is included if neither options, model nor dataset name the positive class of two.

        Raises:
            ConfigError: If the requested positive class is not one of two classes.
        """
        positive, notes = choose_positive(
            () if model.kind == "segmentation" else model.classes,
            asked=self.positive,
            worst=self.order[-1] if self.order else "",
            model=model.positive,
            dataset=measured.facts.positive.get(model.label, ""),
        )
        levels, order = self.levels, self.order
        if model.kind == "classification":
            have_eyes = any(LATERALITY in row.attributes for row in measured)
            levels = levels or (LEVELS if have_eyes else LEVELS[:1])
            if len(levels) > 1 and not order and are_ordered(model.classes):
                order = from_harmless(model.classes, index_of(positive, model.classes))
        return self.model_copy(update={"positive": positive, "levels": levels, "order": order}), notes
