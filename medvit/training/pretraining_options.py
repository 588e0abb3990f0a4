"""Options of pretraining: images, objective and guard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from medvit.dataset.slices import SlicesConfig
from medvit.objectives import OptionalObjectiveChoice
from medvit.peft import OptionalPeftChoice
from medvit.training.guard import GuardConfig
from medvit.training.guard.probes import ProbeConfig
from medvit.training.loading.epochs import LoaderConfig
from medvit.training.loading.schedule import Schedule
from medvit.training.options import TrainingOptions
from medvit.training.self_distillation import SelfDistillationConfig
from medvit.training.trainer import TrainerConfig
from medvit.transforms.preprocess import Preprocess
from medvit.wsi.locations import MixedSlidesConfig


class PretrainingOptions(TrainingOptions):
    """Options of pretraining, without those common to all stages."""

    RENAMED: ClassVar[Mapping[str, str]] = {"further": "self_distillation"}

    dataset: Path
    """Dataset folder made by ingest. The train split is used for training, without labels (except by
    objective=urfound). Labels and label maps are used to evaluate the weights after each epoch.
    """
    slices: SlicesConfig | None = None
    """Cut volumes into slices, which are the training images. Unset: whole volumes."""
    slides: MixedSlidesConfig = Field(default_factory=MixedSlidesConfig)
    other_preprocess: Preprocess | None = None
    """Preprocessing of the other kind of input (images or volumes), for objectives that train on both. Unset: chosen
    from the images.
    """
    peft: OptionalPeftChoice = None
    """Weights of the backbone to train. full: all. frozen: none. lora, rslora, dora: low-rank updates. vera, ia3:
    scales. explora: low-rank updates and some whole blocks. last_blocks: the last blocks. block_expansion: added
    blocks. adaptformer: bottlenecks beside the MLPs. vpt: prompt tokens. bitfit: biases. continue: those of the
    checkpoint's adapter. adalora and selective_lora are for fine-tuning only. Unset: explora for pretrained initial
    weights, full for random initial weights.
    """
    objective: OptionalObjectiveChoice = None
    """Pretraining objective. dino, dinov2, simdinov2: self-distillation. lejepa, swav: agreement of views. mae, simmim,
    hi_end_mae, hi_end_mae_light: reconstruction of masked patches. uni4eye: images and volumes in one run. urfound:
    masked modeling of images and of their label text. Unset: the one that `checkpoint` was pretrained with, with its
    options. For public weights of the DINO family (backbone.weights): dinov2, dino or simdinov2, depending on their
    name. For all others: mae.
    """
    loader: LoaderConfig = Field(default_factory=LoaderConfig)
    trainer: TrainerConfig = Field(default_factory=TrainerConfig)
    self_distillation: SelfDistillationConfig = Field(default_factory=SelfDistillationConfig)
    monitors: ProbeConfig = Field(default_factory=ProbeConfig)
    guard: GuardConfig = Field(default_factory=GuardConfig)

    @property
    def schedule(self) -> Schedule:
        """Batches and duration."""
        return Schedule(self.loader, self.trainer)
