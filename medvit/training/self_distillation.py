"""Self-distillation for continued pretraining: a second run from the same initial weights is kept close to the first.

Continued pretraining of a transformer on few images overfits (Lee et al., ICLR 2023). Pretraining therefore runs twice
from the same initial weights: the first run produces the teacher, and the second run adds the distance to the hidden
representations of the teacher to its loss.
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from medvit.artifacts import Checkpoint
from medvit.backbones import Backbone
from medvit.config import Config, Positive
from medvit.errors import ConfigError
from medvit.training.initialization import backbone_of
from medvit.types import Views


class SelfDistillationConfig(Config):
    """Self-distillation: a second run from the same initial weights, with the model of the first run as teacher."""

    teacher: Path | None = None
    """Checkpoint of the first pretraining run on the same images, which becomes the teacher. Unset: no
    self-distillation.
    """
    weight: Positive = 1.0
    """Weight of the loss between the tokens of student and teacher, relative to the loss of the objective."""


class SelfDistillation:
    """Frozen teacher whose features the student is kept close to.

    The teacher is not a submodule, so it is absent from optimizers and checkpoints.
    """

    def __init__(self, checkpoint: Checkpoint, weight: float, student: Backbone) -> None:
        self.teacher = backbone_of(checkpoint)[1].eval().requires_grad_(False)
        self.weight = weight
        sizes = [(model.width, model.num_prefix_tokens, model.patch_size) for model in (self.teacher, student)]
        if sizes[0] != sizes[1]:
            raise ConfigError(
                f"{checkpoint.folder}: the teacher has tokens of another shape than the backbone; start both runs with "
                "the same backbone options"
            )

    def distance(self, student: Backbone, views: Views) -> Float[Tensor, ""]:
        """Return the distance of student and teacher for the first view, times the weight of this term.

        The distance is the mean squared difference of their tokens after the last block.
        """
        pixels = views.crops[0]
        with torch.no_grad():
            there = self.teacher.to(pixels.device)(pixels)
        here = student(pixels)
        pairs = ((here.prefix, there.prefix), (here.patches, there.patches))
        ours, theirs = (torch.cat(parts, dim=1).float() for parts in zip(*pairs, strict=True))
        return self.weight * (ours - theirs).square().mean()
