"""SIGReg is smallest for a standard normal distribution and equals the integral it approximates."""

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from medvit.losses.gaussianity import MAX_FREQUENCY, draw_directions, sigreg


def clouds(count: int = 4096, width: int = 8) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    normal = torch.randn(count, width)
    return {
        "collapsed": normal * 0.01,
        "narrow": normal * 0.7,
        "wide": normal * 1.4,
        "shifted": normal + 0.5,
        "bimodal": normal * 0.3 + torch.where(torch.rand(count, 1) < 0.5, 0.95, -0.95),
        "flat": torch.cat([normal[:, : width // 2], torch.zeros(count, width - width // 2)], dim=1),
    }


@pytest.mark.parametrize("name", clouds())
def test_it_is_smallest_for_samples_of_a_standard_normal_distribution(name: str) -> None:
    torch.manual_seed(1)
    directions = draw_directions(8, 256)
    normal = float(sigreg(torch.randn(4096, 8), directions))
    assert float(sigreg(clouds()[name], directions)) > 5 * normal


def test_its_expectation_for_normal_samples_does_not_depend_on_their_number() -> None:
    torch.manual_seed(0)
    directions = draw_directions(16, 64)
    found = [
        np.mean([float(sigreg(torch.randn(count, 16), directions)) for _ in range(100)]) for count in (32, 256, 1024)
    ]
    # The integral of (1 - exp(-t^2)) exp(-t^2 / 2) over [-3, 3].
    expected, _ = quad(lambda t: (1 - np.exp(-(t**2))) * np.exp(-(t**2) / 2), -MAX_FREQUENCY, MAX_FREQUENCY)
    assert found == pytest.approx([expected] * 3, rel=0.1)


def test_it_equals_the_integral_of_the_definition() -> None:
    torch.manual_seed(0)
    samples = torch.randn(40, 1) * 1.3 + 0.2
    values = samples[:, 0].double().numpy()

    def integrand(t: float) -> float:
        distance = np.abs(np.exp(1j * t * values).mean() - np.exp(-(t**2) / 2)) ** 2
        return float(distance * np.exp(-(t**2) / 2))

    expected, _ = quad(integrand, -MAX_FREQUENCY, MAX_FREQUENCY)
    # The trapezoid rule on 17 knots is within 1e-3 of the integral; on 513 it is exact to 1e-6.
    assert float(sigreg(samples, torch.ones(1, 1))) == pytest.approx(len(values) * expected, rel=1e-3)


def test_directions_have_unit_length_and_are_drawn_anew() -> None:
    first, second = draw_directions(5, 7), draw_directions(5, 7)
    torch.testing.assert_close(first.norm(dim=0), torch.ones(7))
    assert not torch.equal(first, second)


def test_its_gradient_moves_samples_towards_a_normal_distribution() -> None:
    torch.manual_seed(0)
    samples = (torch.randn(256, 4) * 0.3 + 1.0).requires_grad_()
    optimizer = torch.optim.Adam([samples], lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        sigreg(samples, draw_directions(4, 64)).backward()
        optimizer.step()
    torch.testing.assert_close(samples.mean(dim=0), torch.zeros(4), atol=0.15, rtol=0)
    torch.testing.assert_close(samples.std(dim=0), torch.ones(4), atol=0.15, rtol=0)
