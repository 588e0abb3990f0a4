"""Mixing of the images of a batch and of their targets: mixup and CutMix.

Each image is mixed with the image at the mirrored position of the batch, with one mixture for the whole batch
(mixup: Zhang et al., ICLR 2018; CutMix: Yun et al., ICCV 2019).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from medvit.config import Amount, Config
from medvit.errors import ConfigError


class MixingConfig(Config):
    """Mixing of the images of a batch, for classification. Zero turns a method off."""

    mixup: Amount = 0.0
    """Alpha of mixup, which averages two images and their targets; the share of one is drawn from Beta(alpha, alpha).
    If `cutmix` is set too, one of the two is drawn for each batch.
    """
    cutmix: Amount = 0.0
    """Alpha of CutMix, which replaces a box of an image by the same box of another image. The targets of both are mixed
    in proportion to the areas.
    """

    @property
    def is_on(self) -> bool:
        """Whether images are mixed."""
        return bool(self.mixup or self.cutmix)

    def require_pairs(self, batch_size: int) -> None:
        """Check that a batch has at least two images to mix.

        Raises:
            ConfigError: If batches have one image.
        """
        if batch_size < 2:
            raise ConfigError(
                f"mixing.* mixes the images of a batch, and loader.batch_size={batch_size}; expected at least 2"
            )


@dataclass(frozen=True)
class Mixture:
    """Drawn mixture: the share of each image's own target, and the replaced box; without a box, images are averaged."""

    share: float
    box: tuple[slice, ...] | None = None


def draw_mixture(config: MixingConfig, shape: tuple[int, ...], generator: np.random.Generator) -> Mixture | None:
    """Draw a mixture for a batch of crops with a spatial shape; None if images are not mixed.

    The box of CutMix is clipped at the faces of the crop, and the share follows from the clipped box.
    """
    methods = [name for name in ("mixup", "cutmix") if getattr(config, name)]
    if not methods:
        return None
    method = methods[generator.integers(len(methods))]
    alpha = getattr(config, method)
    share = float(generator.beta(alpha, alpha))
    if method == "mixup":
        return Mixture(share)
    side = (1.0 - share) ** (1 / len(shape))
    box = tuple(_clipped(size, side * size, generator.uniform(0, size)) for size in shape)
    replaced = np.prod([part.stop - part.start for part in box]) / np.prod(shape)
    return Mixture(float(1.0 - replaced), box)


def apply_mixture(pixels: Float[Tensor, "b c *s"], mixture: Mixture) -> Float[Tensor, "b c *s"]:
    """Return the mixed images; the share of the other image's target is 1 - `mixture.share`."""
    other = pixels.flip(0)
    if mixture.box is None:
        return mixture.share * pixels + (1.0 - mixture.share) * other
    mixed = pixels.clone()
    inside = (slice(None), slice(None), *mixture.box)
    mixed[inside] = other[inside]
    return mixed


def _clipped(size: int, side: float, center: float) -> slice:
    start, stop = round(center - side / 2), round(center + side / 2)
    return slice(max(0, start), min(size, stop))
