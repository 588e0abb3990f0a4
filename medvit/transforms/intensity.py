"""Random changes of the intensity of a training crop: parameters are drawn apart from how they are applied.

Every change has a meaning for medical images: another display window, gamma, contrast and brightness, a coil's smooth
field, blur, noise. Hue is never touched; solarization and grayscale are off unless asked for.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from medvit.config import Amount, Below, Config, Positive, Share
from medvit.errors import ConfigError
from medvit.transforms.preprocess import Normalization
from medvit.transforms.stain import StainChange, apply_stain, draw_stain

FIELD_DEGREE = 3
"""Degree of the polynomial whose exponential is a coil's field."""


class IntensityAugmentation(Config):
    """What may happen to the intensities of a crop. Zero or an empty list turns a change off."""

    chance: Share = 0.5
    """Chance of each change but blur, which has its own."""
    contrast: Below = 0.2
    """Largest relative change of contrast about the mean: 0.2 allows 0.8 to 1.2."""
    brightness: Amount = 0.2
    """Largest shift, in standard deviations of the crop."""
    gamma: Below = 0.3
    """Largest change of gamma: 0.3 allows 0.7 to 1.3, over the crop's own range."""
    bias_field: Amount = 0.0
    """Largest coefficient of a smooth multiplicative field, as of MR coils; 0.3 is strong."""
    noise: Amount = 0.1
    """Largest standard deviation of Gaussian noise, in standard deviations of the crop."""
    blur: Amount = 1.0
    """Largest sigma of Gaussian smoothing, in pixels or voxels of the crop; the smallest is 0.1."""
    blur_chances: tuple[Share, Share, Share] = (1.0, 0.1, 0.5)
    """Chance of smoothing the first global crop, the other global crops, a local crop (Caron et al., ICCV 2021)."""
    color: Below = 0.0
    """Largest independent change of contrast of each channel, as of stain or camera."""
    stain: Below = 0.0
    """Largest relative change of hematoxylin, of eosin and of what is left, in pictures of H&E; 0.2 is strong."""
    windows: tuple[tuple[float, Positive], ...] = ()
    """Display windows as (center, width) in the unit of the image (HU for CT), one of which is drawn for a crop."""
    grayscale: Share = 0.0
    """Chance that all channels become their mean."""
    solarize: Share = 0.0
    """Chance that intensities above the middle of the crop's range are turned over."""


@dataclass(frozen=True)
class Change:
    """What is done to one crop; the neutral value of each leaves it as it is."""

    window: tuple[float, float] | None = None
    stain: StainChange | None = None
    gamma: float = 1.0
    contrast: float = 1.0
    brightness: float = 0.0
    field: tuple[float, ...] = ()
    gains: tuple[float, ...] = ()
    sigma: float = 0.0
    noise: float = 0.0
    noise_seed: int = 0
    is_gray: bool = False
    is_solarized: bool = False


def draw_change(
    config: IntensityAugmentation, generator: np.random.Generator, *, ndim: int, channels: int, kind: int
) -> Change:
    """Draw what to do to a crop; `kind` 0 is the first global crop, 1 another global crop, 2 a local one.

    The same numbers are drawn whatever is turned off, so that options do not shift each other's draws.
    """
    happens = generator.random(9) < config.chance
    gamma, contrast = 1.0 + generator.uniform(-1.0, 1.0, 2) * (config.gamma, config.contrast)
    brightness, noise = generator.uniform(-config.brightness, config.brightness), generator.uniform(0.0, config.noise)
    field = generator.uniform(-config.bias_field, config.bias_field, len(_exponents(ndim)))
    gains = 1.0 + generator.uniform(-config.color, config.color, channels)
    sigma = generator.uniform(min(0.1, config.blur), config.blur)
    blurred, gray, solarized = generator.random(3) < (config.blur_chances[kind], config.grayscale, config.solarize)
    number, seed = int(generator.integers(2**31)), int(generator.integers(2**31))
    chance = config.chance * 2**16
    return Change(
        window=config.windows[number % len(config.windows)] if config.windows and happens[0] else None,
        # Of its own seed, so that the option shifts no other draw.
        stain=draw_stain(config.stain, np.random.default_rng(seed)) if config.stain and seed % 2**16 < chance else None,
        gamma=float(gamma) if happens[1] else 1.0,
        contrast=float(contrast) if happens[2] else 1.0,
        brightness=float(brightness) if happens[3] else 0.0,
        field=tuple(field.tolist()) if happens[4] and config.bias_field else (),
        gains=tuple(gains.tolist()) if happens[5] and config.color and channels > 1 else (),
        sigma=float(sigma) if blurred else 0.0,
        noise=float(noise) if happens[6] else 0.0,
        noise_seed=seed,
        is_gray=bool(gray),
        is_solarized=bool(solarized),
    )


