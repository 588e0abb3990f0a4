"""Options of an evaluation: which model on which images, measured how; some follow from the model and the images."""

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
    """Options of an evaluation, without those that every stage has."""

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

    def resolved(self, model: ModelConfig | SlideModelConfig, measured: Manifest) -> tuple[Self, list[str]]:
        """Return the options with the positive class, the levels and the order of classes in force.

        A note comes with them where neither options, model nor dataset name the positive one of two classes.

        Raises:
            ConfigError: If the positive class asked for is not one of two classes.
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
