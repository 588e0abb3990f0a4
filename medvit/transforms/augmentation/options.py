"""Options of augmentation, which are the same in every stage, and the defaults of each stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

from pydantic import model_validator

from medvit.config import Amount, Below, Share
from medvit.transforms.augmentation.erasing import ErasingAugmentation
from medvit.transforms.augmentation.intensity import IntensityAugmentation
from medvit.transforms.augmentation.spatial import SpatialAugmentation
from medvit.transforms.augmentation.units import UnitScale
from medvit.transforms.preprocess import Normalization


class Augmentation(ErasingAugmentation, IntensityAugmentation, SpatialAugmentation):
    """Augmentation of training crops. Zero or an empty list turns an augmentation off, which is the default."""

    def unit_scale(self, intensity: Normalization, *, key: str) -> UnitScale | None:
        """Return the conversion of pixels to their original unit; None if no augmentation requires it.

        `key` is the name of these options in messages.

        Raises:
            ConfigError: If the preprocessing loses the unit that an augmentation requires.
        """
        return UnitScale.of(intensity, key=key, stain=self.stain > 0, windows=bool(self.windows))


class FinetuningAugmentation(Augmentation):
    """Augmentation of training crops. Zero or an empty list turns an augmentation off."""

    RENAMED: ClassVar[Mapping[str, str]] = {"probability": "chance"}

    rotation_degrees: Amount = 15.0
    scale: Below = 0.15
    translation: Share = 0.05
    chance: Share = 0.3
    gamma: Below = 0.3
    contrast: Below = 0.25
    brightness: Amount = 0.15
    blur: Amount = 1.0
    noise: Amount = 0.1

    @model_validator(mode="after")
    def _has_one_chance_of_blur(self) -> Self:
        if len(self.blur_chances) == 3:
            raise ValueError("blur_chances has 3 numbers, but fine-tuning has one kind of crop; expected one number")
        return self


class ContrastiveAugmentation(Augmentation):
    """Augmentation of crops that should be recognized as one image. Zero or an empty list turns an augmentation off."""

    gamma: Below = 0.3
    contrast: Below = 0.2
    brightness: Amount = 0.2
    blur: Amount = 1.0
    # As published (Caron et al., ICCV 2021).
    blur_chances: tuple[Share, ...] = (1.0, 0.1, 0.5)
    noise: Amount = 0.1


class MaskedAugmentation(ContrastiveAugmentation):
    """Augmentation of crops as in DINOv2. Zero or an empty list turns an augmentation off."""

    # The published code inverts the probability of blur: it never blurs the first crop, and blurs the second with 0.9.
    blur_chances: tuple[Share, ...] = (0.0, 0.9, 0.5)
