"""AdamW with warm-up, a schedule and layer-wise rates; no weight decay on biases, norms and tokens."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal, Self

from pydantic import Field
from torch import nn
from torch.optim import AdamW

from medvit.config import Amount, Config, Positive, Share


class OptimConfig(Config):
    """Optimizer options."""

    lr: Positive = 3e-4
    """Peak learning rate."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Schedule after the warm-up: cosine to min_lr, or constant, for continuing with a small rate."""
    scaling: Literal["off", "linear", "sqrt"] = "off"
    """Scaling of the rate with images per step, over all devices: linear by B / 256 (DINO, MAE), sqrt by the root of B
    / 1024 (DINOv2).
    """
    min_lr: Amount = 1e-6
    """Learning rate at the end of the cosine."""
    warmup: Share = 0.1
    """Share of the steps in which the rate rises to its peak."""
    freeze: Share = 0.0
    """Share of the steps in which the backbone is frozen and only randomly initialized heads and decoders are trained.
    """
    ramp: Share = 0.0
    """Share of the steps, after `freeze`, in which the rate of the backbone rises from zero to its own."""
    weight_decay: Amount = 0.05
    """Decoupled weight decay, of matrices only."""
    weight_decay_end: Amount | None = None
    """Weight decay at the end, reached along a cosine. Unset: constant."""
    betas: tuple[Share, Share] = (0.9, 0.95)
    """Betas of AdamW."""
    layer_decay: float = Field(default=1.0, gt=0.0, le=1.0)
    """Learning-rate factor from each backbone block to the block below it; 1 gives all blocks the same rate."""
    patch_embed_scale: Positive = 1.0
    """Factor of the learning rate of the patch embedding: 0.2 in DINOv2."""
    clip: Positive = 3.0
    """Largest norm of the gradient of each part of an objective, such as the backbone and a head."""

    def for_batch(self, num_images: int) -> Self:
        """Return the same options with the rates for a step of this many images."""
        factor = {"off": 1.0, "linear": num_images / 256, "sqrt": math.sqrt(num_images / 1024)}[self.scaling]
        return self.model_copy(update={"lr": self.lr * factor, "scaling": "off"})

    def decay(self, progress: float) -> float:
        """Return the weight decay of matrices at a share of the training."""
        end = self.weight_decay if self.weight_decay_end is None else self.weight_decay_end
        return end + (self.weight_decay - end) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))

    def rate(self, progress: float) -> float:
        """Return the learning rate at a share of the training."""
        if progress < self.warmup:
            return self.lr * progress / self.warmup
        if self.schedule == "constant":
            return self.lr
        share = (progress - self.warmup) / max(1e-9, 1.0 - self.warmup)
        return self.min_lr + (self.lr - self.min_lr) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))

    def backbone_share(self, progress: float) -> float:
        """Return the factor of the backbone's learning rate at a share of the training: zero at first, then a ramp."""
        if progress <= self.freeze:
            return 0.0
        return min(1.0, (progress - self.freeze) / self.ramp) if self.ramp else 1.0

    def build(self, module: nn.Module, depth: int) -> AdamW:
        """Return the optimizer of all trainable weights of a module; its backbone, if any, is `module.backbone`."""
        return AdamW(self.groups(module.named_parameters(), depth), lr=self.lr, betas=self.betas)

    def groups(self, named: Iterable[tuple[str, nn.Parameter]], depth: int) -> list[dict[str, Any]]:
        """Return parameter groups by layer, by weight decay and by side; `scale` multiplies the learning rate."""
        groups: dict[tuple[float, bool, bool], list[nn.Parameter]] = {}
        for name, weight in named:
            if weight.requires_grad:
                scale = self.layer_decay ** (depth + 1 - layer_of(name, depth))
                scale *= self.patch_embed_scale if ".patch_embed." in name else 1.0
                decays = weight.ndim > 1 and not _is_token(name)
                groups.setdefault((scale, decays, is_of_backbone(name)), []).append(weight)
        return [
            {
                "params": weights,
                "weight_decay": self.weight_decay if decays else 0.0,
                "scale": scale,
                "decays": decays,
                "of_backbone": of_backbone,
            }
            for (scale, decays, of_backbone), weights in groups.items()
        ]


def layer_of(name: str, depth: int) -> int:
    """Layer number: 0 for the embedding, 1 to `depth` for the blocks, then `depth` + 1 (Xiao et al., WACV 2023)."""
    if not is_of_backbone(name):
        return depth + 1
    if ".blocks." in name:
        return int(name.split(".blocks.")[1].split(".")[0]) + 1
    return depth + 1 if ".norm." in name else 0


def is_of_backbone(name: str) -> bool:
    """Whether a parameter of a module belongs to its backbone rather than a head or decoder."""
    return "backbone." in name


def _is_token(name: str) -> bool:
    return name.rpartition(".")[2] in ("cls_token", "reg_token", "pos_embed", "mask_token")
