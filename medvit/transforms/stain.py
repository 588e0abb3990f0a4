"""Hematoxylin and eosin stains: separation, normalization to a reference, and random variation.

Pixels are (B, 3, H, W) in [0, 1]. Stains mix additively in optical density, -ln(light / `GLASS`). Blank glass is
excluded from statistics; an image with hardly any tissue is unchanged.

torchstain is not used: on a tile of only glass, its Macenko raises an IndexError and its Reinhard turns the tile black
(measured with version 1.4.1). Speed is not the reason: for a tile of 224 pixels, Macenko takes 14 ms in torchstain and
30 ms here, and Reinhard takes 21 ms in torchstain and 10 ms here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from medvit.config import Config, Positive

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

GLASS = 240.0
"""Intensity of light through blank glass, in gray levels (Macenko et al., ISBI 2009)."""
MIN_DENSITY = 0.15
"""Optical density below which a pixel is glass, in any channel (beta of Macenko et al.)."""
PERCENT = 1.0
"""Percentile from either end for robust extremes of angles, and of concentrations (alpha of Macenko et al.)."""
MIN_TISSUE = 0.02
"""Minimum share of tissue pixels in an image that is required to estimate the colors of tissue."""
REFERENCE_STAINS = ((0.5626, 0.2159), (0.7201, 0.8012), (0.4062, 0.5581))
REFERENCE_STRENGTH = (1.9705, 1.0308)
"""Reference: hematoxylin and eosin in red, green and blue, and their 99th percentiles (Macenko et al., ISBI 2009)."""
HED = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
"""Hematoxylin, eosin and DAB, in rows, before normalization to unit length (Ruifrok and Johnston, 2001)."""
TO_LMS = ((0.3811, 0.5783, 0.0402), (0.1967, 0.7244, 0.0782), (0.0241, 0.1288, 0.8444))
"""Matrix that converts red, green and blue to the responses of the cones of the eye (Reinhard et al., 2001, equation
4).
"""
REFERENCE_MEAN, REFERENCE_DEVIATION = (-0.7560, -0.0876, 0.0276), (0.3840, 0.0895, 0.0214)
"""Mean and standard deviation of l, alpha and beta in tissue of the slide CMU-1-Small-Region at 20x."""


class StainConfig(Config):
    """Normalization of H&E colors to a reference."""

    method: Literal["macenko", "reinhard"] = "macenko"
    """Method of normalizing H&E colors. macenko (2009): normalizes the two stains and their strength. reinhard (2001):
    normalizes the mean and spread of tissue color. Colors are normalized only if this option is set.
    """

    def __call__(self, pixels: Float[np.ndarray, "3 h w"], top: float) -> Float[np.ndarray, "3 h w"]:
        """Return one image with normalized stain; values are from 0 to `top` before and after."""
        import torch

        normalize = macenko_normalized if self.method == "macenko" else reinhard_normalized
        batch = torch.from_numpy(np.ascontiguousarray(pixels, np.float32) / np.float32(top))[None]
        return np.asarray(normalize(batch)[0].numpy() * np.float32(top))


@dataclass(frozen=True)
class Stains:
    """Stains of each image: unit `vectors` (B, 3, 2) of hematoxylin and eosin, and their `strength` (B, 2).

    `is_known` (B,) is True if the stains of an image could be measured; otherwise, it has the stains of the reference.
    """

    vectors: Float[Tensor, "b 3 2"]
    strength: Float[Tensor, "b 2"]
    is_known: Bool[Tensor, "b"]


@dataclass(frozen=True)
class StainChange:
    """Drawn factors (`gains`) and shifts of the amounts of hematoxylin, eosin and the residual."""

    gains: tuple[float, float, float]
    shifts: tuple[float, float, float]


def macenko(pixels: Float[Tensor, "b 3 h w"]) -> Stains:
    """Return the two stains of each image (Macenko et al., ISBI 2009).

    Tissue densities are projected onto their plane of largest variance; the two stains are the extreme angles in this
    plane. Hematoxylin is the stain that absorbs more red.
    """
    import torch

    density = _density(pixels)
    tissue = (density > MIN_DENSITY).all(dim=1)
    count = tissue.sum(dim=1)
    plane = _plane(density, tissue)
    along = torch.einsum("bcn,bcp->bpn", density, plane)
    low, high = _percentiles(torch.atan2(along[:, 1], along[:, 0]), tissue, (PERCENT, 100.0 - PERCENT))
    turned = torch.stack([torch.cos(low), torch.sin(low)], 1), torch.stack([torch.cos(high), torch.sin(high)], 1)
    one, other = (torch.einsum("bcp,bp->bc", plane, angle) for angle in turned)
    is_first = (one[:, 0] > other[:, 0])[:, None]
    vectors = torch.stack([torch.where(is_first, one, other), torch.where(is_first, other, one)], dim=2)
    reference = _reference(pixels)
    is_known = (count > MIN_TISSUE * tissue.shape[1]) & torch.isfinite(vectors).all(dim=(1, 2))
    vectors = torch.where(is_known[:, None, None], vectors, reference.vectors)
    amounts = _amounts(density, vectors)
    strength = torch.stack([_percentiles(amounts[:, n], tissue, (99.0,))[0] for n in range(2)], dim=1)
    is_known &= (strength > 0).all(dim=1)
    strength = torch.where(is_known[:, None], strength, reference.strength)
    return Stains(vectors, strength, is_known)


def macenko_normalized(pixels: Float[Tensor, "b 3 h w"], target: Stains | None = None) -> Float[Tensor, "b 3 h w"]:
    """Return images stained like the target; without a target, like the reference of Macenko et al."""
    import torch

    found, wanted = macenko(pixels), target or _reference(pixels)
    density = _density(pixels)
    amounts = _amounts(density, found.vectors) * (wanted.strength / found.strength)[:, :, None]
    light = _light(torch.einsum("bcs,bsn->bcn", wanted.vectors, amounts)).reshape(pixels.shape)
    return torch.where(found.is_known[:, None, None, None], light, pixels)


def reinhard_normalized(
    pixels: Float[Tensor, "b 3 h w"],
    mean: tuple[float, float, float] = REFERENCE_MEAN,
    deviation: tuple[float, float, float] = REFERENCE_DEVIATION,
) -> Float[Tensor, "b 3 h w"]:
    """Return images whose tissue has this mean and standard deviation in l, alpha, beta (Reinhard et al., 2001)."""
    import torch

    tissue = (_density(pixels) > MIN_DENSITY).all(dim=1)
    colors = to_lab(pixels).flatten(2)
    found_mean, found_deviation = tissue_statistics(colors, tissue)
    wanted_mean, wanted = (pixels.new_tensor(values)[None, :, None] for values in (mean, deviation))
    moved = (colors - found_mean[..., None]) / found_deviation[..., None].clamp(min=1e-4) * wanted + wanted_mean
    changed = _from_lab(moved).reshape(pixels.shape)
    is_known = tissue.float().mean(dim=1) > MIN_TISSUE
    glass = ~tissue.reshape(len(pixels), 1, *pixels.shape[2:])
    return torch.where(is_known[:, None, None, None] & ~glass, changed, pixels)


def tissue_statistics(
    colors: Float[Tensor, "b 3 n"], tissue: Bool[Tensor, "b n"]
) -> tuple[Float[Tensor, "b 3"], Float[Tensor, "b 3"]]:
    """Return mean and standard deviation of each channel over tissue."""
    weight = tissue[:, None].to(colors.dtype)
    count = weight.sum(dim=2).clamp(min=1.0)
    mean = (colors * weight).sum(dim=2) / count
    variance = ((colors - mean[..., None]) ** 2 * weight).sum(dim=2) / count
    return mean, variance.sqrt()


def draw_stain(strength: Positive, generator: np.random.Generator) -> StainChange:
    """Return factors within 1 +- strength, and shifts within +- a fifth of the strength."""
    gains = 1.0 + generator.uniform(-strength, strength, 3)
    shifts = generator.uniform(-strength, strength, 3) / 5.0
    return StainChange((gains[0], gains[1], gains[2]), (shifts[0], shifts[1], shifts[2]))


def apply_stain(pixels: Float[Tensor, "b 3 h w"], change: StainChange) -> Float[Tensor, "b 3 h w"]:
    """Return images with changed amounts of hematoxylin, eosin and residual (Tellez et al., 2019).

    Glass is unchanged.
    """
    import torch

    basis = pixels.new_tensor(HED)
    basis = basis / basis.norm(dim=1, keepdim=True)
    density = _density(pixels)
    amounts = torch.einsum("bcn,cs->bsn", density, torch.linalg.inv(basis))
    gains, shifts = (pixels.new_tensor(values)[None, :, None] for values in (change.gains, change.shifts))
    covered = (density.mean(dim=1, keepdim=True) / MIN_DENSITY).clamp(max=1.0)
    changed = amounts * gains + shifts * covered
    return _light(torch.einsum("bsn,sc->bcn", changed, basis)).reshape(pixels.shape)


def to_lab(pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Convert to the decorrelated color space l, alpha, beta of Ruderman et al. (Reinhard et al., 2001, equation 6)."""
    import torch

    to_lms, turn = _lab_matrices(pixels)
    lms = torch.einsum("lc,bchw->blhw", to_lms, pixels.clamp(min=1.0 / 255.0))
    return torch.einsum("al,blhw->bahw", turn, lms.log10())


