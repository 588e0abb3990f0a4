"""MetaImage and NRRD through SimpleITK: .mha, .mhd, .nrrd, .nhdr. ITK says LPS; it is turned to RAS+ here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Num
from numpy import ndarray as Array

from medvit.errors import GeometryError, MedvitError, NotAnImageError, UnsupportedError
from medvit.files.guard import decoding, refusal
from medvit.files.limits import check_compressed
from medvit.geometry import Affine, lps_to_ras, to_ras
from medvit.readers.label_maps import LabelMap, as_labels, label_volume
from medvit.records import Item, Refusal
from medvit.types import Image

HEADERS = (".mha", ".mhd", ".nrrd", ".nhdr")
DETACHED = (".raw", ".zraw")
"""Voxels of a .mhd or .nhdr that names them."""

HEADER_BYTES = 65536
"""Where the name of the detached voxels must lie."""

_VOXEL_FILE = re.compile(rb"^(?:ElementDataFile *=|data ?file:)([^\r\n]+)$", re.MULTILINE | re.IGNORECASE)


class Itk:
    """MetaImage and NRRD, in 2D and 3D. The modality is not in the file: it stays empty."""

    name = "itk"

    def sniff(self, path: Path, head: bytes) -> bool:
        """Whether the file is named as one of them or begins as a NRRD."""
        return path.name.lower().removesuffix(".gz").endswith((*HEADERS, *DETACHED)) or head.startswith(b"NRRD000")

    def find(self, files: Sequence[Path]) -> Iterator[Item | Refusal]:
        """An item an image or volume; detached voxels are told of with their header."""
        detached, claimed = {file for file in files if _is_detached(file)}, set()
        for file in files:
            if file in detached:
                continue
            voxels = _voxel_file(file)
            group = (file,) if voxels == file else (file, voxels)
            claimed.add(voxels)
            try:
                with decoding("the header"):
                    dimensions = _open(file).GetDimension()
            except MedvitError as error:
                yield refusal(group, error)
            else:
                yield Item(reader=self.name, files=group, kind="image" if dimensions == 2 else "volume")
        for file in sorted(detached - claimed):
            yield refusal((file,), NotAnImageError("voxels without a header (.mhd or .nhdr) that names them"))

    def read(self, item: Item) -> Image:
        """A volume (1, I, J, K) or an image (1, H, W), in its stored type."""
        voxels, affine, mpp = _load(item.files[0])
        if affine is None:
            return Image(voxels[None], "image", item.modality, mpp=mpp)
        turned, turned_affine = to_ras(voxels[None], affine)
        return Image(turned, "volume", item.modality, turned_affine)

    def read_mask(self, path: Path) -> LabelMap:
        """The labels of a file, (I, J, K) or (H, W).

        Raises:
            DataError: If a value is not a whole number.
        """
        voxels, affine, _ = _load(path)
        return LabelMap(as_labels(voxels)) if affine is None else label_volume(voxels, affine)


def _is_detached(file: Path) -> bool:
    return file.name.lower().removesuffix(".gz").endswith(DETACHED)


def _open(path: Path) -> Any:
    import SimpleITK as sitk  # noqa: N813

    sitk.ProcessObject.SetGlobalWarningDisplay(False)  # ITK's warnings quote paths
    source = sitk.ImageFileReader()
    source.SetFileName(str(path))
    source.ReadImageInformation()
    size = source.GetSize()
    if source.GetNumberOfComponents() > 1:
        raise UnsupportedError(f"{source.GetNumberOfComponents()} numbers a voxel; expected one")
    if len(size) not in (2, 3) and any(n > 1 for n in size[3:]):
        raise UnsupportedError(f"an image of shape {size}; expected one volume: split it along its last axes")
    # SimpleITK counts no bits a voxel before reading; 8 bytes is its widest type, 1 its narrowest: the claim errs low.
    check_compressed(int(np.prod(size, dtype=np.float64)), _voxel_file(path).stat().st_size)
    is_nrrd = path.suffix.lower() in (".nrrd", ".nhdr")
    if is_nrrd and len(size) > 2 and "NRRD_space" not in source.GetMetaDataKeys():
        raise GeometryError(
            "the NRRD has no field 'space', so left and right are unknown; add 'space: left-posterior-superior'"
        )
    return source


def _voxel_file(path: Path) -> Path:
    if path.suffix.lower() not in (".mhd", ".nhdr"):
        return path
    with path.open("rb") as stream:
        named = _VOXEL_FILE.search(stream.read(HEADER_BYTES))
    beside = path.parent / named[1].decode("utf-8", "replace").strip() if named else path
    return beside if beside.is_file() else path


def _load(path: Path) -> tuple[Num[Array, "*s"], Affine | None, float | None]:
    import SimpleITK as sitk  # noqa: N813

    image = _open(path).Execute()
    voxels = sitk.GetArrayFromImage(image)  # slowest axis first
    spacing = image.GetSpacing()
    if image.GetDimension() == 2:
        # A spacing of exactly 1 is what ITK says when the file says none.
        is_isotropic = abs(spacing[0] - spacing[1]) <= 1e-3 * spacing[0] and spacing[0] != 1.0
        return voxels, None, spacing[0] * 1000.0 if is_isotropic else None
    size = image.GetDimension()
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(image.GetDirection()).reshape(size, size)[:3, :3] * np.array(spacing[:3])
    matrix[:3, 3] = image.GetOrigin()[:3]
    volume = voxels.reshape(voxels.shape[-3:]).transpose(2, 1, 0)
    return volume, Affine(lps_to_ras(matrix)), None


READER = Itk()
