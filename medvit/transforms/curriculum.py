"""Curriculum from low to high resolution, with patches of noise (FastDINOv2, 2025).

Crops are small at first and have their full size later.

The curriculum is applied to a batch of crops on the training device, so the loader does not depend on the training
progress.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from medvit.config import Amount, Config, Count, Share
from medvit.types import Views


class CurriculumConfig(Config):
    """Options of the curriculum."""

    low_until: Share = 0.75
    """Fraction of the training run, at its start, with small crops. FastDINOv2 uses 0.75 (150 of 200 epochs). If no
    option in curriculum is set, all crops have full size.
    """
    low_factor: float = Field(default=0.5, gt=0.0, le=1.0)
    """Side of small crops relative to full crops, rounded to whole patches. In 2D, 0.5 gives a quarter of the tokens.
    """
    noise: tuple[Amount, Amount] = (0.8, 2.0)
    """Maximum standard deviation of the added noise: one value for small crops, one for full crops. Both are relative
    to the standard deviation of the crop.
    """
    noise_side: Count | None = None
    """Side, in pixels or voxels, of the square (2D) or cube (3D) within each crop to which noise is added. Unset: a
    random side, up to the whole crop.
    """

    def applied(self, views: Views, progress: float, patch_size: tuple[int, ...]) -> Views:
        """Return the crops for a progress in [0, 1] of the training, randomly changed by torch's generator."""
        is_low = progress < self.low_until
        factor, deviation = (self.low_factor, self.noise[0]) if is_low else (1.0, self.noise[1])
        local = None if views.local is None else self._changed(views.local, factor, deviation, patch_size)
        return replace(views, crops=self._changed(views.crops, factor, deviation, patch_size), local=local)

    def _changed(
        self, crops: Float[Tensor, "v b c *s"], factor: float, deviation: float, patch_size: tuple[int, ...]
    ) -> Float[Tensor, "v b c *t"]:
        flat = lowered(crops.flatten(0, 1), factor, patch_size)
        if deviation > 0:
            flat = noised(flat, deviation, self.noise_side)
        return flat.unflatten(0, crops.shape[:2])


def lowered(crops: Float[Tensor, "n c *s"], factor: float, patch_size: tuple[int, ...]) -> Float[Tensor, "n c *t"]:
    """Return crops whose sides are reduced by a factor and rounded to whole patches.

    In 2D, interpolation is bicubic; in 3D, voxels are averaged.
    """
    sides = zip(crops.shape[2:], patch_size, strict=True)
    size = tuple(max(1, round(side * factor / patch)) * patch for side, patch in sides)
    if size == tuple(crops.shape[2:]):
        return crops
    if len(size) == 2:
        return F.interpolate(crops, size=size, mode="bicubic", antialias=True)
    return F.interpolate(crops, size=size, mode="area")


def noised(crops: Float[Tensor, "n c *s"], deviation: float, side: int | None) -> Float[Tensor, "n c *s"]:
    """Return crops with Gaussian noise in one square or cube at a random position of each; other pixels are unchanged.

    The strength of the noise is drawn for each crop, up to `deviation` times the standard deviation of the crop. The
    side is also drawn unless `side` is given.
    """
    num, shape, device = len(crops), crops.shape[2:], crops.device
    column = (num, *(1,) * (crops.ndim - 1))
    inside = torch.ones(num, 1, *shape, dtype=torch.bool, device=device)
    share = torch.rand(num, device=device)
    for axis, length in enumerate(shape):
        sides = (share * length).long() + 1 if side is None else torch.full((num,), min(side, length), device=device)
        starts = (torch.rand(num, device=device) * (length - sides + 1)).long()
        places = torch.arange(length, device=device)
        covered = (places >= starts[:, None]) & (places < (starts + sides)[:, None])
        inside &= covered.reshape(num, 1, *(length if other == axis else 1 for other in range(len(shape))))
    strength = torch.rand(column, device=device) * deviation * crops.flatten(1).std(dim=1).reshape(column)
    return torch.where(inside, crops + strength * torch.randn_like(crops), crops)
