"""AdaLoRA: low-rank updates whose ranks follow the importance of the layers, through huggingface/peft."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from medvit.backbones import Backbone
from medvit.config import Amount, Below, Count, Positive, Tree
from medvit.errors import ConfigError, TrainingError
from medvit.peft._hub import ADAPTER, HubConfig, Tuned
from medvit.registry import register

MOVING_AVERAGES = ("ipt", "exp_avg_ipt", "exp_avg_unc")
"""Attributes of huggingface/peft's rank allocator: importance of each parameter, and moving averages of the importance
and of its variation.
"""
FACTORS = ("lora_A", "lora_B", "lora_E")


@register
class AdaLoraConfig(HubConfig):
    """Train W + s P diag(e) Q with e = 0 at the start; less important triplets are pruned (Zhang et al., ICLR 2023).

    A triplet is an entry of e, with its column of P and its row of Q. s is alpha / initial_rank. The total rank falls
    along a cubic schedule from initial_rank to rank times the number of layers; layers of higher importance keep higher
    ranks. The epoch with the best validation metric is kept; if it is an early one, its ranks are not yet fully
    reduced.
    """

    FINETUNING_ONLY: ClassVar[bool] = True

    name: Literal["adalora"] = "adalora"
    targets: tuple[str, ...] = ("qkv", "proj", "fc1", "fc2")
    """Linear layers of each block that get a low-rank update. Give the last part of their names; fc1 includes
    fc1_g and fc1_x of a SwiGLU.
    """
    rank: Count = 8
    """Mean rank of the updates at the end of the schedule."""
    initial_rank: Count = 12
    """Rank of every update at the start, greater than `rank`."""
    alpha: Positive = 24.0
    """Scale of the low-rank updates, which are multiplied by alpha / initial_rank."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout rate of the inputs of the low-rank updates during training."""
    warmup: Below = 0.1
    """Fraction of the steps, at the start, in which all ranks are kept."""
    final: Below = 0.5
    """Fraction of the steps, at the end, in which the ranks do not change any more."""
    interval: Count = 10
    """Number of steps between two reductions of the ranks."""
    orthogonality: Amount = 0.1
    """Weight of a loss term that keeps the two low-rank factors of each update (P and Q) close to orthogonal."""

    @model_validator(mode="after")
    def _schedule_is_possible(self) -> AdaLoraConfig:
        if self.warmup + self.final >= 1.0:
            raise ValueError(
                f"warmup {self.warmup} and final {self.final} leave no steps to reduce ranks; expected a sum below 1"
            )
        if self.initial_rank <= self.rank:
            raise ValueError(
                f"initial_rank is {self.initial_rank}; expected more than rank {self.rank}, to which ranks are "
                "reduced: change one of them, or choose lora, whose ranks are constant"
            )
        return self

    def settings(self, layers: Sequence[str]) -> Any:
        """Return the configuration of huggingface/peft, whose schedule `AdaLora.begin` sets."""
        from peft import AdaLoraConfig as HubAdaLoraConfig

        return HubAdaLoraConfig(
            target_r=self.rank,
            init_r=self.initial_rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=list(layers),
            deltaT=self.interval,
            orth_reg_weight=self.orthogonality,
            total_step=1,
        )

    def tuned(self, backbone: Backbone, layers: Sequence[str]) -> AdaLora:
        """Return the backbone with low-rank updates of these layers."""
        return AdaLora(backbone, self.settings(layers), self)


