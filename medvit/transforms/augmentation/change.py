"""All augmentations of one training crop, which are drawn first and applied when the crop is cut."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from medvit.channels import present_channels
from medvit.transforms.augmentation.erasing import Erasure, apply_erasure, draw_erasure
from medvit.transforms.augmentation.intensity import IntensityChange, apply_intensity, draw_intensity
from medvit.transforms.augmentation.options import Augmentation
from medvit.transforms.augmentation.spatial import CropBox, CropSampler, SpatialChange, draw_spatial
from medvit.transforms.augmentation.units import UnitScale


@dataclass(frozen=True)
class Change:
    """Drawn parameters of all augmentations of one crop."""

    spatial: SpatialChange
    intensity: IntensityChange
    erasure: Erasure | None

    @property
    def without_loss(self) -> Change:
        """Copy of this change without the augmentations that remove detail: blur, noise and erasing."""
        return replace(self, intensity=replace(self.intensity, sigma=0.0, noise=0.0), erasure=None)


@dataclass(frozen=True)
class CropDraw:
    """Parameters of one crop: its box in the image, and its augmentations."""

    box: CropBox
    change: Change

    def sampler(self, shape: tuple[int, ...], size: tuple[int, ...], spacing: tuple[float, ...] | None) -> CropSampler:
        """Return the sampler that cuts this crop, with `size` pixels, from an image of `shape` and `spacing`."""
        return CropSampler(shape, self.box, size, self.change.spatial, spacing)


def draw_change(
    config: Augmentation, generator: np.random.Generator, *, ndim: int, channels: int, kind: int = 0
) -> Change:
    """Draw the augmentations of a crop; `kind` 0 is the first global crop, 1 another global crop, 2 a local one."""
    return Change(
        draw_spatial(config, generator, ndim=ndim),
        draw_intensity(config, generator, ndim=ndim, channels=channels, kind=kind),
        draw_erasure(config, generator, ndim=ndim),
    )


def apply_change(
    image: Float[Tensor, "c *s"], sampler: CropSampler, change: Change, scale: UnitScale | None = None
) -> Float[Tensor, "c *t"]:
    """Return the augmented crop of an image, cut by the sampler. Missing channels remain missing."""
    cut = sampler.pixels(image)
    present = present_channels(cut[None])[0]
    intensity = change.intensity.of_channels(present.tolist())
    crop = apply_intensity(cut[present], intensity, scale=scale, spacing=sampler.crop_spacing)
    crop = apply_erasure(crop, change.erasure)
    if present.all():
        return crop
    whole = torch.full_like(cut, torch.nan)
    whole[present] = crop
    return whole
