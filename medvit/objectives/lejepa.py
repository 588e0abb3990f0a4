"""LeJEPA (Balestriero and LeCun, 2025) in 2D and 3D: views predict the mean over views, and features remain Gaussian.

It uses one network, without a teacher, prototypes, temperatures or special schedules, and one weight between two
losses. Among the objectives for data sets of a few thousand images, it has the fewest options to tune.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from medvit.backbones import Backbone
from medvit.config import Count, Share
from medvit.distributed import exactly
from medvit.losses.gaussianity import draw_directions, sigreg
from medvit.objectives._view_agreement import AgreementConfig, ViewAgreement
from medvit.registry import register
from medvit.types import Losses, Views


@register
class LeJepaConfig(AgreementConfig):
    """Options of LeJEPA: views predict the mean of the global views, with features kept standard normal."""

    TRAINS_PATCHES: ClassVar[bool] = False
    TAKES_CHANNEL_TOKENS: ClassVar[bool] = True
    OPTIM: ClassVar[Mapping[str, object]] = {"lr": 2e-3, "scaling": "linear", "betas": (0.9, 0.999)}

    name: Literal["lejepa"] = "lejepa"
    gaussian_weight: Share = 0.02
    """Weight of the loss that keeps features normally distributed. The loss that predicts one view from another has the
    remaining weight (1 minus this one).
    """
    num_directions: Count = 256
    """Number of random directions along which features are compared with a normal distribution. New directions are
    drawn at each step.
    """

    def build(self, backbone: Backbone) -> LeJepa:
        """Return the objective for a backbone."""
        return LeJepa(backbone, self)


class LeJepa(ViewAgreement):
    """Backbone and a projector on its class token."""

    def __init__(self, backbone: Backbone, config: LeJepaConfig) -> None:
        super().__init__(backbone, config)
        self.config = config

    def forward(self, views: Views, progress: float) -> Losses:
        """Return the weighted loss terms `prediction` and `gaussianity`.

        The unweighted Gaussianity loss is logged as `sigreg`.
        """
        projected = self.project(views)
        directions = draw_directions(projected.shape[-1], self.config.num_directions, device=projected.device)
        spread = torch.stack([sigreg(view, directions) for view in projected]).mean()
        prediction = distance_to_mean(projected, num_global=len(views.crops))
        self._readings = {"sigreg": spread.detach()}
        weight = self.config.gaussian_weight
        return Losses({"prediction": (1.0 - weight) * prediction, "gaussianity": weight * spread})


def distance_to_mean(projected: Float[Tensor, "v b d"], *, num_global: int) -> Float[Tensor, ""]:
    """Return the mean squared distance of every view of an image to the mean of its global views, which come first."""
    with exactly(projected.device):
        values = projected.float()
        return (values - values[:num_global].mean(dim=0)).square().mean()