def _from_lab(colors: Float[Tensor, "b 3 n"]) -> Float[Tensor, "b 3 n"]:
    import torch

    to_lms, turn = _lab_matrices(colors)
    lms = 10 ** torch.einsum("la,ban->bln", torch.linalg.inv(turn), colors)
    return torch.einsum("cl,bln->bcn", torch.linalg.inv(to_lms), lms).clamp(0.0, 1.0)


def _lab_matrices(like: Tensor) -> tuple[Tensor, Tensor]:
    scale = like.new_tensor([3.0, 6.0, 2.0]).rsqrt()
    turn = like.new_tensor([[1.0, 1.0, 1.0], [1.0, 1.0, -2.0], [1.0, -1.0, 0.0]])
    return like.new_tensor(TO_LMS), scale[:, None] * turn


def _reference(pixels: Float[Tensor, "b 3 h w"]) -> Stains:
    import torch

    size = len(pixels)
    vectors = pixels.new_tensor(REFERENCE_STAINS).expand(size, 3, 2)
    strength = pixels.new_tensor(REFERENCE_STRENGTH).expand(size, 2)
    return Stains(vectors, strength, torch.ones(size, dtype=torch.bool, device=pixels.device))


def _density(pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 n"]:
    return -((pixels.flatten(2) * 255.0 + 1.0) / GLASS).log()


def _light(density: Float[Tensor, "b 3 n"]) -> Float[Tensor, "b 3 n"]:
    return (((-density).exp() * GLASS - 1.0) / 255.0).clamp(0.0, 1.0)


def _amounts(density: Float[Tensor, "b 3 n"], vectors: Float[Tensor, "b 3 2"]) -> Float[Tensor, "b 2 n"]:
    import torch

    return torch.linalg.pinv(vectors) @ density


def _plane(density: Float[Tensor, "b 3 n"], tissue: Bool[Tensor, "b n"]) -> Float[Tensor, "b 3 2"]:
    """Return the two directions of largest variance, each oriented so that densities are positive."""
    import torch

    weight = tissue[:, None].to(density.dtype)
    count = weight.sum(dim=2).clamp(min=1.0)
    centered = (density - ((density * weight).sum(dim=2) / count)[..., None]) * weight
    _, directions = torch.linalg.eigh(centered @ centered.transpose(1, 2) / count[..., None])
    plane = directions[:, :, [2, 1]]
    return plane * torch.where(plane[:, :1] < 0, -1.0, 1.0)


def _percentiles(
    values: Float[Tensor, "b n"], chosen: Bool[Tensor, "b n"], percents: tuple[float, ...]
) -> list[Float[Tensor, "b"]]:
    """Return percentiles of the selected values of each row; infinite for a row without selected values."""
    ordered = values.masked_fill(~chosen, float("inf")).sort(dim=1).values
    last = (chosen.sum(dim=1) - 1).clamp(min=0)
    return [ordered.gather(1, (last * percent / 100.0).round().long()[:, None])[:, 0] for percent in percents]
