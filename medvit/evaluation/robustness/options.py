"""Options of a robustness evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from medvit.config import Config, Count
from medvit.evaluation.options import EvaluationOptions
from medvit.evaluation.selection import SeenPatients
from medvit.hardware import Device
from medvit.records import Split
from medvit.transforms.corruptions import SEVERITIES


class RobustnessOptions(Config):
    """Options of a robustness evaluation, without those common to all stages."""

    checkpoint: Path
    """Folder of the model, made by finetune."""
    dataset: Path
    """Dataset folder made by ingest."""
    output: Path
    """New folder for the report."""
    reference: Path | None = None
    """Folder of another model of the same task, such as a ResNet-18 that was trained on the same images, or of
    baselines with a network (medvit baseline kinds=[resnet]). Errors are then also reported relative to those of this
    model. Unset: no relative errors.
    """
    reference_name: str = ""
    """Name of the reference in the report, such as ResNet-18. Empty: that of the network of baselines, or the name of
    its folder.
    """
    split: Split = "test"
    """Split to evaluate."""
    corruptions: tuple[str, ...] = ()
    """Names of corruptions, such as [noise,blur]. Empty: all that occur in the modality of the images."""
    severities: tuple[int, ...] = SEVERITIES
    """Severities of each corruption, from 1 (mild) to 5 (strong)."""
    modality: str | None = None
    """DICOM code of the modality that decides which corruptions apply, such as US. Unset: the modality of the images in
    the dataset.
    """
    max_images: Count | None = None
    """Maximum number of images. If the split has more, patients are drawn at random. Unset: all images."""
    seen_patients: SeenPatients = "refuse"
    """Handling of test patients that a model or its initial weights were trained on. refuse: stop. leave_out: exclude
    the images of these patients. keep: evaluate these images, with a note in the report.
    """
    resamples: int = Field(1000, ge=100)
    """Number of bootstrap resamples for the confidence intervals."""
    device: Device = "auto"
    """Device to run the models on. The value auto uses the GPU if there is one."""

    @model_validator(mode="after")
    def _has_known_severities(self) -> Self:
        wrong = [one for one in self.severities if one not in SEVERITIES]
        if wrong or not self.severities or len(set(self.severities)) < len(self.severities):
            raise ValueError(
                f"severities is {list(self.severities)}; expected different numbers from {SEVERITIES[0]} to "
                f"{SEVERITIES[-1]}"
            )
        return self

    @model_validator(mode="after")
    def _names_a_reference_that_is_given(self) -> Self:
        if self.reference_name and self.reference is None:
            raise ValueError("reference_name is given, but reference is not; give both or neither")
        return self

    def evaluating(self, checkpoint: Path) -> EvaluationOptions:
        """Return the options with which `medvit evaluate` selects the same images for a model."""
        return EvaluationOptions(
            checkpoint=checkpoint,
            dataset=self.dataset,
            output=self.output,
            split=self.split,
            seen_patients=self.seen_patients,
            device=self.device,
        )
