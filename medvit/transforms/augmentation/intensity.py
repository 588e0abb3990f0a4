"""Intensity augmentation of a training crop.

Every augmentation has a meaning for medical images: display window, stain, gamma, contrast and brightness, bias field
of an MR coil, blur, noise. Hue is never changed.

MONAI's RandGaussianNoise, RandScaleIntensity and RandBiasField are not used, because their strengths are in units of
the normalized image and thus depend on the preprocessing, and because they are slower (measured on one core, 96 voxels
per side: noise takes 11 ms instead of 3.2 ms here, a bias field 5.7 ms instead of 1.5 ms).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
import torch
from jaxtyping import Float
from pydantic import model_validator
from torch import Tensor

from medvit.config import Amount, Below, Config, Positive, Share
from medvit.transforms.augmentation.smoothing import smoothed
from medvit.transforms.augmentation.units import UnitScale
from medvit.transforms.stain import StainChange, draw_stain

Degradation = Literal["grayscale", "solarize", "blur"]

FIELD_DEGREE = 3
"""Degree of the polynomial whose exponential is the bias field."""
SMALLEST_BLUR = 0.1
"""Smallest sigma of blur that is drawn, in the unit of `blur`."""


class IntensityAugmentation(Config):
    """Options of intensity augmentation."""

    chance: Share = 0.5
    """Probability of each intensity augmentation, except those with a probability option of their own: grayscale,
    blur_chances, solarize and erasing.
    """
    windows: tuple[tuple[float, Positive], ...] = ()
    """Display windows as (center, width) in the unit of the image (HU for CT). With the probability `chance`, a random
    one of them replaces the window of the preprocessing.
    """
    stain: Below = 0.0
    """Maximum relative change of hematoxylin, eosin and the residual stain in H&E images; 0.2 is strong."""
    gamma: Below = 0.0
    """Maximum change of gamma: 0.3 allows 0.7 to 1.3. Gamma is applied within the intensity range of the crop."""
    contrast: Below = 0.0
    """Maximum relative change of contrast about the mean of the crop: 0.2 allows 0.8 to 1.2."""
    brightness: Amount = 0.0
    """Maximum shift of intensity, in standard deviations of the crop."""
    bias_field: Amount = 0.0
    """Maximum coefficient of a smooth multiplicative bias field, as in MR images; 0.3 is strong."""
    color: Below = 0.0
    """Maximum relative change of contrast of each channel independently, as between stains or cameras."""
    grayscale: Share = 0.0
    """Probability of converting a crop to grayscale: all channels become their mean."""
    blur: Amount = 0.0
    """Maximum sigma of Gaussian blur: in pixels or, for volumes, in voxels along the axis with the smallest spacing.
    The sigma in mm is the same along all axes.
    """
    blur_chances: tuple[Share, ...] = ()
    """Probability of blur: one number for all crops, or three numbers: for the first global crop, other global crops
    and local crops. Empty: the probability given by `chance`.
    """
    solarize: Share = 0.0
    """Probability of inverting the intensities above the middle of the crop's range (solarization)."""
    one_of: tuple[Degradation, ...] = ()
    """Degradations of which exactly one, drawn with equal probabilities, is applied to each crop, such as
    [grayscale,solarize,blur] (3-Augment of DeiT III). The probabilities of the named ones must be unset. Empty: each
    has its own probability.
    """
    noise: Amount = 0.0
    """Maximum standard deviation of Gaussian noise, in standard deviations of the crop."""

    @model_validator(mode="after")
    def _has_one_chance_of_blur_or_three(self) -> Self:
        if len(self.blur_chances) not in (0, 1, 3):
            raise ValueError(
                f"blur_chances has {len(self.blur_chances)} numbers; expected an empty list, one number or three"
            )
        return self

    @model_validator(mode="after")
    def _has_one_probability_of_each(self) -> Self:
        given: dict[str, object] = {"grayscale": self.grayscale, "solarize": self.solarize}
        given["blur"] = self.blur_chances if "blur_chances" in self.model_fields_set else 0
        twice = [name for name in self.one_of if given[name]]
        if twice:
            key = "blur_chances" if twice[0] == "blur" else twice[0]
            raise ValueError(f"one_of has {twice[0]}, which {key} applies as well; remove one of the two")
        if len(set(self.one_of)) < len(self.one_of):
            raise ValueError(f"one_of has a degradation twice: {', '.join(self.one_of)}; name each once")
        if "blur" in self.one_of and not self.blur:
            raise ValueError("one_of has blur, but blur, its maximum sigma, is 0; set blur, or remove it from one_of")
        return self

    def blur_chance(self, kind: int) -> float:
        """Return the probability of blur; `kind` is 0 for the first global crop, 1 for others, 2 for local crops."""
        return ((self.blur_chances or (self.chance,)) * 3)[kind]


@dataclass(frozen=True)
class IntensityChange:
    """Drawn intensity augmentation of a crop; the default of each part leaves the crop unchanged."""

    window: tuple[float, float] | None = None
    stain: StainChange | None = None
    gamma: float = 1.0
    contrast: float = 1.0
    brightness: float = 0.0
    field: tuple[float, ...] = ()
    gains: tuple[float, ...] = ()
    is_gray: bool = False
    sigma: float = 0.0
    is_solarized: bool = False
    noise: float = 0.0
    noise_seed: int = 0

    def of_channels(self, kept: Sequence[bool]) -> IntensityChange:
        """Return the augmentation of an image with only the channels that are `kept`."""
        gains = tuple(gain for gain, is_kept in zip(self.gains, kept, strict=False) if is_kept)
        return replace(self, gains=gains) if self.gains else self


