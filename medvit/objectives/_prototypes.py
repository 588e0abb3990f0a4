"""Number of prototypes that suits a number of training images."""

from __future__ import annotations

import math

AT_1000_IMAGES = 4096
"""Prototypes for 1,000 images; DINO's 65,536 for the 1.3 million images of ImageNet are nearly on the same curve."""
GROWTH = 0.3
"""Exponent by which the number of prototypes grows with the number of images."""
FEWEST, MOST = 256, 65536


def fitting_prototypes(num_images: int) -> int:
    """Return 4,096 (N / 1,000)^0.3 for N images, rounded on a log scale to a power of two from 256 to 65,536."""
    exact = AT_1000_IMAGES * (num_images / 1000) ** GROWTH
    return min(MOST, max(FEWEST, 2 ** round(math.log2(exact))))
