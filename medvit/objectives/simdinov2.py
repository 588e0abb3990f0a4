"""SimDINOv2 (Wu et al., ICML 2025), in 2D and 3D: DINOv2 without prototypes, centers and temperatures.

Student and teacher embeddings are aligned by their cosine similarity, and a coding rate prevents collapse. SimDINOv2
has fewer options to tune than DINOv2, and it lacks the large head. It therefore suits small batches of private images.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch.nn import functional as F

from medvit.backbones import Backbone
from medvit.config import Positive
from medvit.losses.distillation import alignment, masked_patch_alignment
from medvit.losses.feature_spread import coding_rate
from medvit.objectives._averages import PublishedAverage
from medvit.objectives._masked_distillation import MaskedConfig, MaskedDistillation
from medvit.objectives._student_teacher import by_view
from medvit.registry import register
from medvit.types import Losses, Views


@register
class SimDinoV2Config(MaskedConfig):
    """Options of SimDINOv2: embeddings of images and masked patches agree, and are spread over the embedding space."""

    HAS_PROTOTYPES: ClassVar[bool] = False
    PUBLISHED_MOMENTUM: ClassVar[PublishedAverage] = PublishedAverage(0.9, step_images=512)

    name: Literal["simdinov2"] = "simdinov2"
    alignment_weight: Positive = 1.0
    """Weight of the cosine loss between the image embeddings of student and teacher."""
    epsilon: Positive = 0.05
    """Precision of the coding rate. A smaller value separates features at a finer scale."""
    expansion: Literal["student", "mean"] = Field(default="mean")
    """Embeddings of the global crops that the coding rate spreads. student: the embeddings of the student. mean: the
    mean of the embeddings of student and teacher.
    """

    def build(self, backbone: Backbone) -> SimDinoV2:
        """Return the objective with a new head."""
        return SimDinoV2(backbone, self)


class SimDinoV2(MaskedDistillation):
    """SimDINOv2 losses: cosine similarities and a coding rate."""

    def __init__(self, backbone: Backbone, config: SimDinoV2Config) -> None:
        super().__init__(backbone, config, config.heads(backbone.width))
        self.config = config

    def forward(self, views: Views, progress: float) -> Losses:
        """Return the loss terms `alignment`, `spread` and `patches`, which fall below zero if training succeeds.

        The term `gram` is added once it is active.
        """
        look, config = self.look(views, progress), self.config
        patch_head = "patch" if config.patch_head == "separate" else "image"
        with torch.no_grad():
            taught = by_view(self.teacher_heads["image"](look.teacher_images), look.num_images)
            taught_patches = self.teacher_heads[patch_head](look.teacher_patches)
        images = by_view(self.student.heads["image"](look.student_images), look.num_images)
        patches = self.student.heads[patch_head](look.student_patches)
        spread = images[: len(taught)]
        if config.expansion == "mean":
            spread = (spread + taught) / 2
        agreement = masked_patch_alignment(patches, taught_patches, look.weights, num_crops=look.num_crops)
        with torch.no_grad():
            self._readings = {"agreement": F.cosine_similarity(images[0].float(), taught[-1].float(), dim=-1).mean()}
        terms = {
            "alignment": -config.alignment_weight * alignment(images, taught),
            "spread": -coding_rate(spread, epsilon=config.epsilon),
            "patches": -config.patch_weight * agreement,
        }
        return Losses({**terms, **look.extra})
