"""Loss for the time to an event with censoring, by the hazard of each time interval (logistic hazard).

Times are divided into intervals (0, t1], (t1, t2] and so on. The sigmoid of logit k is the hazard of interval k: the
probability of the event in it, given none before (Gensheimer and Narasimhan, PeerJ 2019). Within an interval, the
hazard rate is constant. For a person censored within an interval, the loss therefore counts the observed share of this
interval. The paper counts the whole interval if the person is censored after its middle, else nothing of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from medvit.losses.supervised import Loss


def survival_loss(ends: Sequence[float]) -> Loss:
    """Return the mean negative log likelihood for logits (B, K) and targets (B, 2) of time and event (1 or 0).

    `ends` are the ends of the K intervals. An event after the last end counts as no event.
    """

    def loss(logits: Tensor, targets: Tensor, progress: float = 0.0) -> Tensor:
        survived, happens = _shares(targets, ends)
        hazards = logits.float()
        return (survived * F.softplus(hazards) + happens * F.softplus(-hazards)).sum(dim=1).mean()

    return loss


def constant_logits(targets: Float[Tensor, "b 2"], ends: Sequence[float]) -> Float[Tensor, "k"]:
    """Return the logits that minimize the loss among logits that are equal for all images.

    Their hazards are the events of each interval divided by the events and the survived intervals. An interval that
    nobody survives counts as survived by half a person, and one without an event as half an event.
    """
    survived, happens = (shares.sum(dim=0).clamp(min=0.5) for shares in _shares(targets, ends))
    return torch.log(happens / survived)


def survival_curves(
    logits: Float[Tensor, "b k"], ends: Sequence[float], times: Sequence[float]
) -> Float[Tensor, "b t"]:
    """Return the probability of being without the event at each time; the hazard after the last end is constant."""
    asked, edges = (torch.tensor(each, dtype=torch.float32, device=logits.device) for each in (times, ends))
    lengths = exposures(asked, edges)
    lengths[:, -1] += ((asked - edges[-1]) / _lengths(edges)[-1]).clamp(min=0.0)
    # Not by a matrix product, which autocast would compute in 16 bits.
    return torch.exp(-(F.softplus(logits.float())[:, None] * lengths).sum(dim=2))


def exposures(times: Float[Tensor, "b"], ends: Float[Tensor, "k"]) -> Float[Tensor, "b k"]:
    """Return the share of each interval that lies before each time."""
    lengths = _lengths(ends)
    return ((times[:, None] - (ends - lengths)) / lengths).clamp(0.0, 1.0)


def _shares(targets: Float[Tensor, "b 2"], ends: Sequence[float]) -> tuple[Float[Tensor, "b k"], Float[Tensor, "b k"]]:
    """Return the share of each interval that is survived, and 1 for the interval in which the event happens."""
    times, observed = targets.float().unbind(dim=1)
    edges = torch.tensor(ends, dtype=torch.float32, device=targets.device)
    number = torch.arange(len(edges), device=targets.device)
    interval = torch.searchsorted(edges, times.contiguous())[:, None]  # the first that does not end before
    happens = (number == interval) & (observed[:, None] == 1)
    survived = torch.where(observed[:, None] == 1, (number < interval).float(), exposures(times, edges))
    return survived, happens.float()


def _lengths(ends: Float[Tensor, "k"]) -> Float[Tensor, "k"]:
    return torch.diff(ends, prepend=ends.new_zeros(1))
