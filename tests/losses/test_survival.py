"""The survival loss is the likelihood of times and events."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from medvit.losses.survival import constant_logits, exposures, survival_curves, survival_loss

ENDS = (1.0, 2.0, 4.0)


def nll(logits, time, event):
    return float(survival_loss(ENDS)(torch.tensor([logits]), torch.tensor([[time, float(event)]])))


@pytest.mark.parametrize(
    ("time", "event", "survived", "interval"),
    [
        (0.0, True, (0, 0, 0), 0),
        (0.5, True, (0, 0, 0), 0),
        (1.0, True, (0, 0, 0), 0),
        (1.1, True, (1, 0, 0), 1),
        (4.0, True, (1, 1, 0), 2),
        (5.0, True, (1, 1, 1), None),
        (0.0, False, (0, 0, 0), None),
        (1.0, False, (1, 0, 0), None),
        (3.0, False, (1, 1, 0.5), None),
        (9.0, False, (1, 1, 1), None),
    ],
)
def test_the_loss_is_the_negative_log_likelihood(time, event, survived, interval):
    hazards = torch.tensor([0.2, 0.5, 0.3])
    likelihood = float(((1 - hazards) ** torch.tensor(survived)).prod())
    likelihood *= 1.0 if interval is None else float(hazards[interval])
    assert nll(hazards.logit().tolist(), time, event) == pytest.approx(-torch.tensor(likelihood).log().item(), abs=1e-6)


def test_without_censoring_the_loss_is_that_of_a_sequence_of_bernoulli_trials():
    generator = torch.Generator().manual_seed(0)
    logits, interval = torch.randn(20, 3, generator=generator), torch.randint(3, (20,), generator=generator)
    targets = torch.stack([torch.tensor(ENDS)[interval], torch.ones(20)], dim=1)
    number = torch.arange(3)
    each = F.binary_cross_entropy_with_logits(logits, (number == interval[:, None]).float(), reduction="none")
    expected = (each * (number <= interval[:, None])).sum(dim=1).mean()
    torch.testing.assert_close(survival_loss(ENDS)(logits, targets), expected)


def test_the_loss_of_a_censored_time_is_the_predicted_survival_up_to_it():
    logits, times = torch.tensor([[0.3, -1.0, 0.8]]), (0.4, 1.5, 2.0, 3.7)
    curve = survival_curves(logits, ENDS, times)[0]
    assert [nll(logits[0].tolist(), time, False) for time in times] == pytest.approx((-curve.log()).tolist(), abs=1e-6)


def test_predicted_survival_falls_by_the_hazards_and_continues_after_the_last_end():
    hazards = torch.tensor([[0.2, 0.5, 0.3]])
    curve = survival_curves(hazards.logit(), ENDS, (1.0, 2.0, 3.0, 4.0, 6.0))[0]
    expected = [0.8, 0.4, 0.4 * 0.7**0.5, 0.28, 0.28 * 0.7]
    assert curve.tolist() == pytest.approx(expected, abs=1e-6)


def test_curves_are_computed_in_single_precision():
    logits, times = torch.tensor([[0.31, -1.7, 0.83]]), (0.7, 3.1)
    with torch.autocast("cpu", torch.bfloat16):
        curve = survival_curves(logits, ENDS, times)
    assert curve.tolist() == survival_curves(logits, ENDS, times).tolist()


def test_the_best_hazards_are_those_of_a_life_table():
    """Events over persons at risk, of whom those who are censored count with the share of the interval they stayed."""
    targets = torch.tensor([[0.5, 1], [0.25, 0], [1.5, 1], [1.9, 1], [3.0, 0], [3.5, 1], [4.0, 0], [7.0, 0]])
    logits = torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=100, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = survival_loss(ENDS)(logits.expand(len(targets), 3), targets)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert logits.sigmoid().tolist() == pytest.approx([1 / 7.25, 2 / 6, 1 / 3.5], abs=1e-3)


def test_exposures_sum_to_the_time():
    times = torch.tensor([0.0, 0.7, 2.2, 4.0])
    lengths = torch.tensor([1.0, 1.0, 2.0])
    torch.testing.assert_close((exposures(times, torch.tensor(ENDS)) * lengths).sum(dim=1), times)


def test_constant_logits_minimize_the_loss_and_are_finite_without_survivors():
    generator = torch.Generator().manual_seed(0)
    targets = torch.stack([5.0 * torch.rand(60, generator=generator), torch.arange(60) % 3 / 1.0 > 0], dim=1).float()
    logits = constant_logits(targets, ENDS).requires_grad_()
    survival_loss(ENDS)(logits.expand(60, 3), targets).backward()
    torch.testing.assert_close(logits.grad, torch.zeros(3), atol=1e-6, rtol=0.0)
    assert constant_logits(torch.tensor([[3.0, 1.0], [4.0, 1.0]]), ENDS).isfinite().all()