def apply_change(pixels: Float[Tensor, "c *s"], change: Change, scale: UnitScale | None = None) -> Tensor:
    """Return the crop after a change; `scale` gives the unit of its pixels back, which another window needs."""
    if change.window is not None:
        assert scale is not None
        pixels = scale.windowed(pixels, *change.window)
    if change.stain is not None:
        assert scale is not None
        pixels = scale.stained(pixels, change.stain)
    if change.gamma != 1.0:
        low, high = pixels.amin(), pixels.amax()
        extent = (high - low).clamp(min=1e-6)
        pixels = ((pixels - low) / extent).clamp(0.0, 1.0) ** change.gamma * extent + low
    mean, deviation = pixels.mean(), pixels.std(correction=0)
    if change.contrast != 1.0 or change.brightness:
        pixels = (pixels - mean) * change.contrast + mean + change.brightness * deviation
    if change.field:
        low = pixels.amin()
        pixels = (pixels - low) * smooth_field(tuple(pixels.shape[1:]), change.field) + low
    if change.gains:
        gains = torch.tensor(change.gains).reshape(-1, *(1,) * (pixels.ndim - 1))
        pixels = (pixels - mean) * gains + mean
    return _degraded(pixels, change, deviation)


def _degraded(pixels: Tensor, change: Change, deviation: Tensor) -> Tensor:
    if change.is_gray:
        pixels = pixels.mean(dim=0, keepdim=True).expand_as(pixels)
    if change.sigma:
        pixels = smoothed(pixels, change.sigma)
    if change.is_solarized:
        low, high = pixels.amin(), pixels.amax()
        pixels = torch.where(pixels > (low + high) / 2, low + high - pixels, pixels)
    if change.noise:
        noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(change.noise_seed))
        pixels = pixels + change.noise * deviation * noise
    return pixels


@dataclass(frozen=True)
class UnitScale:
    """From the pixels of a preprocessing to what they were before: to HU and another window, or to light."""

    intensity: Normalization

    @classmethod
    def of(cls, intensity: Normalization, config: IntensityAugmentation) -> UnitScale | None:
        """Return the scale that the windows and the stain of a config need; none where it has neither.

        Raises:
            ConfigError: If they are asked for, but the preprocessing forgets the unit of the image.
        """
        if config.stain and intensity.method != "range":
            raise ConfigError(
                "objective.views.intensity.stain needs pixels whose light is known; "
                f"found preprocess.intensity.method={intensity.method}, expected range"
            )
        if not config.windows:
            return cls(intensity) if config.stain else None
        if intensity.method != "window":
            raise ConfigError(
                "objective.views.intensity.windows needs pixels whose unit is known; "
                f"found preprocess.intensity.method={intensity.method}, expected window, as wide as all of them"
            )
        return cls(intensity)

    def stained(self, pixels: Float[Tensor, "3 h w"], change: StainChange) -> Float[Tensor, "3 h w"]:
        """Pixels as if the picture had been stained otherwise."""
        mean = torch.tensor(self.intensity.mean or (0.0,)).reshape(-1, 1, 1)
        std = torch.tensor(self.intensity.std or (1.0,)).reshape(-1, 1, 1)
        return (apply_stain((pixels * std + mean)[None], change)[0] - mean) / std

    def windowed(self, pixels: Float[Tensor, "c *s"], center: float, width: float) -> Float[Tensor, "c *s"]:
        """Pixels as if they had been preprocessed with this window; what the wide one clipped stays clipped."""
        column = (-1, *(1,) * (pixels.ndim - 1))
        mean = torch.tensor(self.intensity.mean or (0.0,)).reshape(column)
        std = torch.tensor(self.intensity.std or (1.0,)).reshape(column)
        wide = self.intensity
        values = (pixels * std + mean) * wide.window_width + wide.window_center - wide.window_width / 2.0
        return (((values - center) / width + 0.5).clamp(0.0, 1.0) - mean) / std


def smooth_field(shape: tuple[int, ...], coefficients: tuple[float, ...]) -> Float[Tensor, "*s"]:
    """Return the exponential of a polynomial of degree 3 over [-1, 1] along every axis, without a constant term."""
    axes = torch.meshgrid(*(torch.linspace(-1.0, 1.0, side) for side in shape), indexing="ij")
    exponent = torch.zeros(shape)
    for coefficient, powers in zip(coefficients, _exponents(len(shape)), strict=True):
        term = torch.full(shape, coefficient)
        for axis, power in zip(axes, powers, strict=True):
            term = term * axis**power
        exponent = exponent + term
    return exponent.exp()


def smoothed(pixels: Float[Tensor, "c *s"], sigma: float) -> Float[Tensor, "c *s"]:
    """Gaussian smoothing along every spatial axis, edges repeated; sigma in pixels or voxels."""
    radius = max(1, round(3.0 * sigma))
    weights = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    weights = (weights / weights.sum()).reshape(1, 1, -1)
    for axis in range(1, pixels.ndim):
        lines = pixels.movedim(axis, -1)
        padded = F.pad(lines.reshape(-1, 1, lines.shape[-1]), (radius, radius), mode="replicate")
        pixels = F.conv1d(padded, weights).reshape(lines.shape).movedim(-1, axis)
    return pixels


def _exponents(ndim: int) -> list[tuple[int, ...]]:
    every = itertools.product(range(FIELD_DEGREE + 1), repeat=ndim)
    return [powers for powers in every if 0 < sum(powers) <= FIELD_DEGREE]
