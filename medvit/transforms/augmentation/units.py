"""Units of preprocessed pixels: conversion back to HU to change the window, and to light to change the stain."""

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
    """Inverse of a preprocessing, which converts preprocessed pixels back to the original unit."""

    intensity: Normalization

    @classmethod
    def of(cls, intensity: Normalization, *, key: str, stain: bool, windows: bool) -> UnitScale | None:
        """Return the conversion that stain and windows require; None if neither is used.

        `key` is the name of the augmentation options in messages.

        Raises:
            ConfigError: If stain or windows are requested, but the preprocessing loses the unit of the image.
        """
        if stain and intensity.method != "range":
            raise ConfigError(
                f"{key}.stain requires pixels with a known light intensity; found "
                f"preprocess.intensity.method={intensity.method}, expected range"
            )
        if windows and intensity.method != "window":
            raise ConfigError(
                f"{key}.windows requires pixels with a known unit; found "
                f"preprocess.intensity.method={intensity.method}, expected window, with a range that covers all of "
                "these windows"
            )
        return cls(intensity) if stain or windows else None

    def stained(self, pixels: Float[Tensor, "3 h w"], change: StainChange) -> Float[Tensor, "3 h w"]:
        """Return the pixels as if the tissue were stained with different amounts of each stain.

        Raises:
            DataError: If the image is not in color.
        """
        if pixels.ndim != 3 or pixels.shape[0] != 3:
            raise DataError(
                f"found pixels of shape {tuple(pixels.shape)}; stain augmentation requires color images (3, H, W)"
            )
        mean, std = self._standard(pixels)
        return (apply_stain((pixels * std + mean)[None], change)[0] - mean) / std

    def windowed(self, pixels: Float[Tensor, "c *s"], center: float, width: float) -> Float[Tensor, "c *s"]:
        """Return the pixels as if preprocessed with this window.

        Values clipped by the original window remain clipped.
        """
        mean, std = self._standard(pixels)
        wide = self.intensity
        values = (pixels * std + mean) * wide.window_width + wide.window_center - wide.window_width / 2.0
        return (((values - center) / width + 0.5).clamp(0.0, 1.0) - mean) / std

    def _standard(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        column = (-1, *(1,) * (pixels.ndim - 1))
        mean = torch.tensor(self.intensity.mean or (0.0,)).reshape(column)
        return mean, torch.tensor(self.intensity.std or (1.0,)).reshape(column)
