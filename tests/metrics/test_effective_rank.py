"""The effective rank equals its definition."""

import math

import pytest
import torch

from medvit.metrics.effective_rank import effective_rank


def test_effective_rank_counts_equal_directions_and_is_one_where_all_images_look_alike():
    assert effective_rank(torch.eye(12)) == pytest.approx(12.0, rel=1e-4)
    assert effective_rank(torch.ones(12, 5)) == pytest.approx(1.0, abs=1e-4)
    shares = torch.tensor([0.5, 0.25, 0.25])
    assert effective_rank(torch.diag(shares)) == pytest.approx(math.exp(1.5 * math.log(2)), rel=1e-4)
    assert math.isnan(effective_rank(torch.tensor([[1.0, math.nan]])))
