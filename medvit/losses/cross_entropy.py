"""Cross-entropy against soft targets over very many classes, computed a few rows at a time.

Over 65536 prototypes, the scores of a thousand patches take 300 MB in float32, and the textbook formula writes this
amount about eight times. Computed in pieces that fit into the CPU cache, the same result takes a fraction of the time
and memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

PIECE_BYTES = {"cpu": 2**22}
"""Maximum bytes of the float32 scores of one piece, keyed by type of device; `PIECE_BYTES_ELSEWHERE` for other types.
"""
PIECE_BYTES_ELSEWHERE = 2**28


def cross_entropy_rows(
    logits: Float[Tensor, "n k"], targets: Float[Tensor, "n k"], temperature: float
) -> Float[Tensor, "n"]:
    """Return -sum(targets * log softmax(logits / temperature)) of each row, in float32.

    The targets do not get a gradient.
    """
    assert not targets.requires_grad
    losses: Tensor = _CrossEntropy.apply(logits, targets, temperature)
    return losses


def softmax_rows(logits: Float[Tensor, "n k"], temperature: float, center: Float[Tensor, "k"]) -> Float[Tensor, "n k"]:
    """Return softmax((logits - center) / temperature) of each row, in float32, without a gradient."""
    probabilities = torch.empty(logits.shape, dtype=torch.float32, device=logits.device)
    with torch.no_grad():
        for rows in pieces(logits):
            torch.softmax((logits[rows].float() - center) / temperature, -1, out=probabilities[rows])
    return probabilities


def sum_of_rows(logits: Float[Tensor, "n k"]) -> Float[Tensor, "k"]:
    """Return the sum over rows, in float32, without a gradient; torch's sum would copy all rows first."""
    total = torch.zeros(logits.shape[1], dtype=torch.float32, device=logits.device)
    with torch.no_grad():
        for rows in pieces(logits):
            total += logits[rows].float().sum(dim=0)
    return total


def pieces(logits: Float[Tensor, "n k"]) -> Iterator[slice]:
    """Return slices of rows whose scores in float32 are small enough to be processed at once."""
    budget = PIECE_BYTES.get(logits.device.type, PIECE_BYTES_ELSEWHERE)
    step = max(1, budget // (4 * logits.shape[1]))
    return (slice(start, start + step) for start in range(0, len(logits), step))


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
        log_sums = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
        losses = torch.empty_like(log_sums)
        for rows in pieces(logits):
            scores, wanted = _scores(logits[rows], temperature), targets[rows].float()
            log_sums[rows] = scores.logsumexp(dim=-1)
            losses[rows] = wanted.sum(dim=-1) * log_sums[rows] - (wanted * scores).sum(dim=-1)
        ctx.save_for_backward(logits, targets, log_sums)
        ctx.temperature = temperature
        return losses

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        logits, targets, log_sums = ctx.saved_tensors
        factors = gradients[0].float() / ctx.temperature
        found = torch.empty_like(logits)
        for rows in pieces(logits):
            wanted = targets[rows].float()
            scores = _scores(logits[rows], ctx.temperature)
            expected = scores.sub_(log_sums[rows, None]).exp_().mul_(wanted.sum(dim=-1, keepdim=True))
            found[rows] = expected.sub_(wanted).mul_(factors[rows, None])
        return found, None, None


def _scores(logits: Tensor, temperature: float) -> Tensor:
    return logits.to(torch.float32, copy=True).div_(temperature)
