"""The mean cosine equals its definition."""

import pytest
import torch

from medvit.metrics.mean_cosine import mean_cosine


def test_mean_cosine_is_that_of_all_pairs():
    features = torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pairs = torch.nn.functional.cosine_similarity(features[:, None], features[None], dim=-1)
    off_diagonal = pairs[~torch.eye(7, dtype=torch.bool)]
    assert mean_cosine(features) == pytest.approx(float(off_diagonal.mean()), abs=1e-9)
    assert mean_cosine(torch.ones(4, 3)) == pytest.approx(1.0)
