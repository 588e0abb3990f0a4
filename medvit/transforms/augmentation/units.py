"""Units of preprocessed pixels: back to HU for another display window, and to light for another stain."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from medvit.errors import ConfigError, DataError
from medvit.transforms.preprocess import Normalization
from medvit.transforms.stain import StainChange, apply_stain


@dataclass(frozen=True)
class UnitScale:
    """Way from the pixels of a preprocessing to what they were before it."""

    intensity: Normalization

    @classmethod
    def of(cls, intensity: Normalization, *, key: str, stain: bool, windows: bool) -> UnitScale | None:
        """Return the scale that changes of stain and window need; None without either. `key` is that of their config.

        Raises:
            ConfigError: If they are asked for, but the preprocessing forgets the unit of the image.
        """
        if stain and intensity.method != "range":
            raise ConfigError(
                f"{key}.stain needs pixels whose light is known; found preprocess.intensity.method={intensity.method}, "
                "expected range"
            )
        if windows and intensity.method != "window":
            raise ConfigError(
                f"{key}.windows needs pixels whose unit is known; found preprocess.intensity.method="
                f"{intensity.method}, expected window, as wide as all of them"
            )
        return cls(intensity) if stain or windows else None

    def stained(self, pixels: Float[Tensor, "3 h w"], change: StainChange) -> Float[Tensor, "3 h w"]:
        """Return the pixels as if the picture had been stained otherwise.

        Raises:
            DataError: If they are not those of a picture in color.
        """
        if pixels.ndim != 3 or pixels.shape[0] != 3:
            raise DataError(f"found pixels of shape {tuple(pixels.shape)}; a change of stain needs pictures in color")
        mean, std = self._standard(pixels)
        return (apply_stain((pixels * std + mean)[None], change)[0] - mean) / std

    def windowed(self, pixels: Float[Tensor, "c *s"], center: float, width: float) -> Float[Tensor, "c *s"]:
        """Return the pixels as if preprocessed with this window; what the wide one clipped remains clipped."""
        mean, std = self._standard(pixels)
        wide = self.intensity
        values = (pixels * std + mean) * wide.window_width + wide.window_center - wide.window_width / 2.0
        return (((values - center) / width + 0.5).clamp(0.0, 1.0) - mean) / std

    def _standard(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        column = (-1, *(1,) * (pixels.ndim - 1))
        mean = torch.tensor(self.intensity.mean or (0.0,)).reshape(column)
        return mean, torch.tensor(self.intensity.std or (1.0,)).reshape(column)
