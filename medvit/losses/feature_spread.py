"""Regularizers that spread the features of a batch: KoLeo, vMF kernel density, coding rate.

The batch is the joint batch of all processes: training on several devices equals training on one device with the joint
batch.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from medvit.distributed import exactly, gathered_with_gradient, num_processes, summed_with_gradient

KOLEO_EPSILON = 1e-8


def koleo_loss(features: Float[Tensor, "b d"]) -> Float[Tensor, ""]:
    """Return -mean(log d), where d is the distance of each unit-norm feature to its nearest neighbor.

    This is the regularizer KoLeo (Sablayrolles et al. 2019).

    The gradient grows as 1 / d: it explodes for near duplicates, such as neighboring slices. For a single feature, the
    loss is 0.
    """
    with exactly(features.device):
        unit = gathered_with_gradient(F.normalize(features.float(), eps=KOLEO_EPSILON, dim=-1))
        if len(unit) < 2:
            return unit.sum() * 0.0
        with torch.no_grad():
            cosine = unit @ unit.T
            cosine.fill_diagonal_(-1.0)
            nearest = cosine.argmax(dim=1)
        distance = F.pairwise_distance(unit, unit[nearest], eps=KOLEO_EPSILON)
        return -(distance + KOLEO_EPSILON).log().mean()


def kernel_density_loss(features: Float[Tensor, "b d"], *, kappa: float = 5.0) -> Float[Tensor, ""]:
    """Return mean(log sum_j exp(kappa z_i . z_j)), the log density of unit-norm features under a vMF kernel.

    Minimizing it spreads the features (Zimmermann et al., 2024, Virchow2); one published implementation has the wrong
    sign. The gradient is bounded for equal features.
    """
    with exactly(features.device):
        unit = gathered_with_gradient(F.normalize(features.float(), dim=-1))
        return (kappa * unit @ unit.T).logsumexp(dim=1).mean()


def coding_rate(features: Float[Tensor, "v b d"], *, epsilon: float = 0.05) -> Float[Tensor, ""]:
    """Return the mean over views of gamma / 2 log det(I + d / (b epsilon) Z^T Z), gamma = (d + b) / (d b).

    The coding rate (Wu et al., ICML 2025) is high if features fill their space; its negative is minimized.
    """
    with exactly(features.device):
        values = features.float()
        dim, num = values.shape[-1], values.shape[1] * num_processes()
        covariance = summed_with_gradient(torch.einsum("vbc,vbd->vcd", values, values))
        identity = torch.eye(dim, device=values.device)
        half_log_det = torch.linalg.cholesky(identity + dim / (num * epsilon) * covariance)
        half_log_det = half_log_det.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
        return (dim + num) / (dim * num) * half_log_det.mean()
