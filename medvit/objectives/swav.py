"""SwAV (Caron et al., NeurIPS 2020) in 2D and 3D: crops predict one another's assignment to prototypes.

It uses one network without a teacher. Sinkhorn-Knopp balances the assignments (codes) of the global crops: over the
batch and a queue of earlier features, all prototypes are used about equally. The codes of a crop are predicted from all
other crops of the image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from medvit.backbones import Backbone
from medvit.config import Count, Positive, Share
from medvit.distributed import gathered_with_gradient, num_processes, process
from medvit.losses.distillation import cross_view_loss, relative_entropy, sinkhorn_knopp
from medvit.objectives._projector import ProjectorConfig
from medvit.objectives._view_agreement import AgreementConfig, ViewAgreement
from medvit.registry import register
from medvit.types import Losses, Views


class SwavProjectorConfig(ProjectorConfig):
    """Projector of SwAV: two layers, 128 wide."""

    layers: Count = 2
    width: Count = 128


@register
class SwavConfig(AgreementConfig):
    """Options of SwAV: crops predict each other's assignment to prototypes."""

    OPTIM: ClassVar[Mapping[str, object]] = {"lr": 1e-3, "betas": (0.9, 0.999)}

    name: Literal["swav"] = "swav"
    projector: SwavProjectorConfig = Field(default_factory=SwavProjectorConfig)
    prototypes: int = Field(default=512, ge=2)
    """Number of prototypes, such as 300 for thousands of images and 3,000 for millions."""
    temperature: Positive = 0.1
    """Softmax temperature of the predicted assignment to prototypes."""
    epsilon: Positive = 0.05
    """Temperature of the target assignment. The smaller it is, the closer each assignment is to a single prototype."""
    sinkhorn_iterations: Count = 3
    """Number of Sinkhorn-Knopp iterations."""
    queue: int = Field(default=2048, ge=0)
    """Number of earlier images whose features are balanced together with each batch. Usual values are 10 to 30 times
    the batch size. Set 0 if a step has more images than there are prototypes.
    """
    queue_from: Share = 0.15
    """Fraction of the training run after which the queue is used. At first, features change too quickly for a queue."""
    freeze_prototypes: Share = 0.01
    """Fraction of the training run, at its start, in which the prototypes are frozen."""

    def build(self, backbone: Backbone) -> Swav:
        """Return the objective for a backbone."""
        return Swav(backbone, self)


class Swav(ViewAgreement):
    """Backbone, a projector on its class token and prototypes of unit norm."""

    queue: Tensor
    """Unit-norm features (2, Q, D) of the two global crops of the last images of all processes, the latest first."""
    num_queued: Tensor
    """Number of filled entries."""

    def __init__(self, backbone: Backbone, config: SwavConfig) -> None:
        super().__init__(backbone, config)
        self.config = config
        width = config.projector.width
        self.prototypes = nn.Parameter(F.normalize(torch.randn(config.prototypes, width), dim=1))
        self.register_buffer("queue", torch.zeros(2, config.queue, width))
        self.register_buffer("num_queued", torch.zeros((), dtype=torch.long))

    def forward(self, views: Views, progress: float) -> Losses:
        """Return the cross-entropy between the codes of each global crop and their prediction from every other crop.

        The reading `code_entropy` is a fraction of its maximum.
        """
        features = F.normalize(self.project(views).float(), dim=-1)
        cosines = features @ F.normalize(self.prototypes.float(), dim=1).T
        given = features[: len(views.crops)].detach()
        codes = self.codes(given, progress)
        if self.training:
            self._enqueue(given)
        self._readings = {"code_entropy": relative_entropy(codes.flatten(0, 1))}
        return Losses({"swav": cross_view_loss(cosines, codes, self.config.temperature)})

    @torch.no_grad()
    def codes(self, features: Float[Tensor, "v b d"], progress: float) -> Float[Tensor, "v b k"]:
        """Return the balanced assignment of the features of each global crop to prototypes; every row sums to 1."""
        prototypes = F.normalize(self.prototypes.float(), dim=1)
        num_earlier = int(self.num_queued) if progress >= self.config.queue_from else 0
        # Every process has the whole queue and balances its share of it, so that each feature counts once.
        earlier = self.queue[:, process() : num_earlier : num_processes()]
        balanced = [
            sinkhorn_knopp(
                torch.cat([own, queued]) @ prototypes.T, self.config.epsilon, iterations=self.config.sinkhorn_iterations
            )
            for own, queued in zip(features, earlier, strict=True)
        ]
        return torch.stack([rows[: features.shape[1]] for rows in balanced])

    def before_step(self, progress: float) -> None:
        """Drop the gradient of the prototypes while they are frozen."""
        if progress < self.config.freeze_prototypes:
            self.prototypes.grad = None

    @torch.no_grad()
    def _enqueue(self, features: Float[Tensor, "v b d"]) -> None:
        latest = torch.stack([gathered_with_gradient(view) for view in features])
        queue = torch.cat([latest, self.queue], dim=1)[:, : self.config.queue]
        self.queue.copy_(queue)
        self.num_queued.add_(latest.shape[1]).clamp_(max=self.config.queue)
