"""DINO: self-distillation without labels (Caron et al., ICCV 2021), in 2D and 3D.

The teacher sees the two global crops of an image; from each of the other crops, the student predicts the teacher's
output.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import ClassVar, Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor

from medvit.backbones import Backbone
from medvit.config import Count, Positive, Share
from medvit.losses.distillation import Center, cross_view_loss, sinkhorn_knopp
from medvit.objectives._averages import PublishedAverage, described
from medvit.objectives._projection import Projection
from medvit.objectives._schedules import warmed
from medvit.objectives._student_teacher import Distillation, DistillationConfig, by_view, seen_of
from medvit.registry import register
from medvit.types import Losses, RunLength, Views

log = logging.getLogger("medvit")

CENTER_MOMENTUM = 0.9
"""Momentum of the center in DINO and DINOv2."""


class PrototypesConfig(DistillationConfig):
    """Options of teachers that output probabilities over prototypes."""

    student_temperature: Positive = 0.1
    """Softmax temperature of the student."""
    teacher_temperature: Positive = 0.04
    """Softmax temperature of the teacher after the warm-up. A lower temperature than the student's sharpens the
    targets.
    """
    teacher_temperature_start: Positive = 0.04
    """Softmax temperature of the teacher at the start of the training run."""
    temperature_warmup: Share = 0.3
    """Fraction of the training run, at its start, in which the teacher's temperature changes linearly (warm-up)."""
    centering: Literal["centering", "sinkhorn"] = "centering"
    """Method that prevents collapse to one prototype: centering by a running mean, or balancing each batch
    (Sinkhorn-Knopp).
    """
    center_momentum: Share | None = None
    """Momentum of the running mean used for centering. Every batch updates the mean, even if a step accumulates several
    batches. Unset: 0.9, scaled to the batch size in the same way as `momentum`. The mean then covers at most a
    hundredth of the batches or 10 batches, whichever is more.
    """
    sinkhorn_iterations: Count = 3
    """Number of Sinkhorn-Knopp iterations."""

    def temperature(self, progress: float) -> float:
        """Return the teacher's temperature at a training progress in [0, 1]."""
        return warmed(self.teacher_temperature_start, self.teacher_temperature, self.temperature_warmup, progress)

    def fitted(self, length: RunLength) -> Self:
        """Return the options with the prototypes, and the momentum of teacher and center, that suit a training run."""
        found = super().fitted(length)
        if self.center_momentum is not None:
            return found
        momentum = PublishedAverage(CENTER_MOMENTUM, self.PUBLISHED_MOMENTUM.step_images).for_center(length)
        if self.centering == "centering":
            images = length.in_batches.step_images
            log.info("Momentum of the center: %s", described(momentum, images, noun="batches"))
        return found.model_copy(update={"center_momentum": momentum})

    def center_of(self, head: Projection) -> Center:
        """Return the center of the teacher's logits over the prototypes of a head."""
        momentum = CENTER_MOMENTUM if self.center_momentum is None else self.center_momentum
        return Center(head.num_prototypes, momentum)


@register
class DinoConfig(PrototypesConfig):
    """Options of DINO: from a crop, the student predicts the teacher's output for another crop of the image."""

    TRAINS_PATCHES: ClassVar[bool] = False
    TAKES_CHANNEL_TOKENS: ClassVar[bool] = True
    OPTIM: ClassVar[Mapping[str, object]] = {
        "lr": 5e-4,
        "scaling": "linear",
        "weight_decay": 0.04,
        "weight_decay_end": 0.4,
        "betas": (0.9, 0.999),
    }

    name: Literal["dino"] = "dino"

    def build(self, backbone: Backbone) -> Dino:
        """Return the objective with new heads."""
        return Dino(backbone, self)


def balanced_targets(
    config: PrototypesConfig, center: Center, logits: Float[Tensor, "n k"], progress: float, *, learn: bool
) -> Float[Tensor, "n k"]:
    """Return the teacher's probabilities over prototypes, centered or balanced by Sinkhorn-Knopp.

    With centering and `learn`, the center is also updated with these logits.
    """
    temperature = config.temperature(progress)
    if config.centering == "sinkhorn":
        return sinkhorn_knopp(logits, temperature, iterations=config.sinkhorn_iterations)
    targets = center.targets(logits, temperature)
    if learn:
        center.follow(logits)
    return targets


class Dino(Distillation):
    """DINO with one head on the class token."""

    def __init__(self, backbone: Backbone, config: DinoConfig) -> None:
        head = config.head.build(backbone.width)
        super().__init__(backbone, config, {"image": head})
        self.config = config
        self.center = config.center_of(head)

    def forward(self, views: Views, progress: float) -> Losses:
        """Return the cross-entropy over all pairs of a global crop and another crop, in float32."""
        num_images = views.crops.shape[1]
        crops = views.crops.flatten(0, 1)
        with torch.no_grad():
            logits = self.teacher_heads["image"](seen_of(self.backbone, crops)[0])
            targets = balanced_targets(self.config, self.center, logits, progress, learn=self.training)
        self.read_targets(targets)
        student = self.student.heads["image"](self._summaries(views))
        loss = cross_view_loss(
            by_view(student, num_images), by_view(targets, num_images), self.config.student_temperature
        )
        return Losses({"dino": loss})

    def _summaries(self, views: Views) -> Float[Tensor, "n d"]:
        """Return the class tokens of all crops, view by view, global views first.

        Crops of equal size are processed together.
        """
        sizes = [views.crops] if views.local is None else [views.crops, views.local]
        return torch.cat([seen_of(self.student.backbone, crops.flatten(0, 1))[0] for crops in sizes])
