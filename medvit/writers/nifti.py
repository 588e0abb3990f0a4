"""Mask of a volume as NIfTI, a label map for any tool."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int
from numpy import ndarray as Array

from medvit.geometry import Affine, like, write_forms
from medvit.readers.nifti import source_affine
from medvit.records import Item
from medvit.types import Prediction
from medvit.writers import ImageContext, ModelTask


def write_nifti(path: Path, mask: Int[Array, "i j k"], affine: Affine) -> None:
    """Write a label map with its affine in mm, RAS+, as scanner coordinates (code 1)."""
    import nibabel as nib

    volume = nib.Nifti1Image(mask.astype(np.uint8 if mask.max(initial=0) < 256 else np.uint16), affine.matrix)
    volume.header.set_xyzt_units("mm")
    write_forms(volume.header, affine)
    nib.save(nib.Nifti1Image(volume.dataobj, None, volume.header), path)


def in_source_order(prediction: Prediction, item: Item) -> tuple[Int[Array, "i j k"], Affine]:
    """Return the mask of a volume in the axis order of its source file if that is NIfTI, else in RAS+ order.

    Tools that ignore the affine can thus overlay the label map on a NIfTI image voxel by voxel.
    """
    assert prediction.mask is not None
    assert prediction.affine is not None
    if item.is_resampled or not item.files[0].name.lower().endswith((".nii", ".nii.gz")):
        return prediction.mask, prediction.affine
    source = source_affine(item.files[0], item.nifti_form)
    return like(prediction.mask, prediction.affine, source), source


class NiftiWriter:
    """Writer of `mask.nii.gz`."""

    name, title = "nifti", "NIfTI label map"
    tasks: Sequence[ModelTask] = ("segmentation",)

    def applies(self, item: Item, prediction: Prediction) -> bool:
        """Return whether the item is a volume with a known affine."""
        return prediction.mask is not None and prediction.mask.ndim == 3 and prediction.affine is not None

    def write(self, context: ImageContext, folder: Path) -> Sequence[str]:
        """Write the label map."""
        write_nifti(context.path(folder, "mask", ".nii.gz"), *in_source_order(context.prediction, context.item))
        return ()


WRITER = NiftiWriter()
