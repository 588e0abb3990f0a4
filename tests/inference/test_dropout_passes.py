"""Passes with dropout vary, leave the model as it was, and do not touch the random numbers of others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from medvit.errors import ConfigError
from medvit.inference.dropout_passes import DropoutPasses


class Net(nn.Module):
    """Half of the inputs is dropped, and the sum is returned."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.drop, self.norm = nn.Dropout(p), nn.BatchNorm1d(1)

    def predict(self, pixels: Tensor) -> Tensor:
        return self.drop(pixels).sum(dim=1, keepdim=True)


def test_passes_vary_about_the_prediction_and_are_the_same_again() -> None:
    net = Net(0.5).eval()
    passes = DropoutPasses.of(net, "regression", 400)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    found, again = (passes(torch.ones(1, 100)) for _ in range(2))
    assert (torch.rand(3) == expected).all()
    assert (found == again).all()
    assert found.shape == (400, 1)
    assert found.mean() == pytest.approx(100.0, abs=2.0)  # 4 standard errors of the mean of 400 passes
    assert found.std() == pytest.approx(10.0, rel=0.15)
    assert not net.drop.training
    assert not net.norm.training
    assert net.predict(torch.ones(1, 100)).item() == 100.0


def test_models_without_dropout_and_other_tasks_are_refused() -> None:
    with pytest.raises(ConfigError, match="no dropout at prediction"):
        DropoutPasses.of(Net(0.0), "classification", 20)
    with pytest.raises(ConfigError, match="the model is a segmentation"):
        DropoutPasses.of(Net(0.5), "segmentation", 20)
