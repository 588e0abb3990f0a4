"""Corruptions: seeded degradations of an image in five severities, which show how robust a model is.

They follow MedMNIST-C (Di Salvo et al., 2024): each modality has the degradations that occur in it, such as ghosting in
MR, speckle in ultrasound and bubbles in pathology. A corruption is a file with a constant `CORRUPTION`; the function
`change` in it gets an image whose values are scaled by their range (`scaled_image`), a level and a random generator.

All corruptions change intensities only. No pixel moves to another place in the image, so that label maps remain valid.
The random numbers depend on the seed, the image and the corruption, but not on the severity: a higher severity is the
same degradation, but stronger. Severity 0 leaves the image unchanged.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from numpy import ndarray as Array

from medvit.errors import ConfigError
from medvit.records import Kind
from medvit.registry import occupants
from medvit.seeds import mixed_seed
from medvit.transforms.corruptions.scaled_image import ScaledImage, as_stored, scaled
from medvit.types import Image

SEVERITIES = (1, 2, 3, 4, 5)

CT, MR, ULTRASOUND, TOMOGRAPHS = ("CT",), ("MR",), ("US", "IVUS"), ("OPT", "OCT")
XRAY = ("CR", "DX", "MG", "RF", "XA")
EMISSION = ("NM", "PT")
PATHOLOGY = ("SM",)
FUNDUS = ("OP",)
PHOTOS = ("DMS", "ES", "GM", "XC")
OTHER = ("", "OT", "SC")
"""Modalities of images that do not state how they were made."""
CAMERAS = (*XRAY, *FUNDUS, *PATHOLOGY, *PHOTOS)
"""Modalities whose detectors count photons."""


@dataclass(frozen=True)
class Corruption:
    """Degradation of images in five severities, of which `levels` are the strengths."""

    name: str
    title: str
    meaning: str
    """Meaning of a level, in one sentence."""
    levels: tuple[float, float, float, float, float]
    change: Callable[[ScaledImage, float, np.random.Generator], Float[Array, "c *s"]]
    """Function that returns the degraded pixels; it always draws the same random numbers, whatever the level."""
    modalities: tuple[str, ...] = ()
    """Modalities in which the degradation occurs. Empty: all."""
    kinds: tuple[Kind, ...] = ("image", "volume")
    is_for_color: bool = False
    """Whether images need three channels."""
    is_over_background: bool = False
    """Whether the degradation also changes areas that were not imaged."""

    def applies(self, image: Image) -> bool:
        """Return whether the degradation occurs in images like this one."""
        return (
            (not self.modalities or image.modality.upper() in self.modalities)
            and image.kind in self.kinds
            and (not self.is_for_color or image.pixels.shape[0] == 3)
        )

    def __call__(self, image: Image, severity: int, *, seed: int = 0) -> Image:
        """Return the image, degraded with a severity of 0 (not at all) to 5; values keep their unit and stored type.

        Raises:
            ValueError: If there is no such severity.
        """
        if severity not in (0, *SEVERITIES):
            raise ValueError(f"found severity {severity}; expected 0 to {SEVERITIES[-1]}")
        if severity == 0:
            return image
        before = scaled(image)
        pixels = self.change(before, self.levels[severity - 1], self._generator(image, seed))
        return replace(image, pixels=as_stored(image, before, pixels, keeps_background=not self.is_over_background))

    def _generator(self, image: Image, seed: int) -> np.random.Generator:
        name = "" if image.row is None else image.row.image_id
        return np.random.default_rng(mixed_seed(seed, zlib.crc32(name.encode()), zlib.crc32(self.name.encode())))


def corruptions() -> tuple[Corruption, ...]:
    """Return all corruptions, sorted by name."""
    return occupants(__name__, "CORRUPTION")


def corruptions_of(image: Image, names: tuple[str, ...] = ()) -> tuple[Corruption, ...]:
    """Return the corruptions with these names; without names, all that occur in images like this one.

    Raises:
        ConfigError: If there is no corruption of a name, or the image cannot have it, as color in a gray image.
    """
    known = {one.name: one for one in corruptions()}
    for name in names:
        if name not in known:
            raise ConfigError(f"there is no corruption {name!r}; known are {', '.join(known)}")
        needed = "three channels" if known[name].is_for_color and image.pixels.shape[0] != 3 else ""
        needed = needed or ("" if image.kind in known[name].kinds else " or ".join(f"a {k}" for k in known[name].kinds))
        if needed:
            raise ConfigError(
                f"the corruption {name} needs {needed}, and the images are {image.kind}s with {image.pixels.shape[0]} "
                "channels; remove it from corruptions"
            )
    return tuple(known[name] for name in names) if names else tuple(one for one in known.values() if one.applies(image))
