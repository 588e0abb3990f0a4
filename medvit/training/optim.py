"""AdamW with warm-up, a schedule and layer-wise rates; biases, norms and tokens are not decayed."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal, Self

from pydantic import Field
from torch import nn
from torch.optim import AdamW

from medvit.backbones import Backbone
from medvit.config import Amount, Config, Positive, Share

log = logging.getLogger("medvit")

ADAPTERS = (
    "lora_",
    "ia3_",
    "vera_",
    "selection_score",
    ".adapter.",
    ".prompts",
    ".sparse_update",
    ".layer_update",
    ".layer_score",
)
"""Parts of the names of adapter weights, which are new and not pretrained."""
LORA_B = re.compile(r"\.lora_B\.\w+\.weight$")
"""Pattern of the names of LoRA's second factors, which are zero at the start. It does not match AdaLoRA's factors."""
UNDECAYED = ("cls_token", "reg_token", "pos_embed", "mask_token", "prompts", "relative_position_bias_table")
"""Names of tokens and positions, which have no weight decay."""
CONTINUED: Mapping[str, object] = {
    "lr": 2e-4,
    "schedule": "constant",
    "scaling": "off",
    "warmup": 0.05,
    "layer_decay": 1.0,
    "weight_decay_end": None,
    "patch_embed_scale": 1.0,
}
"""Optimizer options for continued pretraining by any objective: a small constant learning rate."""
WHOLE_WEIGHTS = 0.15
"""Default `pretrained_scale` in continued pretraining: whole blocks and norms have a learning rate of 3e-5, LoRA
factors and heads 2e-4.
"""
HEADS_FIRST = 0.05
"""Default `freeze` in continued pretraining with randomly initialized heads or decoder."""
FULL_LAYER_DECAY = 0.7
"""Default `layer_decay` in full fine-tuning of public weights (.65 to .75: Bao et al., ICLR 2022; He et al., CVPR
2022).