class AdaLora(Tuned):
    """Backbone with low-rank updates P diag(e) Q; pruned triplets have e = 0."""

    def __init__(self, backbone: Backbone, settings: Any, config: AdaLoraConfig) -> None:
        super().__init__(backbone, settings)
        self._config = config

    @property
    def ranks(self) -> dict[str, int]:
        """Rank of each layer: the number of its triplets that are not pruned."""
        return {name: int(layer.lora_E[ADAPTER].count_nonzero()) for name, layer in self.layers()}

    def begin(self, num_steps: int) -> None:
        """Set the schedule of ranks for a number of steps.

        Raises:
            ConfigError: If there are too few steps to reduce the ranks.
        """
        warmup, final = int(self._config.warmup * num_steps), int(self._config.final * num_steps)
        # The last reduction, in step num_steps - final, needs the importance of at least one step before it.
        if num_steps - final <= max(warmup, 1):
            raise ConfigError(
                f"peft=adalora has no steps to reduce ranks: {num_steps} in total, {warmup} by peft.warmup and {final} "
                "by peft.final; train longer or lower them"
            )
        self._settings.total_step, self._settings.tinit, self._settings.tfinal = num_steps, warmup, final
        self._follow_devices()  # a state is restored before the model is moved to its device

    def penalty(self) -> Tensor:
        """Return the mean distance of the factors P and Q from orthogonality, times its weight."""
        factors = [layer.lora_A[ADAPTER] for _, layer in self.layers()]
        factors += [layer.lora_B[ADAPTER].T for _, layer in self.layers()]
        with torch.autocast(factors[0].device.type, enabled=False):
            distances = [(rows @ rows.T - torch.eye(len(rows), device=rows.device)).norm() for rows in factors]
            return self._config.orthogonality * torch.stack(distances).mean()

    def after_step(self, step: int) -> None:
        """Update the importance of triplets from the gradients, and prune the least important ones.

        A step that fp16's gradient scaler skipped is ignored: its gradients would make the averages non-finite for the
        rest of the run.

        Raises:
            TrainingError: If all steps before the last reduction were skipped.
        """
        last = self._settings.total_step - self._settings.tfinal
        if step < last and not self._has_gradients():
            return
        if step == last and not self._model.rankallocator.exp_avg_ipt:
            raise TrainingError(
                f"peft=adalora cannot reduce ranks at step {step}: no step before it had finite gradients; set "
                "trainer.precision=32-true, or lower optim.lr"
            )
        self._model.update_and_allocate(step)

    def progress(self) -> Tree:
        """Return moving averages of the importance, and the triplets that are kept."""
        allocator = self._model.rankallocator
        return {name: dict(getattr(allocator, name)) for name in MOVING_AVERAGES} | {
            "kept": self._settings.rank_pattern
        }

    def resume(self, progress: Tree) -> None:
        """Restore moving averages and triplets."""
        for name in MOVING_AVERAGES:
            setattr(self._model.rankallocator, name, dict(progress[name]))
        self._settings.rank_pattern = progress["kept"]
        self._follow_devices()

    def hub_state(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return adapter weights under their names in huggingface/peft, without pruned triplets."""
        trimmed = dict(weights)
        for layer, kept in self._kept().items():
            for factor in FACTORS:
                name = f"{layer}.{factor}.{ADAPTER}"
                trimmed[name] = weights[name][:, kept] if factor == "lora_B" else weights[name][kept]
        return super().hub_state(trimmed)

    def hub_settings(self) -> Tree:
        """Return the settings, with the triplets that are kept in each layer."""
        pattern = {f"{layer}.lora_E": kept.tolist() for layer, kept in self._kept().items()}
        return super().hub_settings() | {"rank_pattern": pattern}

    def _has_gradients(self) -> bool:
        """Return whether the step had finite gradients.

        If a gradient outside of the adapter overflowed, clipping has set the gradients of the adapter to zero.
        """
        gradients = [weight.grad for weight in self.backbone.parameters() if weight.grad is not None]
        norm = float(nn.utils.get_total_norm(gradients))
        return 0.0 < norm < math.inf

    def _follow_devices(self) -> None:
        """Move the moving averages to the devices of their weights."""
        devices = {name: weight.device for name, weight in self.backbone.named_parameters()}
        for name in MOVING_AVERAGES:
            averages: dict[str, Tensor] = getattr(self._model.rankallocator, name)
            averages.update({key: value.to(devices[key]) for key, value in averages.items()})

    def _kept(self) -> dict[str, Tensor]:
        return {name: layer.lora_E[ADAPTER].detach()[:, 0] != 0 for name, layer in self.layers()}
