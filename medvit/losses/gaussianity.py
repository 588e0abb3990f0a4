"""SIGReg: distance of the features of a batch from a standard normal distribution (Balestriero and LeCun, 2025).

The batch is the joint batch of all processes, so training on several devices equals training on one device with the
joint batch.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from medvit.distributed import exactly, num_processes, summed_with_gradient

MAX_FREQUENCY, NUM_KNOTS = 3.0, 17
"""Maximum frequency, and number of frequencies, at which characteristic functions are compared."""


def draw_directions(width: int, count: int, *, device: torch.device | str = "cpu") -> Float[Tensor, "d k"]:
    """Return random unit vectors as columns, the same on every device of a run.

    They are drawn with an additional first axis of size 1, so that `JointDraws` does not treat them as images of the
    batch.
    """
    return F.normalize(torch.randn(1, width, count, device=device)[0], dim=0)


def sigreg(features: Float[Tensor, "b d"], directions: Float[Tensor, "d k"]) -> Float[Tensor, ""]:
    """Return the Epps-Pulley statistic of projected features against N(0, 1), averaged over the directions.

    Along each direction, the statistic is the number of samples times the integral over t in [-3, 3] of |ecf(t) -
    exp(-t^2 / 2)|^2 exp(-t^2 / 2), where ecf is the empirical characteristic function (Balestriero and LeCun, 2025,
    sec. 4). It is smallest for samples of N(0, I), with an expectation of 1.05 for any number of samples.
    """
    with exactly(features.device):
        frequencies = torch.linspace(0.0, MAX_FREQUENCY, NUM_KNOTS, device=features.device)
        normal = (-frequencies.square() / 2).exp()
        angles = (features.float() @ directions.float())[..., None] * frequencies  # (B, K, T)
        num_samples = len(features) * num_processes()
        real = summed_with_gradient(angles.cos().sum(dim=0)) / num_samples
        imaginary = summed_with_gradient(angles.sin().sum(dim=0)) / num_samples
        distance = (real - normal).square() + imaginary.square()
        # The integrand is even: twice the trapezoid rule over the positive half.
        integral: Tensor = 2.0 * torch.trapezoid(distance * normal, frequencies, dim=-1)
        return num_samples * integral.mean()
