"""Options of pretraining: what is learned from which images, and what the guard reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from medvit.dataset.slices import SlicesConfig
from medvit.objectives import ObjectiveChoice
from medvit.peft import OptionalPeftChoice
from medvit.training.guard import GuardConfig
from medvit.training.guard.probes import ProbeConfig
from medvit.training.options import TrainingOptions
from medvit.training.self_distillation import SelfDistillationConfig
from medvit.transforms.preprocess import Preprocess
from medvit.wsi.locations import MixedSlidesConfig


class PretrainingOptions(TrainingOptions):
    """Options of pretraining, without those that every stage has."""

    RENAMED: ClassVar[Mapping[str, str]] = {"further": "self_distillation"}

    dataset: Path
    """Dataset folder made by ingest; its training split is used. Labels and masks serve the guard's readings alone,
    but for objective=urfound, which learns from labels."""
    slices: SlicesConfig | None = None
    """Cuts volumes into slices, which are images of the training. Unset: volumes as they are."""
    slides: MixedSlidesConfig = Field(default_factory=MixedSlidesConfig)
    other_preprocess: Preprocess | None = None
    """Of an objective that learns from images and volumes: the preprocessing of the other kind; none fits it."""
    peft: OptionalPeftChoice = None
    """How the weights of the backbone may change. Unset: explora with initial weights, full from scratch."""
    objective: ObjectiveChoice = Field(default={"name": "mae"}, validate_default=True)
    """What it is trained for."""
    self_distillation: SelfDistillationConfig = Field(default_factory=SelfDistillationConfig)
    monitors: ProbeConfig = Field(default_factory=ProbeConfig)
    guard: GuardConfig = Field(default_factory=GuardConfig)
