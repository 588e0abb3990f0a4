"""Connected components of label maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from numpy import ndarray as Array
from scipy import ndimage


def keep_largest(mask: Int[Array, "*s"], labels: Sequence[int]) -> Int[Array, "*s"]:
    """Return a label map in which each of `labels` has only its largest connected component; the rest is background.

    Pixels or voxels are connected by their sides. Of equally large components, the first in memory order is kept.
    """
    kept = mask.copy()
    for label in labels:
        components, count = ndimage.label(mask == label)
        if count > 1:
            sizes = np.bincount(components.ravel())[1:]
            kept[(components > 0) & (components != 1 + sizes.argmax())] = 0
    return kept
