"""Checks of a map: a perfect order is best, and random weights give another map."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medvit.explanations.checks import (
    cell_values,
    deletion_and_insertion,
    order_of,
    random_orders,
    rank_correlation,
    with_random_weights,
)

WEIGHTS = torch.linspace(0.0, 1.0, 16).reshape(4, 4)
"""Weight of each of 4 x 4 cells in an output that is their weighted sum."""


def value_of(images: torch.Tensor) -> torch.Tensor:
    return torch.stack([(cell_values(image[0], (2, 2)) * WEIGHTS).sum() for image in images])


def scores(order: np.ndarray) -> tuple[float, float]:
    pixels = torch.ones(1, 1, 8, 8)
    return deletion_and_insertion(value_of, pixels, torch.zeros_like(pixels), order, (2, 2), steps=16)


def test_the_descending_order_is_best_and_the_ascending_one_worst() -> None:
    best, worst = scores(order_of(WEIGHTS)), scores(order_of(-WEIGHTS))
    for order in random_orders(16, 5, seed=0):
        deletion, insertion = scores(order)
        assert best[0] < deletion < worst[0]
        assert worst[1] < insertion < best[1]


def test_deletion_and_insertion_of_a_sum_are_complementary() -> None:
    """The scores of an output that is a sum add up to the output for the image."""
    deletion, insertion = scores(random_orders(16, 1, seed=3)[0])
    assert deletion + insertion == pytest.approx(float(WEIGHTS.sum()))


def test_cells_at_the_end_may_be_smaller() -> None:
    values = torch.arange(15.0).reshape(3, 5)
    np.testing.assert_allclose(cell_values(values, (2, 2)), [[3.0, 5.0, 6.5], [10.5, 12.5, 14.0]])
    pixels = torch.ones(1, 1, 3, 5)
    order = np.arange(6)[::-1].copy()
    whole = lambda images: images.sum(dim=(1, 2, 3))  # noqa: E731
    deletion, _ = deletion_and_insertion(whole, pixels, torch.zeros_like(pixels), order, (2, 2), steps=6)
    assert deletion == pytest.approx(np.mean([15, 14, 12, 10, 8, 4, 0]))


def test_random_weights_are_a_permutation_and_leave_the_model_as_it_is() -> None:
    model = torch.nn.Linear(20, 30)
    before = model.weight.clone()
    other = with_random_weights(model, seed=1)
    torch.testing.assert_close(model.weight, before)
    assert isinstance(other, torch.nn.Linear)
    torch.testing.assert_close(other.weight.flatten().sort().values, before.flatten().sort().values)
    assert not torch.equal(other.weight, before)


def test_the_correlation_is_of_ranks_of_absolute_values() -> None:
    values = torch.randn(6, 6)
    assert rank_correlation(values, -3.0 * values.pow(3)) == pytest.approx(1.0)
    assert rank_correlation(values, torch.ones(6, 6)) == 0.0
