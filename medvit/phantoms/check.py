"""Comparison of label maps predicted for CT phantoms with the true ones that were drawn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy import ndarray as Array

from medvit.geometry import Affine, to_ras
from medvit.phantoms import ct_labels

SAME_PLACE_MM = 0.01


def masks_with_truth(predictions: Path, num_studies: int, *, seed: int) -> Iterator[tuple[Path, Array, Array]]:
    """Yield each predicted NIfTI file in a folder with its true and predicted label map (I, J, K) in RAS+.

    The true label maps are those of the first `num_studies` phantoms of a seed. The phantom of a file is found by its
    position in space.
    """
    truths = [ct_labels(number, seed=seed) for number in range(num_studies)]
    for path in sorted(predictions.rglob("*.nii.gz")):
        image = nib.load(path)
        mask, affine = to_ras(np.asarray(image.dataobj), Affine(image.affine))
        (truth,) = (labels for labels, place in truths if place.is_close(affine, tolerance_mm=SAME_PLACE_MM))
        yield path, truth, mask
