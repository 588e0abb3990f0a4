"""Corrections of class imbalance: the published formulas, and their effects."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medvit.errors import DataError
from medvit.losses.class_balance import DEFERRED_FROM, ClassBalance
from medvit.losses.supervised import classification_loss
from medvit.training.loading.epochs import EpochSampler

LONG_TAIL = (1000, 100, 10)


def test_the_optimum_with_adjusted_logits_is_the_posterior_of_equally_frequent_classes() -> None:
    joint = torch.tensor([[60.0, 6.0, 1.0], [30.0, 14.0, 9.0]])  # images of two kinds (rows) and three classes
    loss = classification_loss(ClassBalance("logits", joint.sum(dim=0).int().tolist()), smoothing=0.0)
    logits = torch.zeros(2, 3, requires_grad=True)
    kinds, classes = (each.flatten() for each in torch.meshgrid(torch.arange(2), torch.arange(3), indexing="ij"))
    times = joint.int().flatten()
    kinds, classes = kinds.repeat_interleave(times), classes.repeat_interleave(times)
    optimizer = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss(logits[kinds], classes)
        value.backward()
        return value

    optimizer.step(step)
    likelihood = joint / joint.sum(dim=0)
    expected = likelihood / likelihood.sum(dim=1, keepdim=True)
    torch.testing.assert_close(logits.detach().softmax(dim=1), expected, atol=1e-3, rtol=0.0)


def test_deferred_weights_sum_to_the_number_of_classes_and_follow_effective_numbers() -> None:
    balance = ClassBalance("deferred", LONG_TAIL)
    assert balance.weights(DEFERRED_FROM - 0.01) is None
    weights = balance.weights(DEFERRED_FROM)
    assert weights is not None
    assert weights.sum() == pytest.approx(3.0)
    effective = [sum(0.9999**power for power in range(count)) for count in LONG_TAIL]
    np.testing.assert_allclose(weights * effective, weights[0] * effective[0], rtol=1e-9)


def test_the_share_of_the_rarest_class_in_the_gradient_grows_when_weights_begin() -> None:
    loss = classification_loss(ClassBalance("deferred", LONG_TAIL), smoothing=0.0)

    def share(progress: float) -> float:
        logits = torch.zeros(3, 3, requires_grad=True)
        loss(logits, torch.arange(3), progress).backward()
        assert logits.grad is not None
        sizes = logits.grad.abs().sum(dim=1)
        return float(sizes[2] / sizes.sum())

    assert share(0.0) == pytest.approx(1 / 3)
    assert share(0.9) > 0.8


@pytest.mark.parametrize("method", ["repeat", "sampler"])
def test_classes_are_drawn_as_often_as_the_formula_says(method) -> None:
    counts = (60, 30, 6)
    odds = ClassBalance(method, counts).odds
    assert odds is not None
    factors = {
        "repeat": [1.0, np.sqrt((1 / 3) / (30 / 96)), np.sqrt((1 / 3) / (6 / 96))],
        "sampler": 1 / np.array(counts),
    }
    expected = np.array(counts) * factors[method]
    classes = np.repeat(np.arange(3), counts)
    num_draws = 3000
    sampler = EpochSampler(len(classes), draws_per_epoch=num_draws, seed=0, weights=odds[classes].tolist())
    found = np.bincount(classes[[draw.index for draw in sampler]], minlength=3) / num_draws
    share = expected / expected.sum()
    assert (np.abs(found - share) < 3.5 * np.sqrt(share * (1 - share) / num_draws)).all()  # standard errors


def test_without_a_correction_nothing_is_weighted() -> None:
    balance = ClassBalance("off", (3, 0))
    assert balance.weights(1.0) is balance.offsets is balance.odds is None


@pytest.mark.parametrize("method", ["loss", "logits", "deferred"])
def test_a_class_without_images_is_refused_where_the_loss_needs_its_count(method) -> None:
    with pytest.raises(DataError, match=f"balance={method} requires; exclude it or set balance=off"):
        ClassBalance(method, (3, 0))
