"""SwAV (Caron et al., NeurIPS 2020) in 2D and 3D: crops predict one another's assignment to prototypes.

It uses one network without a teacher. Sinkhorn-Knopp balances the assignments (codes) of the global crops: over the
batch and a queue of earlier features, all prototypes are used about equally. The codes of a crop are predicted from all
other crops of the image.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal, Self

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from medvit.backbones import Backbone
from medvit.config import Count, Positive, Share
from medvit.distributed import gathered_with_gradient, num_processes, process
from medvit.errors import ConfigError
from medvit.losses.distillation import cross_view_loss, relative_entropy, sinkhorn_knopp
from medvit.objectives._projector import ProjectorConfig
from medvit.objectives._prototypes import fitting_prototypes
from medvit.objectives._view_agreement import AgreementConfig, ViewAgreement
from medvit.registry import register
from medvit.types import Losses, RunLength, Views
from medvit.weights import read_weights

log = logging.getLogger("medvit")

PROTOTYPES = "prototypes.safetensors"
"""Checkpoint file with the prototypes, for continued training."""
PUBLISHED_PROTOTYPES = 3000
"""Number of prototypes of an objective that is built without a training run (Caron et al., NeurIPS 2020)."""


class SwavProjectorConfig(ProjectorConfig):
    """Projector of SwAV: two layers, 128 wide."""

    layers: Count = 2
    width: Count = 128


@register
class SwavConfig(AgreementConfig):
    """Options of SwAV: crops predict each other's assignment to prototypes."""

    TRAINS_PATCHES: ClassVar[bool] = False
    TAKES_CHANNEL_TOKENS: ClassVar[bool] = True
    OPTIM: ClassVar[Mapping[str, object]] = {"lr": 1e-3, "betas": (0.9, 0.999)}

    name: Literal["swav"] = "swav"
    projector: SwavProjectorConfig = Field(default_factory=SwavProjectorConfig)
    prototypes: int | None = Field(default=None, ge=2)
    """Number of prototypes. Unset: that of the checkpoint to continue from, or 4096 (N / 1000)^0.3 for N training
    images (each slice or tile counts as one image), to the nearest power of two from 256 to 65536. The computed number
    is at most the number of images that are balanced together: those in the batches of all devices and in the queue.
    """
    temperature: Positive = 0.1
    """Softmax temperature of the predicted assignment to prototypes."""
    epsilon: Positive = 0.05
    """Temperature of the target assignment. The smaller it is, the closer each assignment is to a single prototype."""
    sinkhorn_iterations: Count = 3
    """Number of Sinkhorn-Knopp iterations."""
    queue: int = Field(default=2048, ge=0)
    """Number of earlier images whose features are balanced together with each batch. Usual values are 10 to 30 times
    the batch size. Set 0 if a batch has more images than there are prototypes.
    """
    queue_from: Share = 0.15
    """Fraction of the training run after which the queue is used. At first, features change too quickly for a queue."""
    freeze_prototypes: Share = 0.01
    """Fraction of the training run, at its start, in which the prototypes are frozen."""

    def continued(self, folder: Path) -> Self:
        """Return the same objective with the projector and the prototypes of a checkpoint, if it has them.

        Raises:
            ConfigError: If sizes in the options differ from those in the checkpoint.
        """
        return super().continued(folder)._with_stored_number()

    def fitted(self, length: RunLength) -> Self:
        """Return the options with the number of prototypes that suits a training run.

        Raises:
            ConfigError: If there is only one image to balance.
        """
        found = self._with_stored_number()
        if found.prototypes is not None:
            return found
        # Every batch is balanced for itself, also if a step accumulates several.
        together = self.queue + length.in_batches.step_images
        if together < 2:
            raise ConfigError(
                "objective=swav balances the images of a batch and of the queue, and there is only one; raise "
                "loader.batch_size or objective.queue"
            )
        number = min(fitting_prototypes(length.num_images), 2 ** int(math.log2(together)))
        log.info("Prototypes: %d, for %d training images", number, length.num_images)
        return self.model_copy(update={"prototypes": number})

    def stored_prototypes(self) -> Tensor | None:
        """Return the prototypes (K, D) in the checkpoint of the projector, if it has any."""
        path = Path(str(self.projector.weights)) / PROTOTYPES
        return read_weights(path)["prototypes"] if path.is_file() else None

    def _with_stored_number(self) -> Self:
        stored = self.stored_prototypes()
        if stored is None:
            return self
        if self.prototypes not in (None, len(stored)):
            raise ConfigError(
                f"objective.prototypes is {self.prototypes}; the checkpoint {self.projector.weights} has "
                f"{len(stored)}: leave it unset to continue with those, or set objective.projector.weights=off for new "
                "ones"
            )
        return self.model_copy(update={"prototypes": len(stored)})

    def build(self, backbone: Backbone) -> Swav:
        """Return the objective for a backbone."""
        return Swav(backbone, self)


class Swav(ViewAgreement):
    """Backbone, a projector on its class token and prototypes of unit norm."""

    queue: Tensor
    """Unit-norm features (2, Q, D) of the two global crops of the last images of all processes, the latest first."""
    num_queued: Tensor
    """Number of filled entries of the queue."""

    def __init__(self, backbone: Backbone, config: SwavConfig) -> None:
        super().__init__(backbone, config)
        self.config = config
        width = config.projector.width
        prototypes = config.stored_prototypes()
        if prototypes is None:
            prototypes = F.normalize(torch.randn(config.prototypes or PUBLISHED_PROTOTYPES, width), dim=1)
        self.prototypes = nn.Parameter(prototypes)
        self.register_buffer("queue", torch.zeros(2, config.queue, width))
        self.register_buffer("num_queued", torch.zeros((), dtype=torch.long))

    def forward(self, views: Views, progress: float) -> Losses:
        """Return the cross-entropy between the codes of each global crop and their prediction from every other crop.

        The entropy of the codes is logged as `code_entropy`, a fraction of its maximum.
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

    def kept(self) -> Mapping[str, Mapping[str, Tensor]]:
        """Return the projector and the prototypes, for continued training."""
        return {**super().kept(), PROTOTYPES: {"prototypes": self.prototypes.detach()}}

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