def draw_intensity(
    config: IntensityAugmentation, generator: np.random.Generator, *, ndim: int, channels: int, kind: int = 0
) -> IntensityChange:
    """Draw the augmentation of a crop; `kind` 0 is the first global crop, 1 another global crop, 2 a local one."""
    windowed, stained, gammaed, scaled, shifted, covered, colored, noisy = generator.random(8) < config.chance
    number, seed = int(generator.integers(2**31)), int(generator.integers(2**31))
    stain = draw_stain(config.stain, generator)
    gamma, contrast = 1.0 + generator.uniform(-1.0, 1.0, 2) * (config.gamma, config.contrast)
    brightness = generator.uniform(-1.0, 1.0) * config.brightness
    field = generator.uniform(-1.0, 1.0, len(_exponents(ndim))) * config.bias_field
    gains = 1.0 + generator.uniform(-1.0, 1.0, channels) * config.color
    gray, blurred, solarized = generator.random(3) < (config.grayscale, config.blur_chance(kind), config.solarize)
    sigma = generator.uniform(min(SMALLEST_BLUR, config.blur), config.blur)
    noise = generator.random() * config.noise
    if config.one_of:
        only = config.one_of[seed % len(config.one_of)]  # without a draw, which would change the draws that follow
        gray, blurred, solarized = (
            name == only if name in config.one_of else drawn
            for name, drawn in (("grayscale", gray), ("blur", blurred), ("solarize", solarized))
        )
    return IntensityChange(
        window=config.windows[number % len(config.windows)] if config.windows and windowed else None,
        stain=stain if config.stain and stained else None,
        gamma=float(gamma) if gammaed else 1.0,
        contrast=float(contrast) if scaled else 1.0,
        brightness=float(brightness) if shifted else 0.0,
        field=tuple(field.tolist()) if config.bias_field and covered else (),
        gains=tuple(gains.tolist()) if config.color and channels > 1 and colored else (),
        is_gray=bool(gray),
        sigma=float(sigma) if blurred else 0.0,
        is_solarized=bool(solarized),
        noise=float(noise) if noisy else 0.0,
        noise_seed=seed,
    )


def apply_intensity(
    pixels: Float[Tensor, "c *s"],
    change: IntensityChange,
    *,
    scale: UnitScale | None = None,
    spacing: Sequence[float] | None = None,
) -> Float[Tensor, "c *s"]:
    """Return the augmented crop.

    `scale` converts the pixels back to their original unit, which windows and stain require. `spacing` is the voxel
    size along each axis, in any unit; if unset, voxels are isotropic.
    """
    if change.window is not None:
        assert scale is not None
        pixels = scale.windowed(pixels, *change.window)
    if change.stain is not None:
        assert scale is not None
        pixels = scale.stained(pixels, change.stain)
    if change.gamma != 1.0:
        low, high = pixels.aminmax()
        extent = (high - low).clamp(min=1e-6)
        pixels = ((pixels - low) / extent).clamp(0.0, 1.0) ** change.gamma * extent + low
    deviation = pixels.std(correction=0) if change.brightness or change.noise else pixels.new_zeros(())
    return _degraded(_shaded(pixels, change, deviation), change, deviation, spacing or (1.0,) * (pixels.ndim - 1))


def _shaded(pixels: Tensor, change: IntensityChange, deviation: Tensor) -> Tensor:
    """Apply contrast and brightness changes: global, position-dependent (bias field), and per channel."""
    mean = pixels.mean() if change.contrast != 1.0 or change.gains else pixels.new_zeros(())
    if change.contrast != 1.0 or change.brightness:
        pixels = (pixels - mean) * change.contrast + (mean + change.brightness * deviation)
    if change.field:
        low = pixels.amin()
        pixels = (pixels - low) * smooth_field(tuple(pixels.shape[1:]), change.field) + low
    if change.gains:
        gains = pixels.new_tensor(change.gains).reshape(-1, *(1,) * (pixels.ndim - 1))
        pixels = (pixels - mean) * gains + mean
    return pixels


def _degraded(pixels: Tensor, change: IntensityChange, deviation: Tensor, spacing: Sequence[float]) -> Tensor:
    """Apply losses of color, resolution and signal: gray conversion, blur, noise."""
    if change.is_gray:
        pixels = pixels.mean(dim=0, keepdim=True).expand_as(pixels)
    if change.sigma:
        pixels = smoothed(pixels, [change.sigma * min(spacing) / one for one in spacing])
    if change.is_solarized:
        low, high = pixels.aminmax()
        pixels = torch.where(pixels > (low + high) / 2, low + high - pixels, pixels)
    if change.noise:
        noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(change.noise_seed))
        pixels = pixels + change.noise * deviation * noise
    return pixels


def smooth_field(shape: tuple[int, ...], coefficients: tuple[float, ...]) -> Float[Tensor, "*s"]:
    """Return the exponential of a polynomial of degree 3 over [-1, 1] along every axis, without a constant term."""
    degrees = torch.arange(FIELD_DEGREE + 1)
    table = torch.zeros((len(degrees),) * len(shape))
    for coefficient, powers in zip(coefficients, _exponents(len(shape)), strict=True):
        table[powers] = coefficient
    for side in shape:  # contract the first axis, and append it as the last, with this many points
        powered = torch.linspace(-1.0, 1.0, side)[:, None] ** degrees
        table = torch.tensordot(table, powered, dims=([0], [1]))
    return table.exp()


def _exponents(ndim: int) -> list[tuple[int, ...]]:
    every = itertools.product(range(FIELD_DEGREE + 1), repeat=ndim)
    return [powers for powers in every if 0 < sum(powers) <= FIELD_DEGREE]
