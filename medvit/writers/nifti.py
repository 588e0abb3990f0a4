"""A mask as a file that any tool opens: NIfTI for a volume, PNG for an image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Int
from numpy import ndarray as Array

from medvit.geometry import Affine, like, write_forms
from medvit.readers.nifti import source_affine
from medvit.records import Item
from medvit.types import Prediction


def write_nifti(path: Path, mask: Int[Array, "i j k"], affine: Affine) -> None:
    """Writes a label map with its affine in mm, RAS+, as scanner coordinates (code 1)."""
    import nibabel as nib

    volume = nib.Nifti1Image(mask.astype(np.uint8 if mask.max(initial=0) < 256 else np.uint16), affine.matrix)
    volume.header.set_xyzt_units("mm")
    write_forms(volume.header, affine)
    nib.save(nib.Nifti1Image(volume.dataobj, None, volume.header), path)


def write_png(path: Path, mask: Int[Array, "h w"]) -> None:
    """Writes a label map as a gray picture: pixel value = class index."""
    from PIL import Image as Picture

    Picture.fromarray(mask.astype(np.uint8 if mask.max(initial=0) < 256 else np.uint16)).save(path)


def in_source_order(prediction: Prediction, item: Item) -> tuple[Int[Array, "i j k"], Affine]:
    """The mask of a volume with the axes in the order of its source file, where that is a NIfTI; else in RAS+ order.

    So label map and image of a NIfTI overlay voxel by voxel also in tools that ignore the affine.
    """
    assert prediction.mask is not None
    assert prediction.affine is not None
    if item.is_resampled or not item.files[0].name.lower().endswith((".nii", ".nii.gz")):
        return prediction.mask, prediction.affine
    source = source_affine(item.files[0], item.nifti_form)
    return like(prediction.mask, prediction.affine, source), source
