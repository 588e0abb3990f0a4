"""Lesions, which are the connected components of a mask, and which of them overlap the other mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool
from numpy import ndarray as Array


@dataclass(frozen=True)
class LesionCounts:
    """Numbers of lesions of a class in one image.

    Lesions are connected components, also across edges and corners. A true lesion is found if at least one of its
    voxels is predicted; a predicted lesion is false if none of its voxels is true. These are the rules of the ISLES
    2022 challenge (Hernandez Petzsche et al., Scientific Data 2022).
    """

    found: int
    """True lesions that are found."""
    missed: int
    """True lesions that are not found."""
    false: int
    """Predicted lesions that are false."""


def count_lesions(true: Bool[Array, "*s"], given: Bool[Array, "*s"]) -> LesionCounts:
    """Count the true lesions that are found and missed, and the predicted lesions that are false."""
    num_true, found = _touched(true, given)
    num_given, right = _touched(given, true)
    return LesionCounts(found=found, missed=num_true - found, false=num_given - right)


def _touched(mask: Bool[Array, "*s"], other: Bool[Array, "*s"]) -> tuple[int, int]:
    """Return the number of components of a mask, and the number of those with a voxel in the other mask."""
    from scipy.ndimage import find_objects, generate_binary_structure, label

    if not mask.any():
        return 0, 0
    box = find_objects(mask.astype(np.uint8))[0]
    components, total = label(mask[box], structure=generate_binary_structure(mask.ndim, mask.ndim))
    touched = np.unique(components[other[box]])
    return int(total), int((touched > 0).sum())
