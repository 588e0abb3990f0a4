"""Steps that the gradient scaler of fp16 skips."""

from __future__ import annotations

import warnings

import lightning
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from medvit.training.lightning_module import TrainingModule
from medvit.training.optim import OptimConfig
from medvit.types import RunLength


class Averaged(TrainingModule):
    """Module whose second step has an infinite gradient; it counts the steps that changed its weight."""

    def __init__(self) -> None:
        super().__init__(OptimConfig().for_batch(1), length=RunLength(4, 1, 1), depth=1, seed=0)
        self.weight, self.after = nn.Parameter(torch.ones(1)), []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)

    def on_train_batch_start(self, batch: object, batch_idx: int) -> None:
        """Do not seed, and do not change learning rates."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return (self.weight * (float("inf") if batch_idx == 1 else 1.0)).sum()

    def after_step(self) -> None:
        self.after.append(self.weight.item())


def test_a_skipped_step_is_followed_by_nothing(tmp_path):
    module = Averaged()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lightning.Trainer(
            default_root_dir=tmp_path,
            accelerator="cpu",
            plugins=[MixedPrecision("16-mixed", "cpu", scaler)],
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(module, DataLoader(TensorDataset(torch.zeros(4, 1))))
    assert [round(value, 4) for value in module.after] == [0.99, 0.98, 0.97]