It is not used for checkpoints of medvit: with it, a ViT-tiny pretrained by 400 steps of MAE did not learn the demo's
radiographs (validation AUROC .49; with equal learning rates .95).
"""
SCALES = ("pretrained_scale", "layer_decay")
"""Options that lower the learning rate of some weights: no values are proposed for them if `lr` is given."""


class OptimOptions(Config):
    """Optimizer. The defaults depend on the objective and on the initial weights."""

    lr: Positive | None = None
    """Peak learning rate. Unset: 2e-4 for continued pretraining, 3e-4 for fine-tuning, or the rate that the objective
    proposes for pretraining from scratch.
    """
    schedule: Literal["cosine", "constant"] | None = None
    """Learning-rate schedule after the warm-up: constant, or cosine, which falls to min_lr. Unset: constant for
    continued pretraining, else cosine.
    """
    scaling: Literal["off", "linear", "sqrt"] | None = None
    """Scaling of the learning rate with B, the number of images per step on all devices. linear: by B / 256, as in DINO
    and MAE. sqrt: by the square root of B / 1024, as in DINOv2. Unset: the objective's scaling for pretraining from
    scratch, else off.
    """
    min_lr: Amount | None = None
    """Learning rate at the end of the cosine schedule. Unset: 1e-6."""
    warmup: Share | None = None
    """Fraction of the steps in which the learning rate rises to its peak. Unset: 0.05 for continued pretraining, else
    0.1.
    """
    freeze: Share | None = None
    """Fraction of the steps, at the start, in which the backbone is frozen and only new heads and decoders are trained.
    Unset: 0.05 for continued pretraining with a new head or decoder, else 0.
    """
    ramp: Share | None = None
    """Fraction of the steps, after `freeze`, in which the learning rate of the backbone rises from zero to its full
    value. Unset: 0.
    """
    pretrained_scale: Positive | None = None
    """Multiplier of the learning rate for pretrained weights. Adapters, and weights that a public file lacks, keep
    the full rate. Unset: 0.15 for continued pretraining if `lr` is unset too, else 1.
    """
    weight_decay: Amount | None = None
    """Decoupled weight decay of weight matrices; biases and norms have none. Unset: the value that the objective
    proposes, or 0.05 for fine-tuning.
    """
    weight_decay_end: Amount | None = None
    """Weight decay at the end of the run, reached along a cosine schedule. Unset: for pretraining from scratch, the
    value that the objective proposes; in all other cases, the weight decay is constant.
    """
    betas: tuple[Share, Share] | None = None
    """Betas of AdamW. Unset: the values that the objective proposes, or (0.9, 0.95) for fine-tuning."""
    layer_decay: float | None = Field(default=None, gt=0.0, le=1.0)
    """Factor by which the learning rate falls from each backbone block to the block below it. Adapters, and weights
    that a public file lacks, have the rate of the head. Unset: 0.7 for full fine-tuning of public weights
    (backbone.weights) with lr unset, else 1 (equal rates).
    """
    patch_embed_scale: Positive | None = None
    """Learning-rate factor of the patch embedding. Unset: the objective's value for pretraining from scratch (0.2 in
    DINOv2), else 1.
    """
    lora_b_scale: Positive | None = None
    """Learning-rate factor of the factors B of LoRA, which are zero at the start (LoRA+: Hayou et al., ICML 2024). The
    paper recommends 16, with a lower lr. adalora, whose factors are both random at the start, ignores this option.
    Unset: 1.
    """
    clip: Positive | None = None
    """Maximum gradient norm, applied separately to each part of an objective, such as the backbone and a head. Unset:
    3.
    """

    def over(self, proposed: Mapping[str, object]) -> OptimConfig:
        """Return complete optimizer options.

        A given option comes first, then the proposed one, then the default. If a learning rate is given, proposed
        factors for single parts of the model do not apply.
        """
        given = self.model_dump(exclude_none=True)
        # A given rate applies to all weights, unless their own factor is given too.
        kept = {key: value for key, value in proposed.items() if key not in SCALES or "lr" not in given}
        return OptimConfig.parse({**kept, **given})


class OptimConfig(OptimOptions):
    """Resolved optimizer options."""

    lr: Positive = 3e-4
    schedule: Literal["cosine", "constant"] = "cosine"
    scaling: Literal["off", "linear", "sqrt"] = "off"
    min_lr: Amount = 1e-6
    warmup: Share = 0.1
    freeze: Share = 0.0
    ramp: Share = 0.0
    pretrained_scale: Positive = 1.0
    weight_decay: Amount = 0.05
    betas: tuple[Share, Share] = (0.9, 0.95)
    layer_decay: float = Field(default=1.0, gt=0.0, le=1.0)
    patch_embed_scale: Positive = 1.0
    lora_b_scale: Positive = 1.0
    clip: Positive = 3.0

    def for_batch(self, num_images: int) -> Self:
        """Return the options with learning rates scaled to a step of `num_images` images, according to `scaling`."""
        factor = {"off": 1.0, "linear": num_images / 256, "sqrt": math.sqrt(num_images / 1024)}[self.scaling]
        return self.model_copy(update={"lr": self.lr * factor, "scaling": "off"})

    def decay(self, progress: float) -> float:
        """Return the weight decay of matrices at a training progress in [0, 1]."""
        end = self.weight_decay if self.weight_decay_end is None else self.weight_decay_end
        return end + (self.weight_decay - end) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))

    def rate(self, progress: float) -> float:
        """Return the learning rate at a training progress in [0, 1]."""
        if progress < self.warmup:
            return self.lr * progress / self.warmup
        if self.schedule == "constant":
            return self.lr
        share = (progress - self.warmup) / max(1e-9, 1.0 - self.warmup)
        return self.min_lr + (self.lr - self.min_lr) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))

    def backbone_share(self, progress: float) -> float:
        """Return the factor for the learning rate of the backbone at a training progress in [0, 1].

        It is 0 while the backbone is frozen, and then rises linearly to 1.
        """
        if progress <= self.freeze:
            return 0.0
        return min(1.0, (progress - self.freeze) / self.ramp) if self.ramp else 1.0

    def build(self, module: nn.Module, depth: int) -> AdamW:
        """Return the optimizer of all trainable weights of a module; its backbone, if any, is `module.backbone`."""
        if self.lora_b_scale != 1.0 and not any(LORA_B.search(name) for name, _ in module.named_parameters()):
            log.warning("optim.lora_b_scale=%g is ignored: no factor B of LoRA is trained", self.lora_b_scale)
        groups = self.groups(module.named_parameters(), depth, new=new_weights_of(module))
        return AdamW(groups, lr=self.lr, betas=self.betas)

    def groups(
        self, named: Iterable[tuple[str, nn.Parameter]], depth: int, *, new: Collection[str] = ()
    ) -> list[dict[str, Any]]:
        """Return the parameter groups of the optimizer.

        The weights of a group share three properties: the factor of the learning rate (entry `scale`), whether they
        decay (`decays`), and whether they belong to the backbone (`of_backbone`). The weights `new` of a pretrained
        backbone are randomly initialized; they have the rate of the head.
        """
        groups: dict[tuple[float, bool, bool], list[nn.Parameter]] = {}
        for name, weight in named:
            if weight.requires_grad:
                is_new = name.replace(".base_layer.", ".") in new
                scale = 1.0 if is_new else self.layer_decay ** (depth + 1 - layer_of(name, depth))
                scale *= self.patch_embed_scale if ".patch_embed." in name else 1.0
                scale *= self.lora_b_scale if LORA_B.search(name) else 1.0
                is_pretrained = is_of_backbone(name) and not is_adapter(name) and not is_new
                scale *= self.pretrained_scale if is_pretrained else 1.0
                decays = weight.ndim > 1 and not _is_undecayed(name)
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


def continued(proposed: Mapping[str, object], *, trains_whole_weights: bool, has_new_head: bool) -> dict[str, object]:
    """Return optimizer options for continued pretraining.

    `proposed` are the options that the objective proposes for pretraining from scratch.
    """
    return {
        **proposed,
        **CONTINUED,
        "pretrained_scale": WHOLE_WEIGHTS if trains_whole_weights else 1.0,
        "freeze": HEADS_FIRST if has_new_head else 0.0,
    }


def layer_of(name: str, depth: int) -> int:
    """Return the layer of a parameter, for layer-wise learning rates (Xiao et al., WACV 2023).

    The embedding is layer 0, the blocks are layers 1 to `depth`, and everything after them is layer `depth` + 1, as are
    adapters, which are new like the head.
    """
    if not is_of_backbone(name) or is_adapter(name):
        return depth + 1
    if ".blocks." in name:
        return int(name.split(".blocks.")[1].split(".")[0]) + 1
    return depth + 1 if ".norm." in name else 0


def is_of_backbone(name: str) -> bool:
    """Return whether a parameter of a module belongs to its backbone rather than a head or decoder."""
    return "backbone." in name


def new_weights_of(module: nn.Module) -> frozenset[str]:
    """Return the names of weights of a module that are randomly initialized in a pretrained backbone."""
    return frozenset(
        f"{prefix}.{name}".removeprefix(".")
        for prefix, part in module.named_modules()
        if isinstance(part, Backbone)
        for name in part.new_weights
    )


def is_adapter(name: str) -> bool:
    """Return whether a parameter of an adapted backbone belongs to its adapter, which is new and not pretrained."""
    return any(part in name for part in ADAPTERS)


def _is_undecayed(name: str) -> bool:
    """Return whether a parameter is excluded from weight decay although it is a matrix.

    These are tokens, positions, and scales, whose neutral value is 1.
    """
    return name.rpartition(".")[2] in UNDECAYED or ".ia3_l." in name
