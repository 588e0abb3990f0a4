"""Export of a dataset to files for other programs: NIfTI volumes, PNG images, label maps, and one JSON per image.

A NIfTI file keeps the stored type of the pixels. Its header contains the scaling (`scl_slope`, `scl_inter`), so a
reader that applies it gets values in their real unit. A PNG stores unsigned integers of 8 or 16 bits. Other values are
mapped to 16 bits (8 for color images), and the JSON gives slope and intercept. As in the manifest, patients are
identified by pseudonyms only.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange
from jaxtyping import Num
from numpy import ndarray as Array

from medvit.dataset.store import Store
from medvit.errors import DataError, OutputError, UnsupportedError
from medvit.files.atomic import replacing, write_bytes, write_text
from medvit.geometry import Affine, write_forms
from medvit.records import Row
from medvit.summary import Summary

MM = "mm"
"""Unit of NIfTI affines."""
MAX_16_BITS = 65535
NIFTI_TYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")


@dataclass(frozen=True)
class Exported:
    """Exported dataset: `num_images` images as NIfTI, PNG and JSON files, named after the images."""

    folder: Path
    num_images: int
    num_failed: int = 0

    def summary(self) -> Summary:
        """Return the numbers of images that were written and that failed."""
        return Summary([("images", f"{self.num_images} written, {self.num_failed} failed")])


@dataclass(frozen=True)
class Scaled:
    """Pixels in a type that the file format supports; the real value is `slope` * pixel + `intercept`.

    `is_lossless` states whether the stored values can be restored exactly.
    """

    pixels: Num[Array, "*s"]
    slope: float
    intercept: float
    is_lossless: bool = True


@dataclass(frozen=True)
class ExportImage:
    """Function object that exports one row of a dataset; with `compress`, NIfTI files are gzipped (`.nii.gz`)."""

    dataset: str
    store: Path
    folder: Path
    mask_classes: tuple[str, ...]
    compress: bool

    def __call__(self, row: Row) -> str:
        """Export a row; return the file name of its JSON. The JSON is written last and marks the row as exported.

        Raises:
            DataError: If the store lacks the pixels, or they cannot be written as a volume or an image.
            OutputError: If the files cannot be written, as on a full disk.
        """
        try:
            return self._written(row)
        except OSError as error:
            raise OutputError(f"{self.folder}: {row} cannot be written: {error.strerror}") from None

    def _written(self, row: Row) -> str:
        if row.kind == "slide":
            raise UnsupportedError(
                "the pixels of a slide are in its own file; to export tiles, ingest it with taking.tiles.pack=true"
            )
        store = Store(self.store)
        pixels = store.get(row.sha256)
        scaled = self._image(self.folder / self._name(row, ""), pixels, row)
        if row.mask is not None:
            self._mask(self.folder / self._name(row, "-mask"), store.get(row.mask), row)
        name = f"{row.image_id}.json"
        write_text(self.folder / name, json.dumps(self._sidecar(row, scaled), indent=2, sort_keys=True) + "\n")
        return name

    def _image(self, path: Path, pixels: Num[Array, "c *s"], row: Row) -> Scaled:
        if row.kind == "volume":
            scaled = _for_nifti(pixels, row)
            write_nifti(path, _channels_last(scaled.pixels), _affine(row), scaled.slope, scaled.intercept)
        else:
            scaled = _for_png(pixels, row)
            write_png(path, scaled.pixels)
        return scaled

    def _mask(self, path: Path, mask: Num[Array, "*s"], row: Row) -> None:
        smallest = np.uint8 if mask.max(initial=0) < 256 else np.uint16
        if row.kind == "volume":
            write_nifti(path, mask.astype(smallest), _affine(row))
        else:
            write_png(path, mask.astype(smallest)[None])

    def _name(self, row: Row, suffix: str) -> str:
        ending = ".png" if row.kind != "volume" else ".nii.gz" if self.compress else ".nii"
        return f"{row.image_id}{suffix}{ending}"

    def _sidecar(self, row: Row, scaled: Scaled) -> dict[str, Any]:
        """Return the content of the JSON: everything known about a row.

        The data type, slope and intercept are those of the exported file.
        """
        names = [self._name(row, "")] + ([self._name(row, "-mask")] if row.mask is not None else [])
        affine = None if row.affine is None else np.reshape(row.affine, (4, 4)).tolist()
        return {
            "image_id": row.image_id,
            "patient_id": row.patient_id,
            "patient_is_assumed": row.patient_is_assumed,
            "study_id": row.study_id,
            "series_id": row.series_id,
            "dataset": self.dataset,
            "modality": row.modality,
            "kind": row.kind,
            "part": row.part,
            "split": row.split,
            "labels": dict(row.labels),
            "shape": list(row.shape),
            "dtype": scaled.pixels.dtype.name,
            "stored_dtype": row.dtype,
            "spacing_mm": None if row.spacing_mm is None else list(row.spacing_mm),
            "affine": affine,
            "mpp": row.mpp,
            "slope": scaled.slope,
            "intercept": scaled.intercept,
            "unit": row.unit,
            "lossless": scaled.is_lossless,
            "mask_classes": list(self.mask_classes) if row.mask is not None else [],
            "sha256": {"pixels": row.sha256, "mask": row.mask},
            "files": {name: _hash(self.folder / name) for name in names},
        } | ({} if row.annotated is None else {"annotated_classes": list(row.annotated)})


def is_done(row: Row, folder: Path) -> bool:
    """Return whether an earlier run has exported a row: its JSON is for the same pixels, and its files exist."""
    path = folder / f"{row.image_id}.json"
    try:
        sidecar = json.loads(path.read_text(encoding="utf-8"))
        same = sidecar["sha256"] == {"pixels": row.sha256, "mask": row.mask}
        return same and all(_hash(folder / name) == digest for name, digest in sidecar["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def write_nifti(
    path: Path, voxels: Num[Array, "i j k *c"], affine: Affine, slope: float = 1.0, intercept: float = 0.0
) -> None:
    """Write voxels in their own type, atomically; the header stores `slope` and `intercept`.

    The affine, RAS+ in mm and in scanner coordinates, is written as the sform, and also as the qform if a qform can
    represent it. Equal input gives identical bytes.
    """
    import nibabel as nib

    header = nib.Nifti1Header()
    header.set_data_dtype(voxels.dtype)
    header.set_data_shape(voxels.shape)
    header.set_xyzt_units(MM)
    write_forms(header, affine)
    header.set_slope_inter(slope, intercept)
    header["magic"], header["vox_offset"] = b"n+1", header.single_vox_offset
    content = header.binaryblock + b"\0" * (int(header.single_vox_offset) - len(header.binaryblock))
    content += voxels.astype(header.get_data_dtype()).tobytes(order="F")
    if path.name.endswith(".gz"):
        content = gzip.compress(content, compresslevel=1, mtime=0)
    write_bytes(path, content)


def write_png(path: Path, pixels: Num[Array, "c h w"]) -> None:
    """Write a PNG of one or three 8-bit channels, or of one 16-bit channel, atomically.

    Raises:
        DataError: If the pixels have another number of channels or bits.
    """
    from PIL import Image as Picture

    is_color = pixels.shape[0] == 3 and pixels.dtype == np.uint8
    if not is_color and (pixels.shape[0] != 1 or pixels.dtype not in (np.uint8, np.uint16)):
        raise DataError(
            f"an image of {pixels.shape[0]} channels of {pixels.dtype}; PNG files have 1 channel of 8 or 16 bits, or "
            "3 of 8"
        )
    picture = Picture.fromarray(rearrange(pixels, "c h w -> h w c") if is_color else pixels[0])
    with replacing(path) as partial:
        picture.save(partial, format="PNG")


def _for_nifti(pixels: Num[Array, "c i j k"], row: Row) -> Scaled:
    if pixels.dtype.str[1:] in NIFTI_TYPES:
        return Scaled(pixels, row.slope, row.intercept)
    if pixels.dtype == np.bool_:
        return Scaled(pixels.astype(np.uint8), row.slope, row.intercept)
    return Scaled(pixels.astype(np.float32), row.slope, row.intercept, is_lossless=pixels.dtype == np.float16)


def _for_png(pixels: Num[Array, "c h w"], row: Row) -> Scaled:
    """Return pixels of 8 bits (or 16 bits for gray images) that represent the values as precisely as possible."""
    if pixels.dtype == np.bool_:
        return Scaled(pixels.astype(np.uint8), row.slope, row.intercept)
    top = MAX_16_BITS if pixels.shape[0] == 1 else 255
    if pixels.dtype == np.uint8 or (pixels.dtype == np.uint16 and top == MAX_16_BITS):
        return Scaled(pixels, row.slope, row.intercept)
    finite = np.isfinite(pixels)
    if not finite.all():
        raise DataError("the image has non-finite values, which a PNG cannot store")
    low, high = (float(end) for end in (pixels.min(initial=0), pixels.max(initial=0)))
    is_exact = bool(np.issubdtype(pixels.dtype, np.integer)) and high - low <= top
    step = 1.0 if is_exact or high == low else (high - low) / top
    mapped = np.rint((pixels.astype(np.float64) - low) / step).astype(np.uint16 if top == MAX_16_BITS else np.uint8)
    return Scaled(mapped, row.slope * step, row.slope * low + row.intercept, is_lossless=is_exact)


def _channels_last(pixels: Num[Array, "c i j k"]) -> Num[Array, "i j k *c"]:
    return pixels[0] if pixels.shape[0] == 1 else rearrange(pixels, "c i j k -> i j k c")


def _affine(row: Row) -> Affine:
    if row.affine is None:
        raise DataError("the volume has no affine, so its position in space is unknown; a NIfTI file requires one")
    return Affine(np.reshape(row.affine, (4, 4)))


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()
