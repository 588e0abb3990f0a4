"""Random changes of training images for fine-tuning, through MONAI.

Mild and medical by default: no hue, no solarization, no flips unless asked for, since sides and colors mean something.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch

from medvit.config import Amount, Axis, Below, Config, Share
from medvit.transforms.padding import pad_about
from medvit.types import Sample

ERASED = (0.02, 0.33)
"""Least and largest share of an image that is erased."""


class AugmentConfig(Config):
    """Augmentation of training images. Zero or an empty list turns a change off."""

    probability: Share = 0.3
    """Chance of each change of intensity; the change of place always happens."""
    rotation_degrees: Amount = 15.0
    """Largest rotation, about every axis of a volume."""
    scale: Below = 0.15
    """Largest change of size: 0.15 allows 0.85 to 1.15."""
    translation: Share = 0.05
    """Largest shift, as a share of the image."""
    flipped_axes: tuple[Axis, ...] = ()
    """Spatial axes along which the image is flipped half of the time (0 is left-right of a volume)."""
    noise: Amount = 0.1
    """Largest standard deviation of Gaussian noise, in units of the normalized image."""
    blur: Amount = 1.0
    """Largest sigma of Gaussian smoothing, in pixels or voxels."""
    contrast: Below = 0.25
    """Largest relative change of contrast: 0.25 allows 0.75 to 1.25."""
    brightness: Amount = 0.15
    """Largest shift of intensity, in units of the normalized image."""
    gamma: Below = 0.3
    """Largest change of gamma: 0.3 allows 0.7 to 1.3."""
    bias_field: Amount = 0.0
    """Largest coefficient of a smooth multiplicative field, as of MR coils; 0.3 is strong."""

    erasing: Share = 0.0
    """Chance that a box of 2 to 33 % of an image is filled with noise (random erasing, Zhong et al. 2020)."""

    def erase(self, size: tuple[int, ...]) -> list[Any]:
        """Return the MONAI transform that fills a box of `pixels` with noise as strong as a normalized image.

        If asked for.
        """
        from monai.transforms import RandCoarseDropoutd

        if not self.erasing:
            return []
        low, high = ([max(1, round(share ** (1 / len(size)) * side)) for side in size] for share in ERASED)
        noise = (-math.sqrt(3.0), math.sqrt(3.0))  # uniform, of variance 1
        return [RandCoarseDropoutd("pixels", 1, low, max_spatial_size=high, fill_value=noise, prob=self.erasing)]

    def intensity(self) -> list[Any]:
        """MONAI transforms of intensities, of the key `pixels`."""
        from monai.transforms import (
            RandAdjustContrastd,
            RandBiasFieldd,
            RandGaussianNoised,
            RandGaussianSmoothd,
            RandScaleIntensityd,
            RandShiftIntensityd,
        )

        chance, sigma = self.probability, (0.3, self.blur)
        smooth = {f"sigma_{axis}": sigma for axis in "xyz"}
        offered = [
            (self.contrast, lambda: RandScaleIntensityd("pixels", self.contrast, prob=chance)),
            (self.brightness, lambda: RandShiftIntensityd("pixels", self.brightness, prob=chance)),
            (self.gamma, lambda: RandAdjustContrastd("pixels", prob=chance, gamma=(1 - self.gamma, 1 + self.gamma))),
            (self.bias_field, lambda: RandBiasFieldd("pixels", coeff_range=(0.0, self.bias_field), prob=chance)),
            (self.blur, lambda: RandGaussianSmoothd("pixels", **smooth, prob=chance)),
            (self.noise, lambda: RandGaussianNoised("pixels", prob=chance, std=self.noise)),
        ]
        return [make() for amount, make in offered if amount > 0]

    def spatial(self, keys: tuple[str, ...], size: tuple[int, ...]) -> list[Any]:
        """MONAI transforms of place, of `pixels` and, nearest-neighbor, of `target`; the result has the given size."""
        from monai.transforms import RandAffined, RandFlipd

        angles = [math.radians(self.rotation_degrees)] * (3 if len(size) == 3 else 1)
        modes = {"pixels": "bilinear", "target": "nearest"}
        affine = RandAffined(
            keys,
            prob=1.0,
            rotate_range=angles,
            scale_range=[self.scale] * len(size),
            translate_range=[self.translation * n for n in size],
            spatial_size=size,
            mode=[modes[key] for key in keys],
            padding_mode="border",
            cache_grid=True,
        )
        return [affine, *(RandFlipd(keys, prob=0.5, spatial_axis=axis) for axis in self.flipped_axes)]


class Augment:
    """Cuts a training crop of a fixed size out of a sample and changes it at random, by the seed alone.

    With a mask as target, images larger than the crop are cut about the foreground half of the time.
    """

    def __init__(self, config: AugmentConfig, size: tuple[int, ...], *, masks: bool) -> None:
        self.config, self.size, self.masks = config, size, masks

    def __call__(self, sample: Sample, seed: int) -> Sample:
        """Return the changed crop."""
        tensors = {"pixels": sample.pixels}
        if self.masks:
            assert sample.target is not None
            tensors["target"] = sample.target[None]
        self._chain.set_random_state(seed=seed % 2**32)
        changed = self._chain(tensors)
        if isinstance(changed, list):  # MONAI's crop about the foreground gives a list of one
            changed = changed[0]
        target = changed["target"][0].long() if self.masks else sample.target
        return replace(sample, pixels=changed["pixels"].float().contiguous(), target=target)

    @cached_property
    def _chain(self) -> Any:
        from monai.data.meta_obj import set_track_meta
        from monai.transforms import Compose, RandCropByPosNegLabeld, RandSpatialCropd

        set_track_meta(False)
        keys = ("pixels", "target") if self.masks else ("pixels",)
        pad = partial(_padded, size=self.size)
        if self.masks:
            crop: Any = RandCropByPosNegLabeld(keys, label_key="target", spatial_size=self.size, num_samples=1)
        else:
            crop = RandSpatialCropd(keys, roi_size=self.size, random_size=False)
        spatial, erase = self.config.spatial(keys, self.size), self.config.erase(self.size)
        return Compose([pad, crop, *spatial, *self.config.intensity(), *erase])


def _padded(tensors: dict[str, torch.Tensor], size: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """Return padded on all sides as inference does: pixels by their lowest value, masks by background."""
    padded = {"pixels": pad_about(tensors["pixels"][None], size)[0][0]}
    if "target" in tensors:
        padded["target"] = pad_about(tensors["target"][None], size, value=0.0)[0][0]
    return padded
