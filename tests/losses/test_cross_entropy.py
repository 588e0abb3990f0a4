"""The cross-entropy in pieces is the textbook's, values and gradients."""

import pytest
import torch

from medvit.losses import cross_entropy
from medvit.losses.cross_entropy import cross_entropy_rows, softmax_rows


@pytest.fixture(params=[1, 3, 100], ids="pieces of {} rows".format)
def piece_of(request, monkeypatch):
    monkeypatch.setitem(cross_entropy.PIECE_BYTES, "cpu", request.param * 4 * 13)


def rows(num: int, seed: int) -> torch.Tensor:
    return torch.randn(num, 13, generator=torch.Generator().manual_seed(seed))


@pytest.mark.usefixtures("piece_of")
@pytest.mark.parametrize("num", [0, 1, 7])
def test_values_and_gradients_are_the_textbooks(num):
    targets, factors = rows(num, 1).softmax(-1) * torch.linspace(0.5, 2.0, num)[:, None], torch.linspace(-1, 1, num)
    own, plain = rows(num, 0).requires_grad_(), rows(num, 0).double().requires_grad_()
    found = cross_entropy_rows(own, targets, 0.1)
    wanted = -(targets.double() * (plain / 0.1).log_softmax(-1)).sum(-1)
    torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=1e-6)
    (found * factors).sum().backward()
    (wanted * factors).sum().backward()
    torch.testing.assert_close(own.grad.double(), plain.grad, atol=1e-5, rtol=1e-6)


@pytest.mark.usefixtures("piece_of")
def test_the_softmax_in_pieces_is_that_of_the_whole():
    logits, center = rows(7, 0), rows(1, 1)[0]
    assert torch.equal(softmax_rows(logits, 0.04, center), ((logits - center) / 0.04).softmax(-1))


def test_logits_in_16_bits_are_read_in_32_and_get_gradients_of_their_own_type():
    logits = rows(5, 0).bfloat16().requires_grad_()
    targets = rows(5, 1).softmax(-1)
    found = cross_entropy_rows(logits, targets, 0.1)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, cross_entropy_rows(logits.detach().float(), targets, 0.1), atol=0, rtol=0)
    found.sum().backward()
    assert logits.grad.dtype == torch.bfloat16
