"""Common code of stages that adjust the predictions of a model after training, with images used for nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from medvit.artifacts import Checkpoint, Lineage
from medvit.cards.training_record import Adjustment
from medvit.config import Tree
from medvit.evaluation.options import EvaluationOptions
from medvit.hardware import Device
from medvit.inference.adjusted_checkpoint import write_adjusted
from medvit.leakage.seen_patients import training_patients, write_training_patients
from medvit.models.tile_embedder import EmbeddingConfig
from medvit.records import Row, Split
from medvit.stage import Run, StageConfig
from medvit.wsi.locations import SlidesConfig


class AdjustedConfig(StageConfig):
    """Options of stages that adjust the predictions of a model."""

    checkpoint: Path
    """Folder of the model, made by finetune."""
    dataset: Path
    """Dataset with images that were used for nothing else: the dataset of training, made by ingest with
    splits.calibration, or another one. For an ensemble with folds, the dataset of training, whose out-of-fold
    predictions are used.
    """
    output: Path
    """New folder for the adjusted checkpoint, which predict and evaluate use like any other."""
    split: Split = "calibration"
    """Split with these images. In the dataset of training, only calibration is accepted."""
    device: Device = "auto"
    """Device to run the model on. The value auto uses the GPU if there is one."""
    slides: SlidesConfig = Field(default_factory=SlidesConfig)
    tiles: EmbeddingConfig = Field(default_factory=EmbeddingConfig)

    @property
    def prediction(self) -> EvaluationOptions:
        """Options with which the model predicts the images."""
        return EvaluationOptions(
            checkpoint=self.checkpoint,
            dataset=self.dataset,
            output=self.output,
            split=self.split,
            device=self.device,
            slides=self.slides,
            tiles=self.tiles,
        )


def write_model(
    config: AdjustedConfig, run: Run, original: Checkpoint, added: Tree, section: Adjustment, rows: Sequence[Row]
) -> Checkpoint:
    """Write the model with `added` keys and a new `section` of its card; its patients now include those of `rows`."""
    checkpoint = write_adjusted(original, added, run.folder, final=config.output, section=section)
    write_training_patients(run.folder, rows, training_patients(original.folder))
    lineage = Lineage.read(original.folder)
    if lineage is not None and "dataset" in lineage.inputs:
        run.inputs["dataset"] = lineage.inputs["dataset"]  # evaluate asks which dataset the model was trained on
    return checkpoint
