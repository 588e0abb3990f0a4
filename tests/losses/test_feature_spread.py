"""KoLeo, kernel density and coding rate: their definitions as loops, their signs, and near duplicates."""

import math

import pytest
import torch
from torch.nn import functional as F

from medvit.losses.feature_spread import coding_rate, kernel_density_loss, koleo_loss
from medvit.losses.gram import gram_loss

EXACT = {"atol": 1e-5, "rtol": 0}


def features(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_koleo_is_the_mean_negative_log_distance_to_the_nearest_other():
    values = F.normalize(features(7, 5).double(), dim=-1)
    distances = [min((values[i] - values[j]).norm().item() for j in range(7) if j != i) for i in range(7)]
    expected = -sum(math.log(d + 1e-8) for d in distances) / 7
    torch.testing.assert_close(koleo_loss(features(7, 5)).item(), expected, **EXACT)


def test_kernel_density_is_the_mean_log_of_summed_kernels():
    values = F.normalize(features(6, 4).double(), dim=-1)
    densities = [sum(math.exp(5 * float(values[i] @ values[j])) for j in range(6)) for i in range(6)]
    expected = sum(math.log(density) for density in densities) / 6
    torch.testing.assert_close(kernel_density_loss(features(6, 4)).item(), expected, **EXACT)


def test_the_coding_rate_is_the_published_log_determinant():
    values = F.normalize(features(2, 8, 5), dim=-1)
    rates = []
    for view in values.double():
        covariance = sum(torch.outer(z, z) for z in view)
        sign, log_det = torch.linalg.slogdet(torch.eye(5).double() + 5 / (8 * 0.05) * covariance)
        assert sign > 0
        rates.append((5 + 8) / (5 * 8) * 0.5 * log_det.item())
    torch.testing.assert_close(coding_rate(values, epsilon=0.05).item(), sum(rates) / 2, **EXACT)


@pytest.mark.parametrize(
    "loss", [koleo_loss, kernel_density_loss, lambda z: -coding_rate(F.normalize(z, dim=-1)[None])]
)
def test_minimizing_spreads_the_features(loss):
    """A published port of the kernel density has the other sign, and pulls them together."""
    values = (features(8, 4) * 0.3 + 1.0).requires_grad_()
    cosine = lambda z: (F.normalize(z, dim=-1) @ F.normalize(z, dim=-1).T).mean().item()  # noqa: E731
    before = cosine(values.detach())
    (gradient,) = torch.autograd.grad(loss(values), values)
    assert cosine(values.detach() - 0.1 * gradient) < before


def gradient_at_gap(loss, gap: float) -> float:
    values = F.normalize(features(6, 8), dim=-1)
    values[1] = values[0] + gap * F.normalize(features(8, seed=1), dim=-1)
    values.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(values), values)
    return gradient.norm().item()


def test_near_duplicates_burst_koleo_and_leave_the_kernel_density_bounded():
    koleo = [gradient_at_gap(koleo_loss, gap) for gap in (1e-1, 1e-3, 1e-5)]
    assert koleo[1] > 50 * koleo[0]
    assert koleo[2] > 50 * koleo[1]
    assert max(gradient_at_gap(kernel_density_loss, gap) for gap in (1e-1, 1e-3, 1e-5, 0.0)) < 2.0


def test_a_collapsed_batch_has_the_least_coding_rate_and_an_even_one_the_most():
    collapsed = torch.zeros(1, 16, 8)
    collapsed[..., 0] = 1.0
    even = torch.eye(8).repeat(2, 1)[None]
    gamma = (8 + 16) / (8 * 16)
    torch.testing.assert_close(coding_rate(collapsed).item(), gamma * 0.5 * math.log(1 + 8 / 0.05), **EXACT)
    torch.testing.assert_close(coding_rate(even).item(), gamma * 0.5 * 8 * math.log(1 + 1 / 0.05), **EXACT)
    other = F.normalize(features(1, 16, 8), dim=-1)
    assert coding_rate(collapsed) < coding_rate(other) < coding_rate(even)


@pytest.mark.parametrize("loss", [koleo_loss, kernel_density_loss, lambda z: coding_rate(z[None])])
@pytest.mark.parametrize("num", [1, 2])
def test_one_or_two_equal_features_give_a_number_and_a_finite_gradient(loss, num):
    values = torch.ones(num, 4).requires_grad_()
    value = loss(values)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(values.grad).all()


def test_losses_are_of_32_bits_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        for loss in (koleo_loss, kernel_density_loss):
            torch.testing.assert_close(loss(features(7, 5)), loss(features(7, 5).double()).float(), **EXACT)


def test_the_gram_loss_is_the_mean_squared_difference_of_cosines():
    student, anchor = features(2, 3, 5), features(2, 3, 5, seed=1)
    total = 0.0
    for b in range(2):
        for i in range(3):
            for j in range(3):
                pairs = [F.cosine_similarity(x[b, i].double(), x[b, j].double(), dim=0) for x in (student, anchor)]
                total += float(max(pairs[0], 0.0) - max(pairs[1], 0.0)) ** 2
    torch.testing.assert_close(gram_loss(student, anchor).item(), total / 18, **EXACT)


def test_the_gram_loss_ignores_rotation_and_scale():
    patches = features(2, 9, 6)
    rotation, _ = torch.linalg.qr(features(6, 6, seed=2))
    torch.testing.assert_close(gram_loss(3.0 * patches, patches).item(), 0.0, **EXACT)
    torch.testing.assert_close(gram_loss(patches @ rotation, patches).item(), 0.0, **EXACT)
    assert gram_loss(features(2, 9, 6, seed=3), patches).item() > 0.01


def test_gram_anchoring_mends_relations_that_drifted():
    """A linear map from drifted features learns to relate patches as the anchor does."""
    anchor = features(4, 16, 8)
    drifted = anchor + 1.5 * features(4, 16, 8, seed=5)
    weight = torch.eye(8).requires_grad_()
    optimizer = torch.optim.Adam([weight], lr=1e-2)
    before = gram_loss(drifted, anchor).item()
    for _ in range(100):
        optimizer.zero_grad()
        gram_loss(drifted @ weight, anchor).backward()
        optimizer.step()
    assert gram_loss(drifted @ weight, anchor).item() < 0.9 * before
