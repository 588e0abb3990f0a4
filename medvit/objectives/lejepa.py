"""LeJEPA (Balestriero and LeCun, 2025), in 2D and 3D: views of an image predict their mean, features remain Gaussian.

One network without teacher, prototypes, temperatures or schedules of its own, and one weight between two losses. Of the
objectives that learn from a few thousand images, it has the fewest options to tune.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal, Self

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from medvit.backbones import Backbone
from medvit.config import Count, Share
from medvit.distributed import exactly
from medvit.losses.gaussianity import draw_directions, sigreg
from medvit.objectives import Objective, ObjectiveConfig
from medvit.objectives._projector import OFF, PROJECTOR, ProjectorConfig
from medvit.objectives._student_teacher import by_view, seen_of
from medvit.registry import register
from medvit.transforms.views import MultiCropConfig
from medvit.types import Losses, Views


@register
class LeJepaConfig(ObjectiveConfig):
    """Options of LeJEPA: views predict the mean of the global views, with features kept standard normal."""

    OPTIM: ClassVar[Mapping[str, object]] = {"lr": 2e-3, "scaling": "linear", "betas": (0.9, 0.999)}

    name: Literal["lejepa"] = "lejepa"
    projector: ProjectorConfig = Field(default_factory=ProjectorConfig)
    gaussian_weight: Share = 0.02
    """Weight of the distance of features from a normal distribution; the prediction of views has the rest."""
    num_directions: Count = 256
    """Random directions along which features are compared with a normal distribution, redrawn at each step."""
    views: MultiCropConfig = Field(default_factory=lambda: MultiCropConfig(scale=(0.3, 1.0), num_local=6))

    @property
    def has_new_head(self) -> bool:
        """Whether the projector starts at random."""
        return self.projector.weights in (None, OFF)

    def continued(self, folder: Path) -> Self:
        """Return the same objective with the projector of a checkpoint, if it has one."""
        return self.model_copy(update={"projector": self.projector.kept_in(folder)})

    def build(self, backbone: Backbone) -> LeJepa:
        """Return the objective around a backbone."""
        return LeJepa(backbone, self)


class LeJepa(Objective):
    """Backbone and a projector on its class token."""

    def __init__(self, backbone: Backbone, config: LeJepaConfig) -> None:
        super().__init__()
        self.backbone, self.views, self.config = backbone, config.views, config
        self.projector = config.projector.build(backbone.width)
        self._readings: dict[str, Tensor] = {}

    def forward(self, views: Views, progress: float) -> Losses:
        """Return the terms `prediction` and `gaussianity`, weighted."""
        num_images = views.crops.shape[1]
        sizes = [views.crops] if views.local is None else [views.crops, views.local]
        tokens = torch.cat([seen_of(self.backbone, crops.flatten(0, 1))[0] for crops in sizes])
        projected = by_view(self.projector(tokens), num_images)
        directions = draw_directions(projected.shape[-1], self.config.num_directions, device=projected.device)
        spread = torch.stack([sigreg(view, directions) for view in projected]).mean()
        prediction = distance_to_mean(projected, num_global=len(views.crops))
        self._readings = {"sigreg": spread.detach()}
        weight = self.config.gaussian_weight
        return Losses({"prediction": (1.0 - weight) * prediction, "gaussianity": weight * spread})

    def readings(self) -> Mapping[str, Tensor]:
        """Return `sigreg`, the unweighted distance of features from a normal distribution."""
        return self._readings

    def kept(self) -> Mapping[str, Mapping[str, Tensor]]:
        """Return the projector, for continued training."""
        return {PROJECTOR: self.projector.state_dict()}


def distance_to_mean(projected: Float[Tensor, "v b d"], *, num_global: int) -> Float[Tensor, ""]:
    """Return the mean squared distance of every view of an image to the mean of its first, global views."""
    with exactly(projected.device):
        values = projected.float()
        return (values - values[:num_global].mean(dim=0)).square().mean()
