"""NIfTI-1 and NIfTI-2: .nii, .nii.gz and pairs of .hdr and .img."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Num
from numpy import ndarray as Array

from medvit.errors import GeometryError, MedvitError, NotAnImageError, UnsupportedError
from medvit.files.beside import named_beside
from medvit.files.guard import decoding, refusal
from medvit.files.limits import check_compressed, check_stored
from medvit.geometry import Affine, to_ras
from medvit.readers.label_maps import LabelMap, label_volume
from medvit.readers.volume_texts import nifti_texts
from medvit.records import FileText, Item, Refusal
from medvit.types import Image

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Image

MAGIC = (b"n+1\0", b"ni1\0")
MM_PER_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
"""Codes of xyzt_units: unknown (taken as mm), meter, mm, micron."""


class Nifti:
    """NIfTI volumes. The modality is not in the file: it stays empty."""

    name = "nifti"

    def sniff(self, path: Path, head: bytes) -> bool:
        """Whether the magic of NIfTI-1 or -2 is there, or the file is named .nii, .nii.gz, .img or .img.gz."""
        named = path.name.lower().removesuffix(".gz").endswith((".nii", ".img"))
        return named or head[344:348] in MAGIC or head[4:8] in (b"n+2\0", b"ni2\0")

    def find(self, files: Sequence[Path]) -> Iterator[Item | Refusal]:
        """An item a volume; the .img of a pair is told of with its .hdr."""
        headers = {file for file in files if file.suffix.lower() == ".hdr"}
        voxels = {file for file in files if file.suffix.lower() == ".img"}
        for file in files:
            if file in voxels:
                if file.with_suffix(".hdr") not in headers:
                    error = NotAnImageError("voxels without a NIfTI header (.hdr) beside them")
                    yield refusal((file,), error)
                continue
            beside = file.with_suffix(".img")
            group = (file, beside) if file in headers and beside in voxels else (file,)
            try:
                with decoding("the NIfTI header"):
                    _open(file)
            except MedvitError as error:
                yield refusal(group, error)
            else:
                yield Item(reader=self.name, files=group, kind="volume")

    def read(self, item: Item) -> Image:
        """A volume (1, I, J, K) in its stored type, scl_slope and scl_inter as slope and intercept.

        Raises:
            GeometryError: If the file says no orientation (both sform_code and qform_code are 0).
            UnsupportedError: If it holds more than one volume, or colors.
        """
        source = _open(item.files[0])
        voxels, affine = to_ras(_stored(source)[None], _affine(source))
        slope, intercept = float(source.dataobj.slope), float(source.dataobj.inter)
        return Image(voxels, "volume", item.modality, affine, slope=slope, intercept=intercept)

    def texts(self, path: Path) -> Iterator[FileText]:
        """The texts of the header, NIfTI or Analyze, and its extensions; the voxels of a pair have none."""
        is_voxels = path.name.lower().removesuffix(".gz").endswith(".img")
        return iter(()) if is_voxels else nifti_texts(path)

    def read_mask(self, path: Path) -> LabelMap:
        """The labels of a file (I, J, K), scaled if it says so.

        Raises:
            DataError: If a value is not a whole number.
        """
        source = _open(path)
        labels = _stored(source)
        slope, intercept = float(source.dataobj.slope), float(source.dataobj.inter)
        if (slope, intercept) != (1.0, 0.0):
            labels = labels * slope + intercept
        return label_volume(labels, _affine(source))


def source_affine(path: Path) -> Affine:
    """The grid of a volume as its file has it: (i, j, k) in stored order to RAS+ mm, whatever unit the file uses."""
    return _affine(_open(path))


def _open(path: Path) -> Nifti1Image:
    import nibabel as nib

    if path.suffix.lower() == ".hdr":
        named_beside(path, _voxels_of(path).name)
    source = nib.load(path)
    if not isinstance(source, nib.Nifti1Pair):
        raise UnsupportedError("an Analyze image, which does not tell left from right; convert it to NIfTI")
    header, shape = source.header, source.shape
    if int(header["sform_code"]) == 0 and int(header["qform_code"]) == 0:
        raise GeometryError("sform_code and qform_code are both 0, so no orientation is known; set one of them")
    if any(n > 1 for n in shape[3:]):
        raise UnsupportedError(f"a NIfTI of shape {shape}; expected one volume: split it along its last axes")
    if min(shape, default=0) < 1:
        raise GeometryError(f"a NIfTI of shape {shape}; expected at least one voxel along each axis")
    stored = header.get_data_dtype()
    if stored.fields is not None or stored.kind not in "iuf":
        raise UnsupportedError("a NIfTI of colors or complex numbers; expected one real number a voxel")
    claimed = int(np.prod(shape, dtype=np.float64)) * stored.itemsize
    voxels = Path(source.file_map["image"].filename)
    check_size = check_compressed if voxels.suffix == ".gz" else check_stored
    check_size(claimed, voxels.stat().st_size)
    _affine(source)
    return source


def _voxels_of(header: Path) -> Path:
    """The .img of a .hdr, whose suffix may be in the same case or not."""
    beside = (header.with_suffix(suffix) for suffix in (".img", ".IMG"))
    return next((voxels for voxels in beside if voxels.exists()), header.with_suffix(".img"))


def _stored(source: Nifti1Image) -> Num[Array, "i j k"]:
    voxels = np.asanyarray(source.dataobj.get_unscaled())
    voxels = voxels.reshape(*source.shape[:3], *(1,) * (3 - len(source.shape[:3])))
    if voxels.dtype.kind == "f":
        return voxels.astype(np.float32)
    return voxels.astype(voxels.dtype.newbyteorder("="))


def _affine(source: Nifti1Image) -> Affine:
    unit = int(source.header["xyzt_units"]) & 7
    scale = MM_PER_UNIT.get(unit, 1.0)
    return Affine(np.diag([scale, scale, scale, 1.0]) @ source.affine)


READER = Nifti()
