"""DINOv2 (Oquab et al., TMLR 2024) in 2D and 3D: DINO on images, iBOT on masked patches, and a regularizer.

The gradient of the published regularizer, KoLeo, explodes on near duplicates, such as neighboring slices and
overlapping tiles. The default is therefore a kernel density (Zimmermann et al., 2024, Virchow2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from medvit.backbones import Backbone
from medvit.config import Amount, Positive
from medvit.losses.distillation import cross_view_loss, masked_patch_loss
from medvit.losses.feature_spread import coding_rate, kernel_density_loss, koleo_loss
from medvit.objectives._averages import PublishedAverage
from medvit.objectives._masked_distillation import MaskedConfig, MaskedDistillation, TeacherStudentTokens
from medvit.objectives._student_teacher import by_view
from medvit.objectives.dino import PrototypesConfig, balanced_targets
from medvit.registry import register
from medvit.types import Losses, Views

PUBLISHED_WEIGHTS = {"koleo": 0.1, "kde": 0.05, "coding_rate": 0.1, "off": 0.0}
"""Default weight of each regularizer: koleo as in DINOv2, kde as in Virchow2, coding_rate as chosen by medvit."""


@register
class DinoV2Config(MaskedConfig, PrototypesConfig):
    """Options of DINOv2: from local and masked global crops, the student predicts the teacher's output."""

    PUBLISHED_MOMENTUM: ClassVar[PublishedAverage] = PublishedAverage(0.992, step_images=2048)

    name: Literal["dinov2"] = "dinov2"
    teacher_temperature: Positive = 0.07
    """Softmax temperature of the teacher after the warm-up. A lower temperature than the student's sharpens the
    targets.
    """
    regularizer: Literal["kde", "koleo", "coding_rate", "off"] = "kde"
    """Regularizer that spreads the features of a batch. kde: kernel density estimate (Virchow2). koleo: as in the
    DINOv2 paper; its gradient explodes if a batch contains near duplicates. coding_rate: as in SimDINOv2. off: none.
    """
    regularizer_weight: Amount | None = None
    """Weight of the regularizer. Unset: 0.05 for kde, 0.1 for koleo and coding_rate."""
    kappa: Positive = Field(default=5.0)
    """Concentration of the kernel for regularizer=kde. A larger value gives a narrower kernel, so that only close
    features repel each other.
    """

    def build(self, backbone: Backbone) -> DinoV2:
        """Return the objective with new heads."""
        return DinoV2(backbone, self)


class DinoV2(MaskedDistillation):
    """DINOv2 losses over prototypes, with separate centers for images and patches."""

    def __init__(self, backbone: Backbone, config: DinoV2Config) -> None:
        heads = config.heads(backbone.width)
        super().__init__(backbone, config, heads)
        self.config = config
        self.center = config.center_of(heads["image"])
        self.patch_center = config.center_of(heads.get("patch", heads["image"]))

    def forward(self, views: Views, progress: float) -> Losses:
        """Return the loss terms `dino`, `ibot`, the regularizer and, once it is active, `gram`, in float32."""
        look = self.look(views, progress)
        config, num_images = self.config, look.num_images
        targets, patch_targets = self._targets(look, progress)
        self.read_targets(targets)
        image_logits, patch_logits = self._logits(self.student.heads, look.student_images, look.student_patches)
        images = by_view(image_logits, num_images)
        patches = masked_patch_loss(
            patch_logits,
            patch_targets,
            look.weights,
            num_crops=look.num_crops,
            temperature=config.student_temperature,
        )
        terms = {
            "dino": cross_view_loss(images, by_view(targets, num_images), config.student_temperature),
            "ibot": config.patch_weight * patches,
        }
        if config.regularizer != "off":
            terms[config.regularizer] = self._regularized(look)
        return Losses({**terms, **look.extra})

    def _logits(self, heads: nn.ModuleDict, images: Tensor, patches: Tensor) -> Sequence[Float[Tensor, "n k"]]:
        """Return the student's logits of images and of patches; a large shared head is applied to both at once."""
        if self.config.patch_head == "separate":
            return heads["image"](images), heads["patch"](patches)
        logits: Tensor = heads["image"](torch.cat([images, patches]))
        return logits.split([len(images), len(patches)])

    @torch.no_grad()
    def _targets(
        self, look: TeacherStudentTokens, progress: float
    ) -> tuple[Float[Tensor, "n k"], Float[Tensor, "m k"]]:
        """Return the teacher's probabilities of the global crops and of the masked patches."""
        learn = self.training
        images, patches = self._logits(self.teacher_heads, look.teacher_images, look.teacher_patches)
        return (
            balanced_targets(self.config, self.center, images, progress, learn=learn),
            balanced_targets(self.config, self.patch_center, patches, progress, learn=learn),
        )

    def _regularized(self, look: TeacherStudentTokens) -> Float[Tensor, ""]:
        """Return the regularizer, computed within each global view and summed over these views.

        Views are not mixed, because two crops of the same image should be similar.
        """
        name, given = self.config.regularizer, self.config.regularizer_weight
        weight = PUBLISHED_WEIGHTS[name] if given is None else given
        views = look.global_images
        if name == "coding_rate":
            unit = torch.nn.functional.normalize(views.float(), dim=-1)
            return -weight * coding_rate(unit)
        losses = [
            koleo_loss(view) if name == "koleo" else kernel_density_loss(view, kappa=self.config.kappa)
            for view in views
        ]
        return weight * torch.stack(losses).sum()
