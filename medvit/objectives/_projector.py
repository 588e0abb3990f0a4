"""Projector with batch normalization, which maps a token to the embedding that is compared (LeJEPA, SwAV)."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medvit.config import Config, Count
from medvit.distributed import num_processes, summed, summed_with_gradient
from medvit.errors import CheckpointError, ConfigError
from medvit.weights import read_weights

log = logging.getLogger("medvit")

OFF = "off"
PROJECTOR = "projector.safetensors"
"""Checkpoint file with the projector, for continued training."""


class ProjectorConfig(Config):
    """Projector on top of the backbone; a checkpoint stores it for continued training."""

    hidden: Count = 2048
    """Width of the hidden layers of the projector."""
    layers: Count = 3
    """Number of linear layers of the projector, which maps image features to the space of the loss."""
    width: Count = 64
    """Output width of the projector."""
    weights: str | None = None
    """Checkpoint folder, made by pretrain, with the projector to start from. Unset: the projector stored in
    `checkpoint`, if any. off: a new projector.
    """

    def kept_in(self, folder: Path) -> ProjectorConfig:
        """Return the options with the projector that a checkpoint folder stores, and with its sizes.

        If the folder has no projector, the options are returned unchanged.

        Raises:
            ConfigError: If sizes in the options differ from those of the stored projector.
        """
        path = folder / PROJECTOR
        if self.weights is not None or not path.is_file():
            return self
        sizes = _sizes(read_weights(path))
        for key in sorted(self.model_fields_set & sizes.keys()):
            if getattr(self, key) != sizes[key]:
                raise ConfigError(
                    f"objective.projector.{key} is {getattr(self, key)}; the projector kept in {folder} has "
                    f"{sizes[key]}: leave it unset to continue with that projector, or set "
                    "objective.projector.weights=off for a new one"
                )
        log.info("the projector is loaded from %s", folder)
        return self.model_copy(update={**sizes, "weights": str(folder)})

    def build(self, width: int) -> Projector:
        """Return the projector for a backbone of the given width, with stored weights if the options name some.

        Raises:
            CheckpointError: If the stored weights do not match these options.
        """
        projector = Projector([width, *[self.hidden] * (self.layers - 1), self.width])
        if self.weights not in (None, OFF):
            path = Path(str(self.weights)) / PROJECTOR
            try:
                projector.load_state_dict(read_weights(path))
            except RuntimeError as error:
                last = str(error).splitlines()[-1].strip()
                raise CheckpointError(f"{path} does not contain a projector with these options: {last}") from None
        return projector


def _sizes(state: Mapping[str, Tensor]) -> dict[str, int]:
    shapes = [weight.shape for name, weight in state.items() if name.endswith("weight") and weight.ndim == 2]
    hidden = {"hidden": int(shapes[0][0])} if len(shapes) > 1 else {}
    return {"layers": len(shapes), "width": int(shapes[-1][0]), **hidden}


class JointBatchNorm(nn.BatchNorm1d):
    """Batch normalization with statistics over the batches of all processes.

    torch's SyncBatchNorm is not used, because it runs only on GPUs.
    """

    def forward(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Normalize each feature: over the joint batch in training, by running averages in evaluation."""
        if not self.training or num_processes() == 1:
            normalized: Tensor = super().forward(features)
            return normalized
        values = features.float()
        count = summed(torch.tensor(float(len(values)), device=values.device))
        mean = summed_with_gradient(values.sum(dim=0)) / count
        variance = summed_with_gradient((values - mean).square().sum(dim=0)) / count
        self._follow(mean.detach(), variance.detach() * count / (count - 1.0))
        found = (values - mean) * (variance + self.eps).rsqrt() * self.weight + self.bias
        return found.to(features.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
        self.num_batches_tracked += 1


class Projector(nn.Sequential):
    """Linear layers with batch normalization and ReLU between them."""

    def __init__(self, widths: list[int]) -> None:
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), JointBatchNorm(after), nn.ReLU()]
        super().__init__(*layers[:-2])
