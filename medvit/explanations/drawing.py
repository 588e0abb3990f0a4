"""Files of a map: values on the grid of the image as NIfTI or npy, an overlay, and a figure with its scale."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy import ndarray as Array

from medvit.geometry import Affine, write_forms
from medvit.records import Item
from medvit.types import Image, Prediction
from medvit.writers.nifti import in_source_order

PERCENTILES = (1.0, 99.0)
"""Percentiles of the image shown as black and white."""
SIGNED, UNSIGNED = "RdBu_r", "inferno"
"""Color maps of signed and other maps."""
OPACITY = 0.65
"""Largest opacity of the colors over the image."""
SHOWN_PLANES = ((2, 1, 0, "axial"), (1, 2, 0, "coronal"), (0, 2, 1, "sagittal"))
"""Axis across each plane of a volume, axes that point down and to the side, and its name."""


@dataclass(frozen=True)
class MapPlane:
    """Image and map to draw: from 0 to 1 (H, W) or (H, W, 3), and values (H, W); and width over height in mm."""

    picture: Float[Array, "h w *c"]
    values: Float[Array, "h w"]
    name: str
    width_to_height: float


def write_map(folder: Path, image: Image, values: Float[Array, "*s"], item: Item | None = None) -> None:
    """Write the values of a map on the grid of the image: NIfTI for a volume with an affine, npy for others.

    If the volume is from a NIfTI file, `item`, its axes have the order of the file.
    """
    if image.kind != "volume" or image.affine is None:
        np.save(folder / "map.npy", values.astype(np.float32), allow_pickle=False)
    elif item is None:
        write_values(folder / "map.nii.gz", values, image.affine)
    else:
        write_values(folder / "map.nii.gz", *in_source_order(Prediction((), mask=values, affine=image.affine), item))


def write_values(path: Path, values: Float[Array, "i j k"], affine: Affine) -> None:
    """Write a volume of values as NIfTI in float32, with its affine in mm, RAS+."""
    import nibabel as nib

    volume = nib.Nifti1Image(values.astype(np.float32), affine.matrix)
    volume.header.set_xyzt_units("mm")
    write_forms(volume.header, affine)
    nib.save(nib.Nifti1Image(volume.dataobj, None, volume.header), path)


def write_overlay(path: Path, image: Image, values: Float[Array, "h w"], *, is_signed: bool) -> None:
    """Write a two-dimensional image with the map in color over it, pixel by pixel on the grid of the image."""
    from PIL import Image as Picture

    plane = planes_of(image, values)[0]
    Picture.fromarray(overlaid(plane, scale_of(values, is_signed=is_signed), is_signed=is_signed)).save(path)


def scale_of(values: Float[Array, "*s"], *, is_signed: bool) -> tuple[float, float]:
    """Return the values at the ends of the color map: symmetric about 0 for a signed map."""
    if is_signed:
        end = float(np.percentile(np.abs(values), 99.8)) or 1.0
        return -end, end
    low, high = float(values.min()), float(np.percentile(values, 99.8))
    return low, high if high > low else low + 1.0


def overlaid(plane: MapPlane, scale: tuple[float, float], *, is_signed: bool) -> UInt8[Array, "h w 3"]:
    """Return the image in gray or color, with the map over it; values near 0, or near the lowest, are transparent."""
    share = np.clip((plane.values - scale[0]) / (scale[1] - scale[0]), 0.0, 1.0)
    colors = colormaps[SIGNED if is_signed else UNSIGNED](share)[..., :3]
    strength = np.abs(2.0 * share - 1.0) if is_signed else share
    picture = plane.picture if plane.picture.ndim == 3 else np.repeat(plane.picture[..., None], 3, axis=2)
    opacity = (OPACITY * np.sqrt(strength))[..., None]
    return np.asarray(np.rint(255.0 * ((1.0 - opacity) * picture + opacity * colors)), np.uint8)


def planes_of(image: Image, values: Float[Array, "*s"]) -> list[MapPlane]:
    """Return an image, or the three planes of a volume through the largest absolute value of the map.

    The left side of a plane is the patient's right, or the front in the sagittal plane.
    """
    shown = _shown(image)
    if image.kind != "volume":
        picture = np.moveaxis(shown, 0, -1) if len(shown) == 3 else shown.mean(axis=0)
        return [MapPlane(picture, values, "", values.shape[1] / values.shape[0])]
    center = np.unravel_index(int(np.abs(values).argmax()), values.shape)
    spacing = (1.0, 1.0, 1.0) if image.affine is None else image.affine.spacing_mm
    extent = [count * step for count, step in zip(values.shape, spacing, strict=True)]
    planes = []
    for across, down, side, name in SHOWN_PLANES:
        index: list[slice | int] = [slice(None)] * 3
        index[across] = int(center[across])
        picture, own = (np.flip(volume[tuple(index)].T) for volume in (shown[0], values))
        planes.append(MapPlane(picture, own, name, extent[side] / extent[down]))
    return planes


def map_figure(image: Image, values: Float[Array, "*s"], *, is_signed: bool, label: str) -> Figure:
    """Plot each plane without and with the map, and the scale of its values."""
    planes, scale = planes_of(image, values), scale_of(values, is_signed=is_signed)
    figure = Figure(figsize=(6.4, 2.9 * len(planes)), layout="constrained")
    grid = figure.subplots(len(planes), 2, squeeze=False)
    for (bare, colored), plane in zip(grid, planes, strict=True):
        height, width = plane.values.shape
        aspect = width / height / plane.width_to_height
        bare.imshow(plane.picture, cmap="gray", vmin=0.0, vmax=1.0, aspect=aspect)
        colored.imshow(overlaid(plane, scale, is_signed=is_signed), aspect=aspect)
        for axes in (bare, colored):
            axes.set_xticks([])
            axes.set_yticks([])
        bare.set_ylabel(plane.name)
        if plane.name in ("axial", "coronal"):
            bare.text(0.02, 0.5, "R", color="white", transform=bare.transAxes, va="center")
            bare.text(0.98, 0.5, "L", color="white", transform=bare.transAxes, va="center", ha="right")
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    colors = ScalarMappable(Normalize(*scale), colormaps[SIGNED if is_signed else UNSIGNED])
    figure.colorbar(colors, ax=list(grid[:, 1]), label=label, shrink=0.85)
    return figure


def _shown(image: Image) -> Float[Array, "c *s"]:
    values = image.without_gaps().intensities()
    if image.pixels.dtype == np.uint8 and len(values) == 3:
        return values / np.float32(255.0)
    low, high = np.percentile(values, PERCENTILES)
    return np.clip((values - low) / max(float(high - low), 1e-6), 0.0, 1.0)
